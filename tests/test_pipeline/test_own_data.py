"""A person's own data: a directory a class, or a table; one command, no code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from configs.errors import InputError
from configs.load import load_config
from configs.sources import FolderSource, TableSource
from pipeline.sources import read_source
from pipeline.verbs import run_verb
from shards.index import open_shards, read_index
from shards.layout import Layout
from shards.plan import CLIP_SCHEMA, Catalogue
from tests.commands import ROOT


def sound(path: Path, seconds: float = 0.5, frequency_hz: float = 440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(int(8000 * seconds)) / 8000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency_hz * time_s), 8000)
    return path


def by_id(catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    assert catalogue.clips.schema.equals(CLIP_SCHEMA)
    return {row["id"]: row for row in catalogue.clips.to_pylist()}


# --- a directory a class ----------------------------------------------------------------------


def folder(root: Path, **over: Any) -> Catalogue:
    return read_source(FolderSource.model_validate({"kind": "folder", "root": str(root), **over}))


def test_a_directory_is_a_class(tmp_path: Path) -> None:
    for name in ("dog/1.wav", "dog/more/2.flac", "cat/1.wav", "cat/-odd.name.wav"):
        sound(tmp_path / name)
    (tmp_path / "dog/notes.txt").write_text("no audio")
    catalogue = folder(tmp_path)
    rows = by_id(catalogue)
    assert [name.name for name in catalogue.classes] == ["cat", "dog"]
    assert {i: row["labels"] for i, row in rows.items()} == {
        "cat/-odd.name.wav": [0],
        "cat/1.wav": [0],
        "dog/1.wav": [1],
        "dog/more/2.flac": [1],
    }
    assert catalogue.task == "multiclass"
    assert {row["split"] for row in rows.values()} == {"train"}


def test_splits_may_stand_above_the_classes(tmp_path: Path) -> None:
    for name in ("train/dog/1.wav", "valid/dog/2.wav", "test/cat/3.wav"):
        sound(tmp_path / name)
    catalogue = folder(tmp_path)
    assert [name.name for name in catalogue.classes] == ["cat", "dog"]
    assert {i: row["split"] for i, row in by_id(catalogue).items()} == {
        "train/dog/1.wav": "train",
        "valid/dog/2.wav": "valid",
        "test/cat/3.wav": "test",
    }


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["train/dog/1.wav", "val/dog/2.wav"], "holds train beside val: name all of them train, "),
        (["train/dog/1.wav", "train/2.wav"], r"train/2\.wav lies in a split, but in no class"),
    ],
)
def test_half_a_split_is_refused(tmp_path: Path, paths: list[str], said: str) -> None:
    """Else `val` would be a class, and every clip would train."""
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(InputError, match=said):
        read_source(FolderSource(kind="folder", root=str(tmp_path)))


def test_a_pattern_finds_the_group_in_the_path(tmp_path: Path) -> None:
    for name in ("dog/a_1.wav", "dog/a_2.wav", "dog/b_1.wav", "dog/single.wav"):
        sound(tmp_path / name)
    groups = [row["group"] for row in by_id(folder(tmp_path, group_pattern=r"(\w)_\d")).values()]
    assert groups == ["a", "a", "b", None]


def test_linked_directories_count_and_hidden_ones_and_other_files_do_not(tmp_path: Path) -> None:
    sound(tmp_path / "elsewhere/1.wav")
    sound(tmp_path / "in/dog/1.wav")
    sound(tmp_path / "in/.cache/2.wav")
    (tmp_path / "in/horse").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/horse2").symlink_to(tmp_path / "in")  # a circle
    (tmp_path / "in/notes.txt").touch()
    found = folder(tmp_path / "in")
    assert set(by_id(found)) == {"dog/1.wav", "horse/1.wav"}
    assert sum(found.left_out.values()) == 1


def test_a_name_that_is_no_utf8_is_shown(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/dog/\xff.wav"))).touch()
    with pytest.raises(InputError, match=r"udcff\.wav' is no UTF-8 name"):
        folder(tmp_path)


def test_a_pattern_must_be_one_and_have_a_group(tmp_path: Path) -> None:
    for pattern in ("([", "no group"):
        with pytest.raises(ValueError, match="group_pattern"):
            folder(tmp_path, group_pattern=pattern)


def test_a_folder_without_audio_in_directories_is_explained(tmp_path: Path) -> None:
    sound(tmp_path / "1.wav")
    with pytest.raises(InputError, match=r"holds no audio files in directories.*dog/1\.wav"):
        folder(tmp_path)


# --- a table --------------------------------------------------------------------------------------


def table(path: Path, **over: Any) -> Catalogue:
    tree = {"kind": "table", "root": str(path.parent), "table": str(path), **over}
    return read_source(TableSource.model_validate(tree))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    separator = "\t" if path.suffix == ".tsv" else ","
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    path.write_text("".join(separator.join(f'"{v}"' for v in line) + "\n" for line in lines))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "clips.csv": write_csv,
    "clips.tsv": write_csv,
    "clips.parquet": write_parquet,
    "clips.jsonl": write_jsonl,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_clips(tmp_path: Path, name: str) -> None:
    rows = [
        {"file": "a.wav", "labels": "dog, rain", "split": "train", "fold": 1, "group": "s1"},
        {"file": "b.wav", "labels": "rain", "split": "test", "fold": 2, "group": "s2"},
    ]
    WRITERS[name](tmp_path / name, rows)
    catalogue = table(tmp_path / name)
    clips = by_id(catalogue)
    assert [known.name for known in catalogue.classes] == ["dog", "rain"]
    assert catalogue.task == "multilabel"
    assert clips["a.wav"]["labels"] == [0, 1]
    assert clips["b.wav"]["labels"] == [1]
    assert [(c["split"], c["fold"], c["group"]) for c in clips.values()] == [
        ("train", 1, "s1"),
        ("test", 2, "s2"),
    ]
    assert {c["start_s"] for c in clips.values()} == {None}


def test_numbers_are_targets(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    write_csv(path, [{"file": "a.wav", "valence": 0.5, "arousal": -1}])
    catalogue = table(path, targets=["valence", "arousal"])
    assert catalogue.task == "regression"
    assert [name.name for name in catalogue.classes] == ["valence", "arousal"]
    assert by_id(catalogue)["a.wav"]["targets"] == [0.5, -1.0]


def test_start_and_end_make_stretches_with_ids_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    rows = [{"file": "a.wav", "labels": "x", "start": s, "end": s + 1} for s in (0, 2.5)]
    write_csv(path, rows)
    clips = by_id(table(path))
    assert list(clips) == ["a.wav_0", "a.wav_2500"]
    assert (clips["a.wav_2500"]["start_s"], clips["a.wav_2500"]["end_s"]) == (2.5, 3.5)


def test_one_label_each_is_one_class_each(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    write_csv(path, [{"file": "a.wav", "labels": "x"}, {"file": "b.wav", "labels": "y"}])
    assert table(path).task == "multiclass"
    assert table(path, task="multilabel").task == "multilabel"


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    write_csv(path, [{"filename": "a.wav", "tags": "x;y", "key": "007"}])
    columns = {"file": "filename", "labels": "tags", "id": "key"}
    clips = by_id(table(path, columns=columns, label_separator=";"))
    assert clips["007"]["labels"] == [0, 1]


@pytest.mark.parametrize(
    ("row", "over", "said"),
    [
        ({"name": "a.wav"}, {}, "has no column file; it has name"),
        ({"file": "a.wav"}, {}, r"has no column labels: name it in source\.columns\.labels"),
        ({"file": "", "labels": "x"}, {}, "row 1: no file"),
        ({"file": "a", "labels": "x", "split": "dev"}, {}, "row 1: split 'dev' is none of train"),
        ({"file": "a", "labels": "x", "start": "soon"}, {}, "row 1: start 'soon' is no number"),
        ({"file": "a", "labels": "x", "start": 2, "end": 1}, {}, "row 1: no stretch from 2.0 to 1"),
        ({"file": "a", "labels": "x", "start": -1}, {}, "row 1: no stretch from -1.0"),
        ({"file": "a", "v": "high"}, {"targets": ["v"]}, "row 1: v 'high' is no number"),
        ({"file": "a", "v": ""}, {"targets": ["v"]}, "row 1: no v"),
        ({"file": "a"}, {"targets": ["v"]}, "has no column v"),
        ({"file": "a", "labels": "x", "fold": 0}, {}, "row 1: fold 0: number the folds from 1"),
        ({"file": "a", "labels": "x\ny"}, {}, "row 1 has a line break in labels: is a quote left"),
        ({"file": "a", "v": 1e39}, {"targets": ["v"]}, r"row 1: v 1e\+39 is beyond"),
        ({"file": "a", "labels": "x", "fold": 300}, {}, "row 1: fold 300 is no whole number"),
        ({"file": "a", "labels": "x", "fold": 1.5}, {}, "row 1: fold 1.5 is no whole number"),
        ({"file": "a", "labels": "x", "fold": -1}, {}, "row 1: fold -1 is no whole number"),
        ({"file": "a", "labels": "x,y"}, {"task": "multiclass"}, "some rows have not one label"),
    ],
)
def test_a_fault_is_named_with_its_row(
    tmp_path: Path, row: dict[str, Any], over: dict[str, Any], said: str
) -> None:
    path = tmp_path / "clips.csv"
    write_csv(path, [row])
    with pytest.raises(InputError, match=said):
        table(path, **over)


def test_stretches_of_one_file_stay_together(tmp_path: Path) -> None:
    rows = [
        {"file": "a.wav", "labels": "x", "start": 0, "end": 2},
        {"file": "a.wav", "labels": "x", "start": 1, "end": 3},
        {"file": "b.wav", "labels": "x", "start": 0, "end": 2},
    ]
    write_csv(tmp_path / "clips.csv", rows)
    groups = [row["group"] for row in by_id(table(tmp_path / "clips.csv")).values()]
    assert groups == ["a.wav", "a.wav", None]


@pytest.mark.parametrize(
    "line",
    [
        '["a.wav", "x"]',
        '{"file": "a.wav", "labels": [null, {"a": 1}]}',
        '{"file": "a.wav", "labels": "x", "id": 123456789012345678901234567890}',
    ],
)
def test_json_lines_of_other_shapes_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "clips.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"clips\.jsonl"):
        table(tmp_path / "clips.jsonl")


def test_a_group_that_is_no_number_is_none(tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text('{"file": "a.wav", "labels": "x", "group": NaN}\n')
    assert [row["group"] for row in by_id(table(tmp_path / "clips.jsonl")).values()] == [None]


@pytest.mark.parametrize("name", ["clips.csv", "clips.parquet", "clips.jsonl"])
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}.*No such file"):
        table(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00garbage\n\x00")
    with pytest.raises(InputError, match=name):
        table(tmp_path / name)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of \.csv, \.tsv, \.parquet, \.jsonl"):
        table(tmp_path / "clips.xlsx")


# --- the example configs, run -----------------------------------------------------------------


def test_the_folder_example_runs(tmp_path: Path) -> None:
    for number in range(8):
        sound(tmp_path / f"sounds/low/{number}.wav", frequency_hz=200 + number)
        sound(tmp_path / f"sounds/high/{number}.ogg", frequency_hz=1500 + number)
    over = [f"source.root={tmp_path / 'sounds'}", f"run={tmp_path / 'run'}", "codebook.k=4"]
    config = load_config(ROOT / "configs/folder.yaml", [*over, "cluster.kind=inline"])
    assert run_verb(config, "all") == 0


def test_the_table_example_runs_and_cuts_stretches(tmp_path: Path) -> None:
    sound(tmp_path / "long.wav", seconds=9)
    rows = [
        {"file": "long.wav", "labels": "ab"[n % 2], "start": n, "end": n + 0.8} for n in range(9)
    ]
    write_csv(tmp_path / "clips.csv", rows)
    over = [f"source.root={tmp_path}", f"source.table={tmp_path / 'clips.csv'}", "codebook.k=4"]
    over += [f"run={tmp_path / 'run'}", "cluster.kind=inline"]
    config = load_config(ROOT / "configs/table.yaml", over)
    assert run_verb(config, "shard") == 0
    layout = Layout(config.run)
    index = read_index(layout, open_shards(layout).records)
    assert index.column("source_samples").to_pylist() == [6400] * 9
    assert len(set(index.column("source_sha256").to_pylist())) == 1
