"""The codebook stage: one committed artefact, resumable after every step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from configs.errors import NotMadeYet, RecipeMismatch
from configs.load import merge
from configs.schema import Config
from pipeline.audio.quantise import Quantiser
from pipeline.kmeans import State
from pipeline.multi_codebook import Training
from pipeline.verbs import run_verb
from pipeline.workplace import Workplace
from shards.codebook import HEADER, METRICS, TENSORS, codebook_file, open_codebook
from shards.frames import read_shard_frames
from shards.gc import collect
from shards.index import open_shards
from shards.layout import Layout
from shards.verify import verify
from tests.conftest import MakeConfig


@pytest.fixture
def sharded(own_run: Config) -> Config:
    """A run that has its frames and no codebook."""
    for made in ("codebooks", "tokens", "commits/codebook", "commits/tokenize"):
        shutil.rmtree(own_run.run / made)
    for seal in (own_run.run / "seals").glob("tokenize-*"):
        seal.unlink()
    return own_run


def over(config: Config, **tree: Any) -> Config:
    return Config.model_validate(merge(config.model_dump(mode="json"), tree))


def file_of(config: Config, title: str) -> Path:
    return codebook_file(Layout(config.run), "default", title)


def test_before_shard_it_says_what_to_run(make_config: MakeConfig) -> None:
    with pytest.raises(NotMadeYet, match="python -m pipeline shard"):
        run_verb(make_config(), "codebook")


def test_the_artefact_says_how_it_is_used(tokenized: Config) -> None:
    book, _ = open_codebook(Layout(tokenized.run), "default")
    assert book.centroids_QKD.shape == (1, 16, 64)
    assert (book.metric, book.sample_rate_hz) == ("l2", 22_050)
    assert book.frames == tokenized.frames.model_dump(mode="json")
    assert book.front_end == tokenized.codebook.front_end.model_dump(mode="json")
    assert book.token_frames_QVM.shape == (1, 17, 64)
    assert book.token_frames_QVM[0, 16].mean() < book.token_frames_QVM[0, :16].mean(axis=1).min(), (
        "silence"
    )
    assert (
        json.loads(codebook_file(Layout(tokenized.run), "default", HEADER).read_text())
        == book.header()
    )
    assert not Layout(tokenized.run).codebook_work("default").exists()


def test_metrics_are_those_of_training_and_held_out_vectors(tokenized: Config) -> None:
    metrics = json.loads(file_of(tokenized, METRICS).read_text())
    assert metrics["train"]["frames"] > metrics["holdout"]["frames"] > 0
    (use,) = metrics["train"]["tokens"]
    assert use["used"] == 16
    assert 1 < use["perplexity"] <= 16
    assert sum(use["counts"]) == metrics["train"]["frames"] == metrics["frames_drawn"]
    assert 0 < metrics["train"]["db_rms"] < 30
    assert metrics["tokens_per_s"] == pytest.approx(22_050 / 512)
    assert metrics["bits_per_s"] == pytest.approx(22_050 / 512 * np.log2(17))
    assert np.shape(metrics["map"]) == (16, 2)
    (steps,) = metrics["steps"]
    assert len(steps["train_errors"]) >= len(steps["pass_errors"]) > 0


def test_what_is_heard_of_tokens_is_nearer_to_the_frames_than_their_mean(
    tokenized: Config,
) -> None:
    layout = Layout(tokenized.run)
    book, _ = open_codebook(layout, "default")
    frames_TM = read_shard_frames(layout, open_shards(layout).records[0]).astype(np.float64)
    quantiser = Quantiser(book)
    made_TM = quantiser.frames(quantiser.tokens(frames_TM))
    off, spread = ((frames_TM - other) ** 2 for other in (made_TM, frames_TM.mean(axis=0)))
    assert off.mean() < 0.9 * spread.mean()


class Stopped(BaseException):
    """As a kill: nothing catches it."""


def stopping_at(monkeypatch: pytest.MonkeyPatch, file: str, times: int) -> None:
    """The `times`-th write of a file of the workplace is the last thing that happens."""
    counted = iter(range(1, 1_000))

    def write(self: Workplace, name: str, tensors: Any) -> None:
        plain(self, name, tensors)
        if name == file and next(counted) == times:
            raise Stopped

    def write_drawn(self: Workplace, shard: int, tensors: Any) -> None:
        plain_drawn(self, shard, tensors)
        if file == "draw" and next(counted) == times:
            raise Stopped

    plain, plain_drawn = Workplace.write, Workplace.write_drawn
    monkeypatch.setattr(Workplace, "write", write)
    monkeypatch.setattr(Workplace, "write_drawn", write_drawn)


def stop_at(monkeypatch: pytest.MonkeyPatch, config: Config, file: str, times: int) -> None:
    """Run the stage until a file of its workplace was written so many times."""
    with monkeypatch.context() as patch:
        stopping_at(patch, file, times)
        with pytest.raises(Stopped):
            run_verb(config, "codebook")


@pytest.mark.parametrize(
    ("file", "times"), [("front-end", 1), ("draw", 1), ("draw", 5), ("step", 1), ("step", 3)]
)
def test_a_stage_stopped_anywhere_goes_on_and_ends_at_the_same_bytes(
    sharded: Config,
    tokenized: Config,
    file: str,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_at(monkeypatch, sharded, file, times)
    assert not list((sharded.run / "codebooks/default").glob("*.*"))
    assert run_verb(sharded, "codebook") == 0
    assert ("going on after step" in capsys.readouterr().out) == (file == "step")
    for title in (TENSORS, METRICS):
        assert file_of(sharded, title).read_bytes() == file_of(tokenized, title).read_bytes()


def test_gc_leaves_an_unfinished_codebook_alone(
    sharded: Config,
    tokenized: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_at(monkeypatch, sharded, "step", 2)
    layout = Layout(sharded.run)
    assert verify(layout, "full").extra == []
    collect(layout)
    assert run_verb(sharded, "codebook") == 0
    assert "going on after step" in capsys.readouterr().out
    assert file_of(sharded, TENSORS).read_bytes() == file_of(tokenized, TENSORS).read_bytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_of_the_blas_decide_no_byte(
    sharded: Config, tokenized: Config, threads: int
) -> None:
    with threadpool_limits(limits=threads):
        assert run_verb(sharded, "codebook") == 0
    for title in (TENSORS, METRICS):
        assert file_of(sharded, title).read_bytes() == file_of(tokenized, title).read_bytes()


@pytest.mark.parametrize(
    "over", [{"codebooks": 4}, {"codebooks": 2, "combine": "residual"}], ids=str
)
def test_several_codebooks_stopped_and_gone_on_with_are_the_same(
    sharded: Config, over: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = over_codebook(sharded, **over)
    assert run_verb(config, "codebook") == 0
    expected = file_of(sharded, TENSORS).read_bytes()
    book, _ = open_codebook(Layout(sharded.run), "default")
    assert (book.num_codebooks, book.combine) == (over["codebooks"], over.get("combine", "product"))
    for made in ("codebooks", "commits/codebook"):
        shutil.rmtree(sharded.run / made)
    stop_at(monkeypatch, config, "step", 5)
    assert run_verb(config, "codebook") == 0
    assert file_of(sharded, TENSORS).read_bytes() == expected
    assert run_verb(config, "tokenize") == 0
    assert verify(Layout(sharded.run), "deep").faults == []


def over_codebook(config: Config, **tree: Any) -> Config:
    """Other settings of the codebook, and no model that wants one token a frame."""
    return over(config, codebook=tree, model=["bag"])


def test_the_state_of_another_recipe_is_not_gone_on_from(
    sharded: Config, tokenized: Config
) -> None:
    place = Workplace(sharded.run, "default", "0" * 64)
    state = State(np.eye(16, 64, dtype=np.float32), np.full(16, 1e3), 2)
    place.write("step", Training((), state).tensors())
    assert run_verb(sharded, "codebook") == 0
    assert file_of(sharded, TENSORS).read_bytes() == file_of(tokenized, TENSORS).read_bytes()


def test_another_k_between_two_steps_is_refused_by_name(
    sharded: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopping_at(patch, "step", 1)
        with pytest.raises(Stopped):
            run_verb(sharded, "codebook")
    other = over(sharded, codebook={"k": 8})
    with pytest.raises(RecipeMismatch, match=r"codebook\.k: 16 there, 8 now(.|\n)*remove .*work"):
        run_verb(other, "codebook")
    shutil.rmtree(sharded.run / "codebooks" / "default" / "work")
    assert run_verb(other, "codebook") == 0


def test_without_held_out_clips_nothing_is_said_of_them(
    sharded: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(over(sharded, codebook={"holdout_share": 0}), "codebook") == 0
    said = capsys.readouterr().out
    assert "codebook default:" in said
    assert "holdout" not in said
    metrics = json.loads(file_of(sharded, METRICS).read_text())
    assert "holdout" not in metrics


@pytest.mark.parametrize("verb", ["codebook", "tokenize"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"frames": {"hop_length": 256}}, "frames.hop_length: 512 there, 256 now"),
        ({"frames": {"n_mels": 128}}, "frames.n_mels: 64 there, 128 now"),
        ({"audio": {"sample_rate_hz": 16_000}}, "audio.sample_rate_hz: 22050 there, 16000 now"),
    ],
)
def test_settings_that_the_frames_were_not_made_with_are_refused(
    own_run: Config, change: dict[str, Any], named: str, verb: str
) -> None:
    before = (own_run.run / "config.yaml").read_bytes()
    with pytest.raises(RecipeMismatch, match=named):
        run_verb(over(own_run, **change), verb)
    assert (own_run.run / "config.yaml").read_bytes() == before


def test_a_second_run_does_nothing(own_run: Config, capsys: pytest.CaptureFixture[str]) -> None:
    before = file_of(own_run, TENSORS).stat()
    assert run_verb(own_run, "codebook") == 0
    assert "codebook default: committed, nothing to do" in capsys.readouterr().out
    after = file_of(own_run, TENSORS).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_another_k_is_refused_under_the_same_name_and_made_under_another(sharded: Config) -> None:
    assert run_verb(sharded, "codebook") == 0
    with pytest.raises(RecipeMismatch, match=r"codebook\.k: 16 there, 8 now"):
        run_verb(over(sharded, codebook={"k": 8}), "codebook")
    assert run_verb(over(sharded, codebook={"k": 8, "name": "k8"}), "codebook") == 0
    book, _ = open_codebook(Layout(sharded.run), "k8")
    assert book.k == 8


def test_a_cosine_codebook_of_scaled_clips_lies_on_the_sphere(sharded: Config) -> None:
    tree = sharded.model_dump(mode="json")
    tree["codebook"] |= {"metric": "cosine", "front_end": "seed"}
    config = Config.model_validate(tree)
    assert run_verb(config, "codebook") == 0
    book, _ = open_codebook(Layout(sharded.run), "default")
    assert np.linalg.norm(book.centroids_QKD[0], axis=1) == pytest.approx(1, abs=1e-5)
    assert book.metric == "cosine"
    assert [step["kind"] for step in book.front_end["steps"]] == ["minmax"]
