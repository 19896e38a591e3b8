"""docs/audioset.md: what it shows is what `--dry-run` says of AudioSet's full lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.plan import ROWS, write_list
from configs.load import load_config
from pipeline import estimate
from pipeline.scale import WIDTH

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "audioset.md"
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def shown() -> str:
    """The block of the page that is the dry run's output."""
    return PAGE.read_text().split("<!-- dry-run -->\n```text\n")[1].split("```")[0]


def prose() -> str:
    """What the page says in words: no code."""
    text = re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`", "", text)


@pytest.mark.slow
def test_the_page_shows_what_the_dry_run_says(
    audioset_lists: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)  # the lists' places are relative to it
    segments = tmp_path / "unbalanced_train_segments.csv"
    write_list(segments, ROWS)
    (tmp_path / "all.yaml").write_text(
        f"include: [{ROOT / 'configs' / 'audioset.yaml'}]\n"
        f"source: {{root: {tmp_path}, sets: {{unbalanced: {{segments: {segments}, split: train, "
        'files: "unbal_train/{prefix}/{id}.flac"}}}\n'
    )
    assert estimate.run(load_config(tmp_path / "all.yaml")) == 0
    assert capsys.readouterr().out == shown()


def test_every_number_of_the_prose_stands_in_the_block() -> None:
    there = {number.replace(",", "") for number in NUMBER.findall(shown())}
    said = {number.rstrip(",").replace(",", "") for number in NUMBER.findall(prose())}
    assert said
    assert said <= there


@pytest.mark.parametrize("kind", ["slurm", "ssh", "kubernetes"])
def test_a_place_of_the_page_is_a_valid_one(kind: str, tmp_path: Path) -> None:
    [block] = [
        part
        for part in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if f"kind: {kind}\n" in part
    ]
    (tmp_path / "all.yaml").write_text(f"include: [{ROOT / 'configs' / 'demo.yaml'}]\n{block}")
    assert load_config(tmp_path / "all.yaml").cluster.kind == kind


def test_the_block_reads_well() -> None:
    assert max(map(len, shown().splitlines())) <= WIDTH


def test_a_fifth_of_the_time_goes_into_flac() -> None:
    cost = estimate.CORE_MS_PER_AUDIO_S
    assert 1 - cost["none"] / cost["flac"] == pytest.approx(1 / 5, abs=0.02)
