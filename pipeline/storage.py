"""Where source audio lies: a local directory, or an address that fsspec knows, as `hf://...`."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import IO, Any

from configs.errors import InputError
from pipeline.audio.refusal import ClipRefused


def is_remote(root: str) -> bool:
    return "://" in root


def open_binary(root: str, path: str) -> IO[bytes]:
    """A file below a root, unbuffered, for reading and seeking.

    Raises OSError as the file system does, and ClipRefused for what is no regular file: to open
    a pipe would wait for ever.
    """
    if is_remote(root):
        file: IO[bytes] = _file_system(root).open(join(root, path), "rb", cache_type="none")
        return file
    if "\0" in path:
        raise ClipRefused("missing", f"{path!r}: no name of a file")
    local = Path(root, path)
    if not stat.S_ISREG(local.stat().st_mode):
        raise ClipRefused("not_a_file", f"{path}: no regular file")
    return local.open("rb", buffering=0)


def find(root: str, pattern: str) -> list[str]:
    """Paths below a root that match a glob pattern, sorted."""
    if not is_remote(root):
        return sorted(path.relative_to(root).as_posix() for path in Path(root).glob(pattern))
    base = join(root, "").partition("://")[2].rstrip("/")
    found = _file_system(root).glob(join(root, pattern).partition("://")[2])
    return sorted(str(path)[len(base) :].lstrip("/") for path in found)


def join(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path}"


def require(root: str, config_key: str = "source.root") -> None:
    """Raises InputError if the root itself is not there: not one clip would decode."""
    if is_remote(root):
        if not _file_system(root).exists(root):
            raise InputError(f"{config_key}: nothing at {root}")
    elif not Path(root).is_dir():
        raise InputError(f"{config_key}: {root} is no directory; set it to where the audio is")


def _file_system(root: str) -> Any:
    import fsspec

    try:
        return fsspec.core.url_to_fs(root)[0]
    except (ImportError, ValueError) as error:
        raise InputError(f"{root}: {error}") from None
