"""The codebook stage: one committed artefact, resumable after every pass."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest

from configs.errors import NotMadeYet, RecipeMismatch
from configs.load import merge
from configs.schema import Config
from pipeline import codebook as stage
from pipeline.verbs import run_verb
from shards.codebook import open_codebook
from shards.layout import Layout
from tests.conftest import MakeConfig

FILE = "codebooks/default/codebook.safetensors"


@pytest.fixture
def sharded(own_run: Config) -> Config:
    """A run that has its frames and no codebook."""
    for made in ("codebooks", "tokens", "commits/codebook", "commits/tokenize"):
        shutil.rmtree(own_run.run / made)
    return own_run


def over(config: Config, **tree: Any) -> Config:
    return Config.model_validate(merge(config.model_dump(mode="json"), tree))


def test_before_shard_it_says_what_to_run(make_config: MakeConfig) -> None:
    with pytest.raises(NotMadeYet, match="python -m pipeline shard"):
        run_verb(make_config(), "codebook")


def test_the_artefact_says_how_it_is_used(tokenized: Config) -> None:
    book, _ = open_codebook(Layout(tokenized.run), "default")
    assert book.centroids_KD.shape == (16, 64)
    assert (book.metric, book.front_end, book.sample_rate_hz) == ("l2", "none", 22_050)
    assert book.frames == tokenized.frames.model_dump(mode="json")
    directory = tokenized.run / "codebooks" / "default"
    assert json.loads((directory / "codebook.json").read_text()) == book.header()
    assert not (directory / stage.STATE_NAME).exists()


def test_metrics_are_those_of_training_and_held_out_vectors(tokenized: Config) -> None:
    path = tokenized.run / "codebooks" / "default" / "metrics.json"
    metrics = json.loads(path.read_text())
    assert set(metrics) == {"train", "holdout"}
    assert metrics["train"]["vectors"] > metrics["holdout"]["vectors"] > 0
    assert metrics["train"]["used"] == 16
    assert 1 < metrics["train"]["perplexity"] <= 16


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_run_stopped_after_a_pass_goes_on_and_ends_at_the_same_bytes(
    sharded: Config,
    tokenized: Config,
    passes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written: list[int] = []

    def stop_after(*args: Any) -> None:
        write(*args)
        written.append(1)
        if len(written) == passes:
            raise KeyboardInterrupt

    write = stage.write_whole
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_whole", stop_after)
        with pytest.raises(KeyboardInterrupt):
            run_verb(sharded, "codebook")
    assert not (sharded.run / FILE).exists()
    assert run_verb(sharded, "codebook") == 0
    assert f"going on after pass {passes} of 3" in capsys.readouterr().out
    assert (sharded.run / FILE).read_bytes() == (tokenized.run / FILE).read_bytes()


def test_the_state_of_another_recipe_is_not_gone_on_from(
    sharded: Config, tokenized: Config
) -> None:
    directory = sharded.run / "codebooks" / "default"
    directory.mkdir(parents=True)
    state = stage.kmeans.State(np.eye(16, 64, dtype=np.float32), np.full(16, 1e3), 2)
    (directory / stage.STATE_NAME).write_bytes(stage._state_bytes(state, "0" * 64))
    assert run_verb(sharded, "codebook") == 0
    assert (sharded.run / FILE).read_bytes() == (tokenized.run / FILE).read_bytes()


def test_another_k_between_two_passes_is_refused_by_name(
    sharded: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        write(*args)
        raise KeyboardInterrupt

    write = stage.write_whole
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_whole", stop)
        with pytest.raises(KeyboardInterrupt):
            run_verb(sharded, "codebook")
    other = over(sharded, codebook={"k": 8})
    with pytest.raises(RecipeMismatch, match=r"codebook\.k: 16 there, 8 now(.|\n)*remove .*state"):
        run_verb(other, "codebook")
    (sharded.run / "codebooks" / "default" / stage.STATE_NAME).unlink()
    assert run_verb(other, "codebook") == 0


def test_without_held_out_clips_the_training_error_is_called_so(
    sharded: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(over(sharded, codebook={"holdout_share": 0}), "codebook") == 0
    said = capsys.readouterr().out
    assert "codebook default: training error" in said
    assert "held-out" not in said
    metrics = json.loads((sharded.run / "codebooks" / "default" / "metrics.json").read_text())
    assert set(metrics) == {"train"}


def test_a_second_run_does_nothing(own_run: Config, capsys: pytest.CaptureFixture[str]) -> None:
    before = (own_run.run / FILE).stat()
    assert run_verb(own_run, "codebook") == 0
    assert "codebook default: committed, nothing to do" in capsys.readouterr().out
    after = (own_run.run / FILE).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_another_k_is_refused_under_the_same_name_and_made_under_another(sharded: Config) -> None:
    assert run_verb(sharded, "codebook") == 0
    with pytest.raises(RecipeMismatch, match=r"codebook\.k: 16 there, 8 now"):
        run_verb(over(sharded, codebook={"k": 8}), "codebook")
    assert run_verb(over(sharded, codebook={"k": 8, "name": "k8"}), "codebook") == 0
    book, _ = open_codebook(Layout(sharded.run), "k8")
    assert book.k == 8


def test_a_cosine_codebook_of_scaled_clips_lies_on_the_sphere(sharded: Config) -> None:
    config = over(sharded, codebook={"metric": "cosine", "front_end": "minmax"})
    assert run_verb(config, "codebook") == 0
    book, _ = open_codebook(Layout(sharded.run), "default")
    assert np.linalg.norm(book.centroids_KD, axis=1) == pytest.approx(1, abs=1e-5)
    assert (book.metric, book.front_end) == ("cosine", "minmax")
