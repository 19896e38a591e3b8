"""Verification finds every kind of damage, and repair lets the next run make it good."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.cli import main
from configs.errors import IntegrityError, RunLocked
from configs.load import load_config
from configs.schema import Config
from pipeline.verbs import run_verb
from shards.__main__ import VERBS
from shards.gc import collect, find_garbage
from shards.layout import Layout
from shards.lock import hold
from shards.verify import Findings, repair, verify
from tests.commands import data_files


@pytest.fixture
def run(finished: Config, tmp_path: Path) -> Layout:
    """A copy of a finished run, to damage."""
    shutil.copytree(finished.run, tmp_path / "run")
    return Layout(tmp_path / "run")


def one(layout: Layout, pattern: str) -> Path:
    return sorted(layout.root.glob(pattern))[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()


def blank(path: Path) -> None:
    path.write_bytes(b"")


FILES = (
    "audio/*.tar",
    "frames.zarr/0*/c/0/0",
    "frames.zarr/0*/zarr.json",
    "frames.zarr/zarr.json",
    "index/part-*.parquet",
    "statistics-*.json",
    "codebooks/default/codebook-*.safetensors",
    "codebooks/default/metrics-*.json",
    "tokens/default/*.tar",
    "tokens/default/*.arrow",
    "commits/shard/default/000003.json",
    "commits/shard/default/recipe.json",
    "commits/tokenize/default/000000.json",
    "seals/shard-*.json",
    "plan.json",
    "plan.parquet",
)


def test_a_finished_run_is_whole(finished: Config) -> None:
    for level in ("quick", "full", "deep"):
        findings = verify(Layout(finished.run), level)  # type: ignore[arg-type]
        assert findings.faults == []
        assert findings.extra == []
        assert findings.records > 16


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("damage", [flip, cut, remove, blank])
def test_damage_is_found_and_repaired(
    run: Layout, pattern: str, damage: Callable[[Path], None]
) -> None:
    whole = data_files(run.root)
    path = one(run, pattern)
    damage(path)
    findings = verify(run, "full")
    is_unfinished = damage is remove and pattern.startswith("seals/")  # not damage: not done
    assert bool(findings.faults) != is_unfinished
    gone = {path for fault in findings.faults for path in fault.remove if path.exists()}
    assert repair(run, findings) == 0
    assert not any(path.exists() for path in gone)
    assert all((run.damaged / path.relative_to(run.root)).exists() for path in gone)
    config = load_config(run.root, [f"run={run.root}"])
    assert run_verb(config, "all") == 0
    assert verify(run, "deep").faults == []
    assert data_files(run.root) == whole


def test_sizes_are_enough_for_the_quick_level(run: Layout) -> None:
    flip(one(run, "audio/*.tar"))
    assert verify(run, "quick").faults == []
    cut(one(run, "audio/*.tar"))
    assert len(verify(run, "quick").faults) == 1


def test_files_of_other_shards_are_not_mistaken_for_a_shards_own(run: Layout) -> None:
    first, second = sorted(run.root.glob("index/part-*.parquet"))[:2]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert len(verify(run, "full").faults) == 2


def test_a_record_of_another_shard_is_no_record(run: Layout) -> None:
    records = run.commits("shard", "default")
    shutil.copyfile(records / "000001.json", records / "000002.json")
    assert [fault.path for fault in verify(run, "full").faults] == [
        "commits/shard/default/000002.json",
        seal_path(run),
    ]


def seal_path(layout: Layout) -> str:
    return one(layout, "seals/shard-*.json").relative_to(layout.root).as_posix()


def test_what_no_record_names_is_listed_and_collected(run: Layout) -> None:
    whole = data_files(run.root)
    for name in ("audio/audio-000099-abc.tar", "frames.zarr/000099-abc/c/0/0", "tokens/old/t.tar"):
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_bytes(b"left behind")
    assert len(find_garbage(run).paths) == 3
    assert collect(run).bytes == 33
    assert data_files(run.root) == whole
    assert not (run.root / "frames.zarr/000099-abc").exists()
    assert collect(run).paths == ()


def test_nothing_is_collected_in_a_damaged_run(run: Layout) -> None:
    """A record that cannot be read names nothing: its shard's files are no garbage."""
    record = one(run, "commits/shard/default/000001.json")
    record.write_bytes(record.read_bytes()[:-2])
    whole = data_files(run.root)
    with pytest.raises(IntegrityError, match="nothing was removed; run .*--repair"):
        collect(run)
    assert data_files(run.root) == whole


def test_a_stage_that_was_killed_before_its_first_record_is_no_damage(run: Layout) -> None:
    run.commits("shard", "other").mkdir(parents=True)
    assert verify(run, "full").faults == []


def test_the_command_says_what_is_wrong_and_repairs_it(
    run: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("shards", VERBS, ["verify", str(run.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"] is True
    tar = one(run, "audio/*.tar")
    flip(tar)
    assert main("shards", VERBS, ["verify", str(run.root)]) == 1
    assert f"audio/{tar.name}: is damaged (shard default, shard" in capsys.readouterr().out
    assert main("shards", VERBS, ["verify", str(run.root), "--repair"]) == 0
    assert not tar.exists()


def test_the_command_refuses_what_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("shards", VERBS, ["verify", str(tmp_path)]) == 2
    assert f"{tmp_path} is no run" in capsys.readouterr().err


def test_nothing_is_removed_while_a_driver_is_at_work(
    run: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(run.lock):
        assert main("shards", VERBS, ["gc", str(run.root)]) == RunLocked.exit_code
        words = ["verify", str(run.root), "--repair"]
        assert main("shards", VERBS, words) == RunLocked.exit_code
    assert "is at work here" in capsys.readouterr().err


def test_findings_read_as_json(run: Layout) -> None:
    flip(one(run, "index/part-*.parquet"))
    findings: Findings = verify(run, "full")
    tree = json.loads(json.dumps(findings.to_json()))
    assert tree["ok"] is False
    assert tree["faults"][0]["path"].startswith("index/part-")
