"""Altered runs: what was swapped, copied, lost or moved is noticed before it is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from configs.errors import IntegrityError, RecipeMismatch
from configs.load import load_config
from configs.schema import Config
from pipeline.verbs import run_verb
from shards import plan as plans
from shards.commit import StageLog, canonical_json
from shards.frames import read_shard_frames
from shards.index import open_shards
from shards.layout import Layout
from tests.commands import data_files
from train.data import open_data


@pytest.fixture
def run(finished: Config, tmp_path: Path) -> Layout:
    shutil.copytree(finished.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def config_of(run: Layout, *over: str) -> Config:
    return load_config(run.root, over)


def test_a_run_that_was_moved_is_the_run_itself(run: Layout, tmp_path: Path) -> None:
    shutil.move(run.root, tmp_path / "moved")
    assert load_config(tmp_path / "moved").run == tmp_path / "moved"
    assert load_config(tmp_path / "moved", ["run=elsewhere"]).run == Path("elsewhere")


def test_swapped_chunks_of_equal_size_are_refused(run: Layout) -> None:
    records = open_shards(run).records
    first, second = (
        next(run.root / file.path for file in record.files if file.path.endswith("c/0/0"))
        for record in records[:2]
    )
    size = min(first.stat().st_size, second.stat().st_size)
    first.write_bytes(second.read_bytes()[:size].ljust(first.stat().st_size, b"\0"))
    with pytest.raises(IntegrityError, match="is damaged"):
        read_shard_frames(run, records[0])


def test_another_plan_is_refused_before_anything_is_made(run: Layout) -> None:
    tree = json.loads(run.plan_json.read_bytes())
    tree["classes"] = tree["classes"][::-1]
    run.plan_json.write_bytes(canonical_json(tree))
    with pytest.raises(IntegrityError, match=r"plan\.json is not the plan of the shards"):
        run_verb(config_of(run), "shard")
    with pytest.raises(IntegrityError, match=r"plan\.json is not the plan of the shards"):
        open_data(run, "default", config_of(run).split, None)


def test_another_plan_table_is_refused(run: Layout) -> None:
    data = bytearray(run.plan_table.read_bytes())
    data[len(data) // 3] ^= 1
    run.plan_table.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"plan\.parquet is not the table of the plan"):
        run_verb(config_of(run), "shard")


@pytest.mark.parametrize("text", [b"{}\n", b"[]\n", b"{", b""])
def test_what_is_no_plan_is_refused(run: Layout, text: bytes) -> None:
    run.plan_json.write_bytes(text)
    with pytest.raises(IntegrityError, match=r"plan\.json"):
        plans.load(run)


@pytest.mark.parametrize(
    ("stage", "over"), [("shard", "frames.n_mels=32"), ("codebook", "codebook.k=8")]
)
def test_a_lost_recipe_lets_no_other_settings_in(run: Layout, stage: str, over: str) -> None:
    recipe = run.commits(stage, "default") / "recipe.json"
    before = recipe.read_bytes()
    recipe.unlink()
    with pytest.raises(IntegrityError, match=r"recipe\.json is missing or damaged"):
        run_verb(config_of(run, over), stage)
    assert run_verb(config_of(run), stage) == 0
    assert recipe.read_bytes() == before
    with pytest.raises(RecipeMismatch):
        run_verb(config_of(run, over), stage)


def test_a_record_copied_over_another_is_refused(run: Layout) -> None:
    log = StageLog(run, "shard", "default")
    shutil.copyfile(log.path(1), log.path(2))
    with pytest.raises(IntegrityError, match=r"000002\.json is the record of another shard"):
        log.record(2)


def test_files_that_only_look_like_records_are_none(run: Layout) -> None:
    log = StageLog(run, "shard", "default")
    shutil.copyfile(log.path(1), log.directory / "000001 copy.json")
    shutil.copyfile(log.path(1), log.directory / "1.json")
    assert log.committed() == set(range(8))


def test_a_shard_made_anew_with_other_bytes_leaves_no_dead_end(
    run: Layout, made_clips: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    log = StageLog(run, "shard", "default")
    changed = plans.load(run).rows(3).to_pylist()[0]["path"]
    other = next(path for path in (clips / "audio").iterdir() if path.name not in changed)
    shutil.copyfile(other, clips / changed)
    log.path(3).unlink()
    config = config_of(run, f"source.root={clips}")
    assert run_verb(config, "shard") == 0
    assert run_verb(config, "shard") == 0
    assert len(list(run.seals.glob("shard-*.json"))) == 2
    assert open_shards(run).records[3] == log.record(3)


def test_a_damaged_state_of_a_codebook_is_begun_again(run: Layout) -> None:
    whole = data_files(run.root)
    for path in (*run.commits("codebook", "default").glob("0*.json"),):
        path.unlink()
    for data in (b"", b"short", b"x" * 5000):
        (run.codebook("default") / "work").mkdir()
        for name in ("step", "front-end", "draw-000003"):
            (run.codebook("default") / "work" / name).write_bytes(data)
        assert run_verb(config_of(run), "codebook") == 0
        assert data_files(run.root) == whole
        (run.commits("codebook", "default") / "000000.json").unlink()
