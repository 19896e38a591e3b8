"""ESC-10 as a folder, ESC-50 as published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from configs.sources import EscSource
from pipeline.sources import read_source
from pipeline.sources.esc import lists, read
from shards.plan import CLIP_SCHEMA

ESC50_HEAD = "filename,fold,target,category,esc10,src_file,take"
ESC50_ROWS = [
    "1-100032-A-0.wav,1,0,dog,True,100032,A",
    "1-100038-A-14.wav,1,14,chirping_birds,False,100038,A",
    "2-117271-A-41.wav,2,41,chainsaw,True,117271,A",
    "5-9032-A-0.wav,5,0,dog,True,9032,A",
]


def source_of(root: Path, **over: Any) -> EscSource:
    return EscSource.model_validate({"kind": "esc", "root": str(root), **over})


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join([ESC50_HEAD, *ESC50_ROWS]) + "\n")
    return tmp_path


def test_esc10_as_it_lies_here(esc10: Path) -> None:
    catalogue = read_source(source_of(esc10))
    clips = catalogue.clips.to_pydict()
    assert (catalogue.task, catalogue.clips.schema) == ("multiclass", CLIP_SCHEMA)
    assert len(set(clips["id"])) == 400
    assert Counter(clips["fold"]) == dict.fromkeys(range(1, 6), 80)
    assert Counter(label for [label] in clips["labels"]) == dict.fromkeys(range(10), 40)
    assert all((esc10 / path).is_file() for path in clips["path"])
    assert all(clip_id[0] == str(f) for clip_id, f in zip(clips["id"], clips["fold"], strict=True))
    assert catalogue.classes[0].name == "dog_bark"
    assert len(set(clips["group"])) < 400, "some recordings gave several takes"
    takes = [i for i, group in zip(clips["id"], clips["group"], strict=True) if group == "2-95258"]
    assert {clip_id[:8] for clip_id in takes} == {"2-95258-"}
    assert len(takes) > 1


def test_esc50_as_published(esc50: Path) -> None:
    catalogue = read(source_of(esc50))
    clips = catalogue.clips.to_pydict()
    assert clips["id"] == [row.split(".")[0] for row in ESC50_ROWS]
    assert clips["path"][0] == "audio/1-100032-A-0.wav"
    assert clips["fold"] == [1, 1, 2, 5]
    assert clips["labels"] == [[0], [1], [2], [0]]
    assert clips["group"] == ["1-100032", "1-100038", "2-117271", "5-9032"]
    assert [(c.id, c.name) for c in catalogue.classes] == [
        ("0", "dog"),
        ("14", "chirping_birds"),
        ("41", "chainsaw"),
    ]
    assert clips["duration_s"] == [None] * 4


def test_only_esc10_takes_the_rows_so_marked(esc50: Path) -> None:
    catalogue = read(source_of(esc50, only_esc10=True))
    assert catalogue.clips.column("labels").to_pylist() == [[0], [1], [0]]
    assert [name.name for name in catalogue.classes] == ["dog", "chainsaw"]


def test_only_esc10_of_a_list_without_the_column_is_refused(esc50: Path) -> None:
    path = esc50 / "meta/esc50.csv"
    path.write_text(path.read_text().replace("esc10", "other"))
    with pytest.raises(InputError, match=r"source\.only_esc10: no row of .*esc50\.csv"):
        read(source_of(esc50, only_esc10=True))


def test_a_list_that_is_gone_is_still_named(tmp_path: Path) -> None:
    assert lists(source_of(tmp_path)) == {"list": tmp_path / "meta/esc50.csv"}


def test_only_esc10_changes_nothing_in_an_esc10_folder(esc10: Path) -> None:
    every, only = read(source_of(esc10)), read(source_of(esc10, only_esc10=True))
    assert every.clips.equals(only.clips)


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_root_without_lists_says_what_to_get_and_where(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=rf"source\.root: .*{name} holds neither .*ESC-50"):
        read(source_of(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    ["filename,fold\nx.wav,1\n", "filename,fold,target,category\nx.wav,one,0,dog\n"],
    ids=["no-column", "no-number"],
)
def test_a_malformed_list_is_an_input_error_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "esc10.csv").write_text(text)
    with pytest.raises(InputError, match=r"esc10\.csv"):
        read(source_of(tmp_path))
