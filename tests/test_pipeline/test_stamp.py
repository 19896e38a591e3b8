"""What a worker must have in common with the driver."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cluster.guard import compare
from pipeline import stamp as stamps
from pipeline.stamp import stamp
from pipeline.storage import sight


@pytest.fixture(autouse=True)
def fresh() -> None:
    stamps._of_this_process.cache_clear()


def test_the_same_process_matches_itself(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    assert compare(stamp(tmp_path / "recipe.json"), stamp(tmp_path / "recipe.json")) == ()


def test_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = stamp(tmp_path / "recipe.json")
    stamps._of_this_process.cache_clear()
    true_version = stamps.version
    monkeypatch.setattr(
        stamps, "version", lambda name: "0.3" if name == "soxr" else true_version(name)
    )
    (line,) = compare(here, stamp(tmp_path / "recipe.json"))
    assert line == f"soxr 0.3 there, {true_version('soxr')} here"


def test_other_code_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = stamp(tmp_path / "recipe.json")
    stamps._of_this_process.cache_clear()
    monkeypatch.setattr(stamps, "PACKAGES", ("cluster", "configs", "pipeline"))
    (line,) = compare(here, stamp(tmp_path / "recipe.json"))
    assert line.startswith("code ")


def test_a_worker_that_does_not_see_the_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text("{}")
    here = stamp(path)
    path.unlink()
    (line,) = compare(here, stamp(path))
    assert line.startswith(f"{path} not to be seen there, ")


def test_code_that_changes_later_is_still_the_code_that_runs(tmp_path: Path) -> None:
    before = stamp(tmp_path / "recipe.json")["code"]
    assert stamp(tmp_path / "recipe.json")["code"] == before
    assert len(before) == 12


def test_a_worker_that_does_not_see_the_source_is_named(tmp_path: Path) -> None:
    recipe, clip = tmp_path / "recipe.json", tmp_path / "source" / "clip.wav"
    clip.parent.mkdir()
    clip.write_bytes(b"RIFF")
    look = partial(sight, str(clip.parent), "clip.wav")
    here = stamp(recipe, look)
    assert compare(here, stamp(recipe, look)) == ()
    clip.unlink()
    (line,) = compare(here, stamp(recipe, look))
    assert line == f"{clip.parent} not to be seen there, to be seen here"
    clip.mkdir()
    assert compare(here, stamp(recipe, look)) == (line,)


def test_an_address_is_seen_from_everywhere() -> None:
    assert sight("hf://datasets/nobody/nothing", "clip.wav") == {}
