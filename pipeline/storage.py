"""Where source audio lies: a local directory, or an address that fsspec knows, as `hf://...`."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import IO, Any

from configs.errors import InputError
from pipeline.audio.refusal import ClipRefused

# fmt: off
AUDIO_SUFFIXES = frozenset((
    ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".flac", ".m4a",
    ".mka", ".mp2", ".mp3", ".mp4", ".mpga", ".oga", ".ogg", ".opus",
    ".tta", ".w64", ".wav", ".wave", ".webm", ".wma", ".wv",
))
# fmt: on

UNSEEN = "not to be seen"


def is_audio_name(path: str) -> bool:
    """Whether a name looks like audio's. Only for choosing among files: what a file really is, its
    bytes say."""
    return PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES


def is_remote(root: str) -> bool:
    return "://" in root


def absolute(root: str) -> str:
    """A root as processes in other directories understand it."""
    return root if is_remote(root) else str(Path(root).absolute())


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


def sight(root: str, path: str) -> dict[str, str]:
    """Whether a file below a source's root, which is there, can be read from here, too."""
    if is_remote(root):  # an address is the same everywhere, and its faults pass
        return {}
    try:
        with open_binary(root, path) as file:
            file.read(1)
    except (OSError, ClipRefused):
        return {root: UNSEEN}
    return {root: "to be seen"}


def find(root: str, pattern: str) -> list[str]:
    """Paths below a root that match a glob pattern, sorted."""
    if not is_remote(root):
        return sorted(path.relative_to(root).as_posix() for path in Path(root).glob(pattern))
    base = join(root, "").partition("://")[2].rstrip("/")
    found = _file_system(root).glob(join(root, pattern).partition("://")[2])
    return sorted(str(path)[len(base) :].lstrip("/") for path in found)


def files(root: str) -> list[str]:
    """All files below a root, sorted; links to directories are followed, hidden names are not.

    Raises InputError for a name that is no UTF-8: no plan could hold it.
    """
    if is_remote(root):
        return [path for path in find(root, "**/*") if not _is_hidden(path)]
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, directories, names in os.walk(root, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a directory above
            directories.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        directories[:] = [name for name in directories if not name.startswith(".")]
        below = Path(place).relative_to(root)
        found += [(below / name).as_posix() for name in names if not name.startswith(".")]
    for path in found:
        if not path.isprintable() and _is_no_text(path):
            raise InputError(f"source.root: {root}: {path!r} is no UTF-8 name; rename it")
    return sorted(found)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _is_no_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return True
    return False


def join(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path}"


def require(root: str) -> None:
    """Raises InputError if the root itself is not there: not one clip would decode."""
    if is_remote(root):
        if not _file_system(root).exists(root):
            raise InputError(f"source.root: nothing at {root}")
    elif not Path(root).is_dir():
        raise InputError(f"source.root: {root} is no directory; set it to where the audio is")


def _file_system(root: str) -> Any:
    import fsspec

    try:
        return fsspec.core.url_to_fs(root)[0]
    except (ImportError, ValueError) as error:
        raise InputError(f"{root}: {error}") from None
