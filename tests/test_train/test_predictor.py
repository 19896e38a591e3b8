"""Predictions are what the stages and evaluation make of the same files, whatever their length."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from configs.errors import ConfigError, InputError, IntegrityError, NotMadeYet
from configs.schema import Config
from pipeline.audio.clip import make_clip
from pipeline.audio.decode import AudioFile
from pipeline.audio.limits import Window
from pipeline.audio.quantise import Quantiser
from pipeline.audio.refusal import ClipRefused
from shards.codebook import open_codebook
from shards.commit import fingerprint
from shards.layout import Layout
from tests.test_train.conftest import PREDICTING
from train.data import open_data
from train.metrics import probabilities
from train.prediction import Classes, Prediction, WindowPrediction
from train.predictor import Predictor, load

with_models = pytest.mark.parametrize("name", PREDICTING)


@pytest.fixture
def own_run(scored: Config, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(scored.run, tmp_path / "own"))


def evaluated(config: Config, name: str) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Ids and logits of the clips that evaluation scored."""
    table = pq.read_table(Layout(config.run).model(name) / "scores.parquet")
    return table["id"].to_pylist(), np.array(table["logits"].to_pylist(), dtype=np.float32)


def file_of(config: Config, clip_id: str) -> str:
    return f"{config.source.root}/audio/{clip_id}.flac"


def all_heard(predictor: Predictor, files: Sequence[str], **how: Any) -> list[Prediction]:
    found = [one for one in predictor.stream(files, **how) if isinstance(one, Prediction)]
    assert len(found) == len(files)
    return found


def logits_of(found: Sequence[Prediction]) -> npt.NDArray[np.float32]:
    return np.stack([one.logits_C for p in found for one in p.windows if one.logits_C is not None])


# --- the same as the stages and evaluation ----------------------------------------------------


@with_models
def test_tokens_and_scores_are_those_of_the_stages_bit_for_bit(
    name: str, scored: Config, predictors: dict[str, Predictor]
) -> None:
    ids, expected_NC = evaluated(scored, name)
    assert len(ids) > 2 * predictors[name].batch_size, "several batches, the last a short one"
    found = all_heard(predictors[name], [file_of(scored, clip_id) for clip_id in ids])
    np.testing.assert_array_equal(logits_of(found), expected_NC)
    data = open_data(Layout(scored.run), "default", scored.split, None)
    stored_SQ = data.source.read(data.rows("test")).flat()
    assert len({one.duration_s for one in found}) > 3, "some are padded"
    tokens = [one.tokens_TQ for p in found for one in p.windows if one.tokens_TQ is not None]
    np.testing.assert_array_equal(np.concatenate(tokens), stored_SQ)
    for one, logits_C in zip(found, expected_NC, strict=True):
        np.testing.assert_array_equal(one.scores, probabilities(logits_C[None], "multilabel")[0])


@pytest.mark.parametrize(
    ("spans_s", "duration_s", "shares"),
    [
        ([(0, 7)], 7, [1]),
        ([(0, 10), (10, 20), (20, 30)], 30, [10, 10, 10]),
        ([(0, 10), (10, 20), (11, 21)], 21, [10, 5.5, 5.5]),
        ([(0, 10), (2, 12)], 12, [6, 6]),
        ([(0, 10), (5, 15), (10, 20)], 20, [7.5, 5, 7.5]),
        ([(0, 10), (10, None), (20, 30)], 30, [10, 10]),
        ([(0, 10), (10, None), (11, 21)], 21, [10, 5.5]),
    ],
)
def test_every_second_adds_once_to_the_mean(
    spans_s: list[tuple[float, float | None]], duration_s: float, shares: list[float]
) -> None:
    """(10, None) could not be heard."""
    rng = np.random.default_rng(3)
    windows = tuple(
        WindowPrediction(start, start + 10.0, refusal=ClipRefused("silent", "no sound"))
        if stop is None
        else WindowPrediction(start, stop, scores_C=rng.random(4))
        for start, stop in spans_s
    )
    classes = Classes(tuple("abcd"), "multilabel", np.full(4, 0.5))
    found = Prediction("f", duration_s, windows, classes)
    wanted = np.array(shares) @ found.scores_WC / sum(shares)
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-14)
    most = Prediction("f", duration_s, windows, classes, "max")
    np.testing.assert_array_equal(most.scores, found.scores_WC.max(axis=0))


@with_models
def test_a_file_alone_scores_as_among_others(
    name: str, scored: Config, predictors: dict[str, Predictor]
) -> None:
    ids, expected_NC = evaluated(scored, name)
    for clip_id, logits_C in zip(ids[:3], expected_NC, strict=False):
        alone = predictors[name](file_of(scored, clip_id))
        np.testing.assert_allclose(logits_of([alone])[0], logits_C, atol=1e-5)


