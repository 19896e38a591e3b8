"""Tars and Parquet files with strange members, names, columns and damage."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from pipeline.planning import catalogue
from pipeline.verbs import run_verb
from tests.hub import AUDIO, add, clip_id, config_of, flac, rows_of, tar_config


def test_links_directories_and_giants_are_no_clips(tmp_path: Path, hub: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    names = [clip_id(n) for n in range(6)]
    with tarfile.open(root / "odd.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, f"{names[0]}.flac", flac(0))
        add(tar, f"{names[1]}.flac", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, f"{names[2]}.flac", b"", type=tarfile.LNKTYPE, linkname=f"{names[0]}.flac")
        add(tar, f"../../{names[3]}.flac", flac(3))
        add(tar, f"/abs/{'d' * 120}/{names[4]}.flac", flac(4))
        info = tarfile.TarInfo(f"{names[5]}.flac")
        info.size = 0
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    config = config_of(hub, tmp_path / "run", "*.tar")
    source = config.source.model_copy(update={"root": str(root)})
    assert run_verb(config.model_copy(update={"source": source}), "shard") == 0
    rows = rows_of(config)
    reasons = [rows[name]["reason"] for name in names]
    assert reasons == [None, "missing", "missing", None, None, "missing"]
    assert not list(tmp_path.glob("*.flac"))


def test_what_is_no_tar_or_parquet_file_is_named(tmp_path: Path, hub: Path) -> None:
    for name, said in (("bad.tar", "is no tar file"), ("bad.parquet", "is no Parquet file")):
        (tmp_path / name).write_bytes(b"hello" * 400)
        config = config_of(hub, tmp_path / "run", name)
        source = config.source.model_copy(update={"root": str(tmp_path)})
        with pytest.raises(InputError, match=rf"{name} {said}"):
            catalogue(config.model_copy(update={"source": source}))


def test_a_parquet_file_without_the_columns_is_refused_by_name(tmp_path: Path, hub: Path) -> None:
    pq.write_table(pa.table({"video_id": ["a"], "sound": ["b"]}), tmp_path / "other.parquet")
    config = config_of(hub, tmp_path / "run", "other.parquet", listed=False)
    source = config.source.model_copy(update={"root": str(tmp_path)})
    with pytest.raises(InputError, match=r"other\.parquet: it needs the columns .*audio\.bytes"):
        catalogue(config.model_copy(update={"source": source}))


AUDIO_VALUES = pa.array([{"bytes": b"x", "path": "x"}] * 2, AUDIO)


@pytest.mark.parametrize(
    "columns",
    [
        {"video_id": ["a", None], "labels": [["/m/a"]] * 2},
        {"video_id": [1, 2], "labels": [["/m/a"]] * 2},
        {"video_id": ["a", "b"], "labels": [["/m/a"], None]},
        {"video_id": ["a", "b"], "labels": [["/m/a"], [None]]},
        {"video_id": ["a", "b"], "labels": ["/m/a", "/m/b"]},
        {"video_id": ["a", "b"]},
    ],
)
def test_a_parquet_list_with_gaps_or_other_types_is_refused_by_name(
    tmp_path: Path, hub: Path, columns: dict[str, Any]
) -> None:
    pq.write_table(pa.table({**columns, "audio": AUDIO_VALUES}), tmp_path / "odd.parquet")
    config = config_of(hub, tmp_path / "run", "odd.parquet", listed=False)
    source = config.source.model_copy(update={"root": str(tmp_path)})
    with pytest.raises(InputError, match=r"odd\.parquet: it needs the columns .*without gaps"):
        catalogue(config.model_copy(update={"source": source}))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_are_no_ascii_are_found_again(hub: Path, tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        add(tar, "données/été.flac", flac(1))
        add(tar, f"données/{'x' * 120}.flac", flac(2))
    config = tar_config(hub, tmp_path, ["été", "x" * 120])
    assert run_verb(config, "shard") == 0
    assert {row["status"] for row in rows_of(config).values()} == {"ok"}


def test_audio_counts_more_than_what_lies_beside_it_and_the_last_of_a_name(
    hub: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("a.json", b"{}"), ("a.flac", flac(1)), ("a.txt", b"a cat")):
            add(tar, name, data)
        for number in (2, 3):
            add(tar, "b.flac", flac(number))
    config = tar_config(hub, tmp_path, ["a", "b"])
    assert run_verb(config, "shard") == 0
    hashes = {key: row["source_sha256"] for key, row in rows_of(config).items()}
    wanted = {"a": flac(1), "b": flac(3)}
    assert hashes == {key: hashlib.sha256(data).hexdigest() for key, data in wanted.items()}


def test_a_damaged_header_is_no_end_of_the_tar(hub: Path, tmp_path: Path) -> None:
    """The members behind it would be missing without a word."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            add(tar, f"{number}.flac", flac(number))
    data = bytearray((tmp_path / "a.tar").read_bytes())
    at = data.index(b"2.flac\0")
    data[at] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.tar: the header at byte {at} is damaged"):
        catalogue(tar_config(hub, tmp_path, ["0", "3"]))
