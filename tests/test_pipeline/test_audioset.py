"""AudioSet's lists: read as published, refused by file and line where they are malformed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from configs.sources import AudioSetSource
from pipeline import storage
from pipeline.sources import read_source
from pipeline.sources.audioset import read, read_classes, read_segments
from shards.plan import CLIP_SCHEMA, ClassName

CLASSES = 'index,mid,display_name\n0,/m/a,Cat\n1,/m/b,"Male speech, man speaking"\n'
COMMENTS = (
    "# Segments csv created today\n"
    "# num_ytids=1\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def source_of(directory: Path, rows: str, **over: Any) -> AudioSetSource:
    (directory / "classes.csv").write_text(CLASSES)
    (directory / "segments.csv").write_text(COMMENTS + rows)
    tree = {
        "kind": "audioset",
        "root": str(directory),
        "classes": directory / "classes.csv",
        "sets": {"balanced": {"segments": directory / "segments.csv"}},
    }
    return AudioSetSource.model_validate({**tree, **over})


# --- the real lists --------------------------------------------------------------------------


def real_source(lists: Path) -> AudioSetSource:
    tree = {
        "kind": "audioset",
        "root": str(lists),
        "classes": lists / "class_labels_indices.csv",
        "ontology": lists / "ontology.json",
        "sets": {
            "balanced": {"segments": lists / "balanced_train_segments.csv"},
            "eval": {"segments": lists / "eval_segments.csv", "split": "test"},
        },
    }
    return AudioSetSource.model_validate(tree)


def test_the_published_lists_have_the_published_counts(audioset_lists: Path) -> None:
    catalogue = read_source(real_source(audioset_lists))
    columns = catalogue.clips.to_pydict()
    assert len(catalogue.classes) == 527
    assert (catalogue.task, catalogue.clips.schema) == ("multilabel", CLIP_SCHEMA)
    for name, split, clips, labels in (
        ("balanced", "train", 22_160, 52_882),
        ("eval", "test", 20_371, 51_804),
    ):
        rows = [n for n, each in enumerate(columns["set"]) if each == name]
        assert len(rows) == clips
        assert sum(len(columns["labels"][n]) for n in rows) == labels
        assert {columns["split"][n] for n in rows} == {split}
        assert len({label for n in rows for label in columns["labels"][n]}) == 527


def test_the_first_published_row_is_read_right(audioset_lists: Path) -> None:
    catalogue = read(real_source(audioset_lists))
    first = catalogue.clips.slice(0, 1).to_pylist()[0]
    assert first["id"] == "--PJHxphWEs"
    assert first["path"] == "balanced/--/--PJHxphWEs.flac"
    assert first["duration_s"] == 10
    assert [catalogue.classes[label].id for label in first["labels"]] == ["/m/09x0r", "/t/dd00088"]
    assert catalogue.classes[0] == ClassName("/m/09x0r", "Speech")
    assert catalogue.classes[1].name == "Male speech, man speaking"


def test_no_id_stands_in_two_published_lists(audioset_lists: Path) -> None:
    ids = read(real_source(audioset_lists)).clips.column("id").to_pylist()
    assert len(set(ids)) == len(ids) == 22_160 + 20_371


# --- made lists ------------------------------------------------------------------------------


def test_a_quoted_label_list_after_a_blank_is_one_field(tmp_path: Path) -> None:
    row = read(source_of(tmp_path, 'abc, 1.500, 4.000, "/m/b,/m/a"\n')).clips.to_pylist()[0]
    assert row["labels"] == [0, 1]
    assert row["duration_s"] == 2.5


@pytest.mark.parametrize("clip_id", ["-abc", "--abc", "-", "a-b_c"])
def test_ids_may_begin_with_a_hyphen(tmp_path: Path, clip_id: str) -> None:
    row = read(source_of(tmp_path, f'{clip_id}, 0, 10, "/m/a"\n')).clips.to_pylist()[0]
    assert row["id"] == clip_id
    assert row["path"] == f"balanced/{clip_id[:2]}/{clip_id}.flac"


def test_blank_lines_and_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    text = COMMENTS + '\nabc, 0, 10, "/m/a"\n\ndef, 0, 10, "/m/b"\n'
    path = tmp_path / "segments.csv"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert read_segments(path).column("id").to_pylist() == ["abc", "def"]


@pytest.mark.parametrize(
    "bad",
    [
        "def, 0, 10",
        "def, 0, 10, /m/a,/m/b",
        'def, zero, 10, "/m/a"',
        'def, 0, 10.000s, "/m/a"',
        "def",
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, bad: str) -> None:
    source = source_of(tmp_path, f'abc, 0, 10, "/m/a"\n{bad}\n')
    with pytest.raises(InputError, match=r"segments\.csv, line 5: expected .*def"):
        read(source)


@pytest.mark.parametrize("times", ["nan, 10", "20, 10", "0, inf"])
def test_times_that_make_no_duration_are_malformed(tmp_path: Path, times: str) -> None:
    source = source_of(tmp_path, f'abc, {times}, "/m/a"\n')
    with pytest.raises(InputError, match=r"segments\.csv, line 4"):
        read(source)


def test_text_that_is_no_utf8_is_an_input_error(tmp_path: Path) -> None:
    source = source_of(tmp_path, "")
    (tmp_path / "segments.csv").write_bytes(COMMENTS.encode() + b'\xe9\xff, 0, 10, "/m/a"\n')
    with pytest.raises(InputError, match=r"segments\.csv"):
        read(source)


def test_an_unknown_label_is_named_with_its_list(tmp_path: Path) -> None:
    source = source_of(tmp_path, 'abc, 0, 10, "/m/a,/m/zzz"\n')
    with pytest.raises(InputError, match=r"segments\.csv.*'/m/zzz' is not in the class list"):
        read(source)


def test_an_unknown_label_is_named_with_its_clip(tmp_path: Path) -> None:
    source = source_of(tmp_path, 'abc, 0, 10, "/m/a"\nxyz, 0, 10, "/m/zzz"\n')
    with pytest.raises(InputError, match=r"xyz|line 5"):
        read(source)


@pytest.mark.parametrize("missing", ["mid", "display_name"])
def test_a_class_list_without_a_column_is_refused_with_its_name(
    tmp_path: Path, missing: str
) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(CLASSES.replace(missing, "other"))
    with pytest.raises(InputError, match=rf"classes\.csv: no column '{missing}'; expected index"):
        read_classes(path)


@pytest.mark.parametrize("name", ["classes.csv", "segments.csv"])
def test_a_missing_list_is_named(tmp_path: Path, name: str) -> None:
    source = source_of(tmp_path, 'abc, 0, 10, "/m/a"\n')
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: No such file"):
        read(source)


def test_a_class_that_the_ontology_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ontology.json").write_text(
        '[{"id": "/m/a", "name": "Cat", "child_ids": [], "restrictions": []}]'
    )
    source = source_of(tmp_path, "", ontology=tmp_path / "ontology.json")
    with pytest.raises(InputError, match=r"ontology\.json: 1 classes .* first /m/b"):
        read(source)


def test_files_says_where_the_audio_lies(tmp_path: Path) -> None:
    segments = tmp_path / "segments.csv"
    sets = {"bal": {"segments": segments, "files": "x/{set}/{prefix}/{id}.wav", "split": "valid"}}
    row = read(source_of(tmp_path, 'abc, 0, 10, "/m/a"\n', sets=sets)).clips.to_pylist()[0]
    assert (row["path"], row["set"], row["split"]) == ("x/bal/ab/abc.wav", "bal", "valid")


def test_audio_that_is_not_there_at_all_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, "", root=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"source\.root: .*nowhere is no directory"):
        storage.require(source.root)
