"""`train predict`: a table, JSONL or Parquet; every mistake has its message and its exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from configs.cli import main
from configs.schema import Config
from shards.layout import Layout
from tests.commands import ROOT, command
from train.__main__ import VERBS
from train.prediction import Prediction, record_of
from train.predictor import load

RATE_HZ = 22_050


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short file, a long one, one of silence, and something else."""
    directory = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for name, seconds, level in (("a short.wav", 1, 0.1), ("b/long.flac", 4, 0.1), ("c.wav", 1, 0)):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, level * random.standard_normal(seconds * RATE_HZ), RATE_HZ)
    (directory / "notes.txt").write_text("no audio")
    return directory


def predict(*words: object) -> int:
    return main("train", VERBS, ["predict", *map(str, words)])


def test_a_table_and_refusals_on_standard_error(
    finished: Config, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(finished.run, sounds, "--top", "2") == 3
    out, err = capsys.readouterr()
    header, short, long = out.splitlines()
    assert header.split(maxsplit=2) == ["file", "seconds", "likeliest, as linear hears it"]
    assert short.startswith(f"{sounds}/a short.wav ")
    assert long.startswith(f"{sounds}/b/long.flac ")
    assert short.partition(".wav")[2].split()[0] == "1.0"
    top = load(finished.run)(sounds / "a short.wav").top(2)
    assert short.endswith("  " + ", ".join(f"{title} {score:.2f}" for title, score in top))
    assert err.startswith(f"refused: {sounds}/c.wav: silent: peak ")
    assert len(err.splitlines()) == 1


def test_a_timeline_has_a_line_a_window(
    finished: Config, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--timeline", "--window-s", "1", "--hop-s", "0.75", "--pool", "max", "--model", "bag")
    assert predict(finished.run, *words, sounds / "b/long.flac") == 0
    spans = [line.partition("  ")[2].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    starts = [span.partition(" to ")[0] for span in spans]
    assert starts == ["0.0", "0.8", "1.5", "2.2", "3.0"]
    assert all(" to " in span for span in spans)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_everything_is_written_whole(
    suffix: str,
    finished: Config,
    sounds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, predictor = tmp_path / f"found{suffix}", load(finished.run, "linear")
    out.write_text("an older one")
    words = ("--window-s", "1.5", "--model", "linear")
    assert predict(finished.run, sounds, "--out", out, *words) == 3
    assert "found" + suffix + ": 2 files by linear" in capsys.readouterr().out
    titles = list(predictor.classes.titles)
    if suffix == ".parquet":
        table = pq.read_table(out)
        assert json.loads(table.schema.metadata[b"audiolex"])["classes"] == titles
        rows = table.to_pylist()
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        for row in rows[:2]:
            assert list(row["scores"]) == titles
            row["scores"] = [*row["scores"].values()]
    found = [*predictor.stream([row["file"] for row in rows], window_s=1.5)]
    assert rows == [record_of(one) for one in found]
    assert [row["reason"] for row in rows] == [None, None, "silent"]
    assert [len(row["windows"]) for row in rows[:2]] == [1, 3]
    long = found[1]
    assert isinstance(long, Prediction)
    tokens_TQ = long.windows[2].tokens_TQ
    assert tokens_TQ is not None
    assert rows[1]["windows"][2]["tokens"] == tokens_TQ.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [out.name], "nothing else is left"


def test_mistakes_end_with_two_and_a_message(
    finished: Config, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = finished.run, sounds / "a short.wav"
    for words, message in (
        ((tmp_path, file), "is no run"),
        ((run, sounds / "nothing.wav"), "nothing of 1 file could be heard"),
        ((run, sounds / "c.wav", sounds / "notes.txt"), "nothing of 2 files could be heard"),
        ((run, tmp_path), "no file in this directory has the suffix of audio"),
        ((run, file, "--model", "bert"), "no model bert is trained; there is bag, linear"),
        ((run, file, "--hop-s", "0"), "a hop of 0 s: give 0.001 to 1e+09"),
        ((run, file, "--top", "0"), "--top 0: show one class or more"),
        ((run, file, "--out", tmp_path / "found.csv"), "name it *.jsonl or *.parquet"),
        ((run, file, "--out", tmp_path / "no/found.jsonl"), "make it first"),
    ):
        assert predict(*words) == 2, words
        assert message in capsys.readouterr().err.splitlines()[-1]
    shutil.copy(finished.run / "config.yaml", tmp_path)
    assert predict(tmp_path, file) == 2
    assert "no model is trained; run `python -m train fit` first" in capsys.readouterr().err


def test_a_name_that_is_no_text_is_written_with_its_bytes(
    finished: Config, sounds: Path, tmp_path: Path
) -> None:
    shutil.copy(sounds / "a short.wav", os.fsencode(tmp_path) + b"/odd\xff.wav")
    (odd,) = (str(path) for path in tmp_path.glob("odd*"))
    out = tmp_path / "out.jsonl"
    assert predict(finished.run, sounds / "b/long.flac", odd, "--out", out) == 0
    assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == [
        str(sounds / "b/long.flac"),
        f"{tmp_path}/odd\\udcff.wav",
    ]


def test_the_command_itself(finished: Config) -> None:
    """As a user types it, options between files."""
    (clip, *_) = sorted(Path(str(finished.source.root), "audio").glob("*.flac"))
    words = command("train", "predict", finished.run, str(clip), "--model", "bag", str(clip))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(clip)) == 2
    assert not done.stderr
    words = command("train", "predict", finished.run)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_config_of_a_run_that_was_moved_is_that_of_the_run(
    finished: Config, sounds: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(finished.run, tmp_path / "moved")
    here, there = load(moved, "linear"), load(finished.run, "linear")
    file = sounds / "b/long.flac"
    assert Layout(moved).config.exists()
    np.testing.assert_array_equal(here(file).scores, there(file).scores)
