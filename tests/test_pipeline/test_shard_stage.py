"""The shard stage: every clip ends once, and the same command again changes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError, IntegrityError, RecipeMismatch, RunLocked
from configs.load import merge
from configs.schema import Config
from pipeline import stamp
from pipeline.reading import ClipReader
from pipeline.verbs import run_verb
from shards.commit import StageLog
from shards.index import read_shard_index
from shards.layout import Layout
from shards.seal import open_seal
from tests.conftest import NUM_CLIPS, MakeConfig
from tests.spoiled import (
    FAULTS,
    config_of,
    index_of,
    names,
    seal_of,
    stamps,
)

# --- the account of clips --------------------------------------------------------------------


def test_every_clip_ends_once_with_the_right_reason(
    spoiled: tuple[Path, dict], spoiled_run: Config
) -> None:
    rows = {row["id"]: row for row in index_of(spoiled_run)}
    assert len(rows) == len(index_of(spoiled_run)) == NUM_CLIPS
    assert {i: row["reason"] for i, row in rows.items() if row["status"] != "ok"} == spoiled[1]
    for row in rows.values():
        is_ok = row["status"] == "ok"
        assert (
            is_ok == (row["num_frames"] > 0) == (row["reason"] is None) == (row["detail"] is None)
        )
        assert is_ok == (row["decoder"] is not None) == (row["row_start"] is not None)


def test_counts_add_up(spoiled: tuple[Path, dict], spoiled_run: Config) -> None:
    seal = seal_of(spoiled_run)
    assert seal.total("clips") == seal.total("ok") + seal.total("quarantined") == NUM_CLIPS
    assert seal.total("quarantined") == len(FAULTS)
    assert seal.total("frames") == sum(row["num_frames"] for row in index_of(spoiled_run))
    counted: Counter[str] = Counter()
    for record in seal.records:
        counted.update(record.detail["reasons"])
    assert counted == Counter(spoiled[1].values())


def test_the_exit_code_follows_the_threshold(
    spoiled: tuple[Path, dict], spoiled_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    share = len(FAULTS) / NUM_CLIPS
    for max_share, code in ((share - 0.001, 3), (share, 0), (0.5, 0), (0, 3)):
        over = {"quarantine": {"max_share": max_share}}
        assert run_verb(config_of(spoiled[0], spoiled_run.run, **over), "shard") == code
        printed = capsys.readouterr().out
        assert ("9 of 64 clips (14.1%) are in quarantine" in printed) == (code == 3)


def test_the_bytes_of_a_quarantine_do_not_depend_on_the_run(
    spoiled: tuple[Path, dict], spoiled_run: Config, tmp_path: Path
) -> None:
    assert run_verb(config_of(spoiled[0], tmp_path / "run"), "shard") == 3
    assert names(tmp_path / "run") == names(spoiled_run.run)


def test_the_bytes_of_a_quarantine_do_not_depend_on_where_the_audio_lies(
    spoiled: tuple[Path, dict], tmp_path: Path
) -> None:
    """The recipe leaves the root out, so a run goes on after its audio has moved."""
    runs = []
    for name in ("here", "there"):
        clips = tmp_path / name
        shutil.copytree(spoiled[0], clips)
        for reason in ("unreadable", "silent", "not_finite", "empty"):
            for clip_id in (i for i, why in spoiled[1].items() if why == reason):
                (clips / "audio" / f"{clip_id}.flac").unlink()
        source = {"source": {"root": str(clips)}}
        config = config_of(spoiled[0], tmp_path / f"run-{name}", **source)
        assert run_verb(config, "shard") == 3
        runs.append(names(config.run))
    assert runs[0] == runs[1]


def test_a_shard_of_nothing_but_missing_clips_is_a_shard(made_clips: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    first = config_of(clips, tmp_path / "whole")
    assert run_verb(first, "shard") == 0
    seal = seal_of(first)
    for row in read_shard_index(seal.layout, seal.records[3]).to_pylist():
        (clips / row["source"]).unlink()
    config = config_of(clips, tmp_path / "run", quarantine={"max_share": 0.2})
    assert run_verb(config, "all") == 0
    record = seal_of(config).records[3]
    assert record.counts == {"clips": 8, "ok": 0, "quarantined": 8, "frames": 0}
    tokens = open_seal(Layout(config.run), "tokenize", "default")
    assert [record.counts["clips"] for record in tokens.records] == [8, 8, 8, 0, 8, 8, 8, 8]


def test_all_goes_on_past_a_full_quarantine_and_says_so_at_the_end(
    spoiled: tuple[Path, dict], spoiled_run: Config
) -> None:
    assert run_verb(spoiled_run, "all") == 3
    tokens = open_seal(Layout(spoiled_run.run), "tokenize", "default")
    assert tokens.total("clips") == NUM_CLIPS - len(FAULTS)


# --- again, otherwise, at once ---------------------------------------------------------------


def test_a_second_run_changes_no_file(
    spoiled: tuple[Path, dict], spoiled_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(spoiled_run.run)
    settings = (spoiled_run.run / "config.yaml").read_bytes()
    assert run_verb(spoiled_run, "shard") == 3
    assert "all 8 shards are committed, nothing to do" in capsys.readouterr().out
    assert stamps(spoiled_run.run) == before
    assert (spoiled_run.run / "config.yaml").read_bytes() == settings


def test_a_finished_run_needs_no_audio(made_clips: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    shutil.rmtree(clips)
    assert run_verb(config, "shard") == 0


def unmount(clips: Path) -> None:
    for path in (clips / "audio").iterdir():
        path.unlink()


def test_a_disk_that_is_gone_on_resume_makes_no_quarantine(
    made_clips: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    records = Layout(config.run).commits("shard", "default")
    for number in (3, 4, 5, 6, 7):
        (records / f"{number:06d}.json").unlink()
    whole = names(config.run)
    unmount(clips)
    with pytest.raises(InputError, match="holds none of"):
        run_verb(config, "shard")
    assert names(config.run) == whole
    shutil.copytree(made_clips, clips, dirs_exist_ok=True)
    assert run_verb(config, "shard") == 0
    assert {row["status"] for row in index_of(config)} == {"ok"}


def test_a_disk_that_goes_away_in_a_shard_makes_no_quarantine(
    made_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    config = config_of(clips, tmp_path / "run")
    read_clips: list[str] = []

    def read_and_unmount(self: ClipReader, row: Any, **over: Any) -> Any:
        read_clips.append(row["id"])
        if len(read_clips) == 13:  # in the middle of the second shard
            unmount(clips)
        return usual(self, row, **over)

    usual = ClipReader.read
    with monkeypatch.context() as patch:
        patch.setattr(ClipReader, "read", read_and_unmount)
        with pytest.raises(
            InputError, match="audio/.*can no longer be read: is the disk still mounted"
        ):
            run_verb(config, "shard")
    log = StageLog(Layout(config.run), "shard", "default")
    assert log.committed() == {0}
    shutil.copytree(made_clips, clips, dirs_exist_ok=True)
    assert run_verb(config, "shard") == 0
    assert {row["status"] for row in index_of(config)} == {"ok"}


def test_a_lost_plan_is_made_again_or_not_at_all(made_clips: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    before = stamps(config.run)
    listed = clips / "train_segments.csv"
    rows = listed.read_text()
    for name in ("plan.json", "plan.parquet"):
        (config.run / name).unlink()
        listed.write_text(rows.rpartition("\n")[0].rpartition("\n")[0] + "\n")
        with pytest.raises((IntegrityError, RecipeMismatch)):
            run_verb(config, "shard")
        assert not (config.run / name).exists(), "no other plan took its place"
        listed.write_text(rows)
        assert run_verb(config, "shard") == 0
    changed = {path.name for path, stamp in stamps(config.run).items() if before[path] != stamp}
    assert changed == {"plan.json", "plan.parquet"}


def test_shards_made_from_another_source_say_so(
    made_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    (row, *_) = index_of(config)
    (Layout(config.run).commits("shard", "default") / "000000.json").unlink()
    other = next(path for path in (clips / "audio").iterdir() if path.name != row["source"][6:])
    shutil.copyfile(other, clips / row["source"])
    assert run_verb(config, "shard") == 0
    assert "warning: these are other shards than the ones sealed" in capsys.readouterr().out


def test_newer_libraries_do_not_make_a_finished_set_another(
    made_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(made_clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    before = stamps(config.run)
    monkeypatch.setattr(stamp, "version", lambda name: f"99 of {name}")
    assert run_verb(config, "shard") == 0
    assert stamps(config.run) == before
    (Layout(config.run).commits("shard", "default") / "000005.json").unlink()
    with pytest.raises(
        RecipeMismatch, match=r"libraries\.scipy: .* \"99 of scipy\" now(.|\n)*old v"
    ):
        run_verb(config, "shard")


def test_a_shard_that_is_lost_is_made_again_as_it_was(made_clips: Path, tmp_path: Path) -> None:
    config = config_of(made_clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    before, names_before = stamps(config.run), names(config.run)
    lost = Layout(config.run).commits("shard", "default") / "000005.json"
    lost.unlink()
    assert run_verb(config, "shard") == 0
    assert names(config.run) == names_before
    changed = {path for path, stamp in stamps(config.run).items() if before[path] != stamp}
    assert lost in changed
    assert all("000005" in path.as_posix() for path in changed)


@pytest.mark.parametrize(
    ("over", "line"),
    [
        ({"frames": {"n_mels": 32}}, "frames.n_mels: 64 there, 32 now"),
        ({"frames": {"f_max_hz": 8_000}}, "frames.f_max_hz: null there, 8000.0 now"),
        ({"audio": {"store": "none"}}, 'audio.store: "flac" there, "none" now'),
        (
            {"frames": {"kind": "mfcc"}, "codebook": {"front_end": {"steps": []}}},
            'frames.kind: "mel" there, "mfcc" now',
        ),
        ({"source": {"max_clip_s": 9}}, "source.max_clip_s: 60.0 there, 9.0 now"),
        ({"shards": {"clips_per_shard": 4}}, "shards.clips_per_shard: 1024 there, 4 now"),
        ({"source": {"sets": {"eval": {"split": "valid"}}}}, "source.sets.eval.split"),
    ],
)
def test_another_config_is_refused_by_its_keys(
    own_run: Config, over: dict[str, Any], line: str
) -> None:
    before = stamps(own_run.run)
    settings = (own_run.run / "config.yaml").read_bytes()
    tree = merge(own_run.model_dump(mode="json"), over)
    with pytest.raises(RecipeMismatch) as caught:
        run_verb(Config.model_validate(tree), "shard")
    assert f"  {line}" in str(caught.value)
    assert str(own_run.run) in str(caught.value)
    assert stamps(own_run.run) == before
    assert (own_run.run / "config.yaml").read_bytes() == settings


def test_audio_that_is_not_there_is_an_input_error(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"source\.root: .*nowhere is no directory"):
        run_verb(make_config(source={"root": str(tmp_path / "nowhere")}), "shard")


HOLD = """
import sys
from pathlib import Path
from shards.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_holds_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    command = [sys.executable, "-c", HOLD, str(Layout(config.run).lock)]
    root = str(Path(__file__).parents[2])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"pid {holder.pid} on .* is at work here"):
            run_verb(config, "shard")
        assert not Layout(config.run).plan_json.exists()
        holder.stdin.close()
        holder.wait(timeout=20)
    assert run_verb(config, "shard") == 0
