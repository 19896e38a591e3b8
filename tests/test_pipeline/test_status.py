"""`status`: what a run holds, and what is in quarantine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from configs.schema import Config
from pipeline import status
from pipeline.audio.refusal import REASONS
from tests.conftest import MakeConfig


def test_status_prints_every_reason_with_an_example(
    spoiled: tuple[Path, dict], spoiled_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.run(spoiled_run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "shard: 8 of 8 committed, sealed" in lines[1]
    for reason, count in Counter(spoiled[1].values()).items():
        (place,) = [n for n, line in enumerate(lines) if f": {count} {reason}: " in line]
        assert REASONS[reason] in lines[place]
        assert any(i in lines[place + 1] for i, why in spoiled[1].items() if why == reason)
    assert "0 of 1 committed" in "\n".join(lines)


def test_status_lists_what_other_configs_made(
    finished: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = finished.model_dump(mode="json")
    tree["codebook"]["name"] = "k8"
    assert status.run(Config.model_validate(tree)) == 0
    said = capsys.readouterr().out
    for line in (
        "codebook: 1 of 1",
        "codebook k8: 0 of 1",
        "fit bag: committed",
        "fit linear: committed",
    ):
        assert line in said


def test_status_of_a_run_that_is_not_begun(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    assert status.run(config) == 0
    assert "nothing made yet" in capsys.readouterr().out
    assert not config.run.exists()