def test_only_config_codebook_and_model_are_needed(own_run: Path, scored: Config) -> None:
    for name in ("tokens", "frames.zarr", "audio", "index", "seals", "plan.parquet", "plan.json"):
        path = own_run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ids, expected_NC = evaluated(scored, "linear")
    found = all_heard(load(own_run, "linear"), [file_of(scored, clip_id) for clip_id in ids])
    np.testing.assert_array_equal(logits_of(found), expected_NC)


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "channels"),
    [("wav", 8_000, 2), ("wav", 48_000, 1), ("ogg", 44_100, 2), ("mp3", 44_100, 2)],
)
def test_any_format_goes_the_way_of_the_shard_stage(
    suffix: str,
    rate_hz: int,
    channels: int,
    scored: Config,
    predictors: dict[str, Predictor],
    tmp_path: Path,
) -> None:
    sound_NC, own_hz = soundfile.read(file_of(scored, evaluated(scored, "bag")[0][0]))
    sound_N = soxr.resample(sound_NC[:, 0], own_hz, rate_hz)
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, np.stack([sound_N] * channels, axis=1), rate_hz)
    found = predictors["linear"](path)
    made = make_clip(AudioFile(path.read_bytes()), Window(), scored.audio, scored.frames)
    quantiser = Quantiser(open_codebook(Layout(scored.run), "default")[0])
    (window,) = found.windows
    assert window.tokens_TQ is not None
    np.testing.assert_array_equal(window.tokens_TQ, quantiser.tokens(made.frames_TM))
    assert found.duration_s == pytest.approx(len(sound_N) / rate_hz, abs=0.1)


# --- which model, and what it says --------------------------------------------------------------


def test_the_model_is_named_or_the_only_one(own_run: Path) -> None:
    with pytest.raises(
        InputError, match="say which, by --model: bag, cnn, linear, lstm, mlp, wide"
    ):
        load(own_run)
    with pytest.raises(InputError, match="no model bert is trained; there is bag, cnn"):
        load(own_run, "bert")
    for name in ("cnn", "lstm", "mlp", "wide"):
        shutil.rmtree(own_run / "commits/fit" / name)
    assert load(own_run).name == "linear"
    shutil.rmtree(own_run / "commits/fit/linear")
    assert load(own_run).name == "bag"
    shutil.rmtree(own_run / "commits/fit/bag")
    with pytest.raises(NotMadeYet, match="python -m train fit"):
        load(own_run)
    with pytest.raises(ConfigError, match="no such config file or run"):
        load(own_run / "nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_altered_models_are_refused(name: str, own_run: Path) -> None:
    path = own_run / "models/linear" / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(IntegrityError, match=name):
        load(own_run, "linear")


def test_without_its_codebook_a_model_is_refused(own_run: Path) -> None:
    shutil.rmtree(own_run / "commits/codebook")
    with pytest.raises(NotMadeYet, match="no codebook default"):
        load(own_run, "linear")


def test_labels_reach_the_thresholds_that_evaluation_tuned(own_run: Path, scored: Config) -> None:
    path = file_of(scored, evaluated(scored, "linear")[0][0])
    kept = own_run / "models/linear/eval.json"
    found = load(own_run, "linear")(path)
    titles, scores_C = found.classes.titles, found.scores
    tree = json.loads(kept.read_text())
    assert found.classes.thresholds_C.tolist() == tree["thresholds"]
    reached = np.flatnonzero(scores_C >= np.array(tree["thresholds"]))
    assert found.labels == [titles[c] for c in reached]
    thresholds = [0.5, *(scores_C[1:] + np.where(np.arange(1, len(titles)) % 2, 0.01, 0)).tolist()]
    del tree["sha256"]
    tree["thresholds"] = thresholds

    def keep(tree: dict[str, Any]) -> list[str]:
        kept.write_text(json.dumps({**tree, "sha256": fingerprint(tree)}))
        return load(own_run, "linear")(path).labels

    tuned = [titles[c] for c in range(2, len(titles), 2)]
    assert keep(tree) == ([titles[0]] if scores_C[0] >= 0.5 else []) + tuned
    half = [titles[c] for c in np.flatnonzero(scores_C >= 0.5)]
    assert keep({**tree, "model": "another"}) == half, "thresholds of another model do not count"


def test_classes_are_ranked_and_one_label_of_several_is_the_likeliest(
    predictors: dict[str, Predictor], scored: Config
) -> None:
    found = predictors["linear"](file_of(scored, evaluated(scored, "linear")[0][0]))
    top = found.top(3)
    assert [score for _, score in top] == sorted(found.scores.tolist(), reverse=True)[:3]
    assert len(found.top(1000)) == len(found.classes.titles)
    one_of_three = Classes(("a", "b", "c"), "multiclass", np.full(3, 0.9))
    assert one_of_three.labels(np.array([0.3, 0.4, 0.3], dtype=np.float32)) == ["b"]
    logits_C = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    assert probabilities(logits_C[None], "multiclass").sum() == pytest.approx(1)
    assert probabilities(logits_C[None], "multilabel")[0, 0] == pytest.approx(0.7310586)
