"""Tar shards: bytes depend on the members only, and every tool reads them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from shards.tar import Member, TarWriter

NAMES = st.text("abcXYZ019_-~", min_size=1, max_size=80).map(lambda key: f"{key}.flac")
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=2000)), unique_by=lambda m: m[0], max_size=6)


def write(path: Path, members: Iterable[tuple[str, bytes]]) -> list[Member]:
    with TarWriter(path) as tar:
        return [tar.add(name, content) for name, content in members]


@given(MEMBERS)
def test_members_round_trip_through_tarfile(members: list[tuple[str, bytes]]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "shard.tar"
        placed = write(path, members)
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            read = [(info.name, tar.extractfile(info).read()) for info in tar]
    assert read == members
    for member, (name, content) in zip(placed, members, strict=True):
        assert member == Member(name, member.offset, len(content))
        assert data[member.offset : member.offset + member.bytes] == content
    assert len(data) % tarfile.RECORDSIZE == 0
    assert data.endswith(b"\0" * 1024)


def test_headers_hold_nothing_of_time_or_person(tmp_path: Path) -> None:
    write(tmp_path / "shard.tar", [("a.flac", b"x"), ("a.json", b"{}")])
    with tarfile.open(tmp_path / "shard.tar") as tar:
        for info in tar:
            owner = (info.uid, info.gid, info.uname, info.gname)
            assert (info.mtime, info.mode, *owner) == (0, 0o644, 0, 0, "", "")
            assert not info.pax_headers


def test_the_same_members_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, [("k.flac", b"x" * 700), ("k.json", b"{}")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_tar_cut_short_by_an_error_has_no_end(tmp_path: Path) -> None:
    def fail() -> None:
        with TarWriter(tmp_path / "shard.tar") as tar:
            tar.add("a.flac", b"x")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert (tmp_path / "shard.tar").stat().st_size == 1024


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's own
def test_stock_webdataset_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    write(path, [("a.flac", b"1"), ("a.json", b"{}"), ("b~2e~.flac", b"2"), ("b~2e~.json", b"[]")])
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    assert [(sample["__key__"], sample["flac"]) for sample in samples] == [
        ("a", b"1"),
        ("b~2e~", b"2"),
    ]
