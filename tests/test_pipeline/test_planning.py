"""The plan of a job: frozen once, held against every later config and list; odd places of audio."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError, RecipeMismatch
from configs.load import merge
from configs.schema import Config
from pipeline.planning import catalogue
from pipeline.verbs import run_verb
from shards.index import open_shards, read_index
from shards.layout import Layout
from tests.conftest import tiny_tree
from tests.test_pipeline.test_own_data import sound


@pytest.fixture
def clips(made_clips: Path, tmp_path: Path) -> Path:
    shutil.copytree(made_clips, tmp_path / "clips")
    return tmp_path / "clips"


def config_of(clips: Path, run: Path, **over: Any) -> Config:
    return Config.model_validate(merge(tiny_tree(clips, run), over))


def rows_of(config: Config) -> dict[str, dict[str, Any]]:
    layout = Layout(config.run)
    table = read_index(layout, open_shards(layout).records)
    return {row["id"]: row for row in table.to_pylist()}


# --- lists that change ----------------------------------------------------------------------------


def test_a_changed_list_is_refused_by_its_key(clips: Path, tmp_path: Path) -> None:
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    path = clips / "train_segments.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RecipeMismatch, match=r"lists\.sets\.train\.segments: .* there, .* now"):
        run_verb(config, "shard")


def test_a_list_that_is_gone_is_not_held_against_the_plan(clips: Path, tmp_path: Path) -> None:
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    (clips / "train_segments.csv").unlink()
    assert run_verb(config, "shard") == 0


def test_lists_and_audio_may_lie_elsewhere_later(clips: Path, tmp_path: Path) -> None:
    assert run_verb(config_of(clips, tmp_path / "run"), "shard") == 0
    shutil.move(clips, tmp_path / "moved")
    assert run_verb(config_of(tmp_path / "moved", tmp_path / "run"), "shard") == 0


def test_while_nothing_is_committed_another_list_simply_counts(clips: Path, tmp_path: Path) -> None:
    config = config_of(clips, tmp_path / "run", source={"root": str(tmp_path / "nowhere")})
    with pytest.raises(InputError, match=r"source\.root"):
        run_verb(config, "shard")
    path = clips / "train_segments.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert run_verb(config_of(clips, tmp_path / "run"), "shard") == 0


def test_a_disk_that_is_not_mounted_is_no_set_of_missing_clips(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    config = config_of(clips, tmp_path / "run", source={"root": str(tmp_path / "mount")})
    with pytest.raises(
        InputError, match=r"holds none of 64 clips that were looked for, as audio/.*mounted"
    ):
        run_verb(config, "shard")
    assert run_verb(config_of(clips, tmp_path / "run"), "shard") == 0


def test_splits_are_counted_before_anything_is_decoded(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(clips, tmp_path / "run", split={"valid_share": 0})
    assert run_verb(config, "shard") == 0
    assert "split: 51 train, 0 valid, 13 test clips" in capsys.readouterr().out
    anew = {"rule": "exact", "test_share": 0.25, "valid_share": 0.25}
    assert run_verb(config_of(clips, tmp_path / "anew", split=anew), "shard") == 0
    said = capsys.readouterr().out
    assert "warning: the source says 51 train, 0 valid, 13 test; split.rule=exact cuts" in said
    assert "split: 32 train, 16 valid, 16 test clips" in said
    nothing = {"rule": "first_letter", "letters": "".join(map(chr, range(33, 127)))}
    with pytest.raises(InputError, match="no clip is left to train on"):
        run_verb(config_of(clips, tmp_path / "nothing", split=nothing), "shard")
    assert not list((tmp_path / "nothing").glob("commits/*/*/0*.json"))


def test_a_run_that_is_a_file_is_named(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for run in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"run: .*file.* is no directory"):
            run_verb(config_of(clips, run), "shard")


# --- where people keep AudioSet -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["{set}/{prefix}/{id}.flac", "{id}.flac", "{set}/{id}.*"])
def test_files_lie_as_the_template_says(clips: Path, tmp_path: Path, layout: str) -> None:
    root = tmp_path / "root"
    for number, path in enumerate(sorted((clips / "audio").iterdir())):
        suffix = (".flac", ".FLAC", ".wav", ".bin")[number % 4] if layout.endswith("*") else ".flac"
        for name in ("train", "eval"):
            place = layout.replace("{set}", name).replace("{prefix}", path.stem[:2])
            target = root / place.replace("{id}", path.stem).replace(".*", suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(path, target)
    sets = {name: {"files": layout} for name in ("train", "eval")}
    config = config_of(clips, tmp_path / "run", source={"root": str(root), "sets": sets})
    assert run_verb(config, "shard") == 0
    assert {row["reason"] for row in rows_of(config).values()} == {None}


def test_strange_ids_are_files_like_any_other(clips: Path, tmp_path: Path) -> None:
    source = next((clips / "audio").iterdir())
    ids = ["-abc", "--", "a.b.c", "Case", "case", "CASE", "sp ace", "ümläut", "e" * 90]
    for clip_id in ids:
        shutil.copyfile(source, clips / "audio" / f"{clip_id}.flac")
    mid = (clips / "class_labels_indices.csv").read_text().splitlines()[1].split(",")[1]
    lines = [f'{clip_id}, 0, 10, "{mid}"\n' for clip_id in ids]
    (clips / "train_segments.csv").write_text("".join(lines))
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    rows = rows_of(config)
    assert {rows[clip_id]["reason"] for clip_id in ids} == {None}
    assert len({rows[clip_id]["key"] for clip_id in ids}) == len(ids)


def test_what_is_no_file_costs_one_clip(clips: Path, tmp_path: Path) -> None:
    audio = sorted((clips / "audio").iterdir())[:6]
    for path in audio:
        path.unlink()
    os.mkfifo(audio[0])
    audio[1].mkdir()
    audio[2].symlink_to(audio[2])
    with audio[3].open("wb") as file:
        file.truncate(10 << 40)  # a sparse giant
    audio[4].symlink_to("/dev/zero")
    config = config_of(clips, tmp_path / "run", quarantine={"max_share": 1.0})
    assert run_verb(config, "shard") == 0
    rows = rows_of(config)
    assert [rows[path.stem]["reason"] for path in audio] == [
        "not_a_file",
        "not_a_file",
        "missing",
        "too_large",
        "not_a_file",
        "missing",
    ]


def test_an_id_that_no_file_system_holds_costs_one_clip(clips: Path, tmp_path: Path) -> None:
    path = clips / "train_segments.csv"
    mid = (clips / "class_labels_indices.csv").read_text().splitlines()[1].split(",")[1]
    path.write_text(path.read_text() + f'a\0b, 0, 10, "{mid}"\n{"x" * 300}, 0, 10, "{mid}"\n')
    config = config_of(clips, tmp_path / "run", quarantine={"max_share": 1.0})
    assert run_verb(config, "shard") == 0
    rows = rows_of(config)
    assert rows["a\0b"]["reason"] == rows["x" * 300]["reason"] == "missing"


def test_stretches_cannot_be_stored_as_source_bytes(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("file,labels,start,end\na.wav,x,0,1\n")
    tree = {
        "run": str(tmp_path / "run"),
        "source": {"kind": "table", "root": str(tmp_path), "table": str(tmp_path / "clips.csv")},
        "audio": {"store": "source"},
    }
    with pytest.raises(InputError, match=r"audio\.store=source: clips are stretches of files"):
        catalogue(Config.model_validate(tree))


# --- a folder is its own list ------------------------------------------------------------------


def of_folder(tmp_path: Path, name: str) -> Config:
    source = {"kind": "folder", "root": str(tmp_path / name)}
    tree = {"run": str(tmp_path / "run"), "source": source, "cluster": {"kind": "inline"}}
    return Config.model_validate(tree)


def sharded_twice(tmp_path: Path) -> Config:
    """A job of three files in `in`, of which the second `shard` should have nothing to say."""
    for name in ("dog/1.wav", "dog/2.wav", "cat/1.wav"):
        sound(tmp_path / "in" / name)
    config = of_folder(tmp_path, "in")
    assert run_verb(config, "shard") == 0
    assert run_verb(config, "shard") == 0
    return config


def test_files_that_came_after_the_plan_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = sharded_twice(tmp_path)
    assert "after the plan" not in capsys.readouterr().out
    sound(tmp_path / "in/dog/3.wav")
    (tmp_path / "in/dog/1.wav").unlink()
    assert run_verb(config, "shard") == 0
    assert "warning: 1 files below" in capsys.readouterr().out


def test_another_directory_under_the_same_run_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files may have the same names, and it may be the same one elsewhere."""
    sharded_twice(tmp_path)
    assert "warning: source.root" not in capsys.readouterr().out
    (tmp_path / "in").rename(tmp_path / "out")
    moved = of_folder(tmp_path, "out")
    assert run_verb(moved, "shard") == 0
    said = capsys.readouterr().out
    assert f"source.root is {tmp_path}/out, and the run's clips are of {tmp_path}/in" in said
    (tmp_path / "run/config.yaml").write_text("run: [")
    assert run_verb(moved, "shard") == 0
    assert "warning: source.root" not in capsys.readouterr().out
