"""Predictions are what the stages and evaluation make of the same files, whatever their length."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError, InputError, IntegrityError, NotMadeYet
from configs.load import merge
from configs.schema import Config
from pipeline.audio.clip import Clip, make_clip
from pipeline.audio.decode import AudioFile
from pipeline.audio.limits import Window
from pipeline.audio.quantise import Quantiser
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import Given
from pipeline.verbs import run_verb
from shards.codebook import open_codebook
from shards.commit import fingerprint
from shards.layout import Layout
from tests.broken import corpus
from tests.conftest import tiny_tree
from train import evaluate, fit
from train.data import open_data
from train.prediction import Classes, Prediction, Refused, probabilities
from train.predictor import Predictor, load
from train.windows import Cut

MODELS = {
    "wide": {"kind": "linear", "width": 8, "bag_path": True},  # which counts what is not masked
    "cnn": {"kind": "cnn", "channels": [4, 8], "hidden": 8},
    "mlp": {"kind": "mlp", "reads": "frames", "hidden": [8, 8]},
}
NAMES = ("bag", "linear", "lstm", "wide", "cnn", "mlp")
with_models = pytest.mark.parametrize("name", NAMES)
RATE_HZ = 22_050


@pytest.fixture(scope="module")
def scored(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on clips of uneven length, with models of all kinds, scored four clips at a time."""
    clips = tmp_path_factory.mktemp("uneven") / "clips"
    shutil.copytree(made_clips, clips)
    for number, path in enumerate(sorted(clips.glob("audio/*.flac"))):
        sound_NC, rate_hz = soundfile.read(path)
        soundfile.write(path, sound_NC[: round((1.5 - 0.13 * (number % 7)) * rate_hz)], rate_hz)
    over = {
        "models": MODELS,
        "model": list(NAMES),
        "train": {"micro_batch_size": 4},
    }
    config = Config.model_validate(merge(tiny_tree(clips, clips.parent / "run"), over))
    assert run_verb(config, "all") == 0
    assert fit.run(config) == 0
    assert evaluate.run(config) == 0
    return config


@pytest.fixture(scope="module")
def predictors(scored: Config) -> dict[str, Predictor]:
    return {name: load(scored.run, name) for name in NAMES}


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


def noise(seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (random.standard_normal(round(seconds * rate_hz)) / 8).astype(np.float32)


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
        np.testing.assert_array_equal(one.scores, probabilities(logits_C, "multilabel"))


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


# --- windows ----------------------------------------------------------------------------------


@given(
    st.floats(0.05, 30),
    st.none() | st.floats(0.01, 40),
    st.none() | st.floats(0.01, 40),
    st.floats(0.001, 3000),
)
def test_windows_cover_a_file_and_none_is_short_or_too_long(
    most_s: float, window_s: float | None, hop_s: float | None, duration_s: float
) -> None:
    cut = Cut.of(most_s, False, window_s, hop_s)
    asked_s = most_s if window_s is None else window_s
    found = [
        (start, duration_s if stop is None else stop) for start, stop in cut.windows(duration_s)
    ]
    assert (len(found) == 1) == (duration_s <= asked_s + 1e-6)
    assert found[0][0] == 0
    assert found[-1][1] == duration_s
    lengths_s = np.diff(np.array(found), axis=1)[:, 0]
    assert (lengths_s < max(asked_s, most_s) + 0.002).all()
    if len(found) > 1:
        assert np.ptp(lengths_s) < 0.0011, "the last one is moved back, not cut short"
        starts_s = np.array(found)[:, 0]
        step_s = cut.hop_ms / 1000
        assert (np.diff(starts_s) > 0).all()
        assert (np.diff(starts_s) < step_s + 0.0011).all()


@given(st.integers(1_000, 768_000), st.floats(0.1, 100))
def test_no_window_of_any_file_has_more_places_than_the_longest_clip(
    rate_hz: int, duration_s: float
) -> None:
    """By the samples that a window has after resampling, rounded up at every step."""
    most = 65 * 512 - 1
    cut = Cut.of(most / RATE_HZ, True, None, None)
    total = round(duration_s * rate_hz)
    for start_s, stop_s in cut.windows(total / rate_hz):
        window = Window(start_s, stop_s, cut.limit_s)
        num_samples = window.wanted(total, rate_hz)
        assert num_samples is not None
        assert num_samples <= int(window.max_clip_s * rate_hz), "it is not refused as too long"
        assert round(num_samples * RATE_HZ / rate_hz) <= most


def test_a_long_file_is_heard_window_by_window(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    """Windows of silence are left out, and the others pooled; a window is what a file of its
    stretch is."""
    sound_N = noise(31)
    sound_N[: 4 * RATE_HZ] = 0
    path = tmp_path / "long.wav"
    soundfile.write(path, sound_N, RATE_HZ, subtype="FLOAT")
    predictor = predictors["linear"]
    found = predictor(path, window_s=1.5, hop_s=1.0)
    assert [one.start_s for one in found.windows] == [*range(30), 29.5]
    assert found.windows[-1].stop_s == found.duration_s == 31
    reasons = [one.refusal.reason for one in found.left_out if one.refusal is not None]
    assert reasons == ["silent"] * 3
    assert [one.start_s for one in found.left_out] == [0, 1, 2]
    np.testing.assert_array_equal(found.scores, found.scores_WC.mean(axis=0))
    assert len(found.scores_WC) == 28
    highest = predictor(path, window_s=1.5, hop_s=1.0, pool="max")
    np.testing.assert_array_equal(highest.scores, found.scores_WC.max(axis=0))
    piece = tmp_path / "piece.wav"
    soundfile.write(piece, sound_N[7 * RATE_HZ :][: 3 * RATE_HZ // 2], RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(predictor(piece).scores, found.scores_WC[7 - 3], atol=1e-6)


def test_memory_holds_a_batch_of_windows_however_long_a_file_is(
    predictors: dict[str, Predictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, noise(200), RATE_HZ)
    predictor = predictors["cnn"]
    sandbox, kept, most_kept = predictor.listener.sandbox, [], 0
    decode = sandbox.clip

    def clip(given: Given, window: Window, *config: Any) -> Clip:
        nonlocal most_kept
        made = decode(given, window, *config)
        assert made.facts.num_samples <= predictor.longest_s * RATE_HZ
        kept.append(weakref.ref(made.frames_TM))
        most_kept = max(most_kept, sum(ref() is not None for ref in kept))
        return made

    monkeypatch.setattr(sandbox, "clip", clip)
    assert len(predictor(path).windows) == len(kept) > 130
    assert most_kept <= 2 * predictor.batch_size


def test_a_file_too_large_for_memory_is_read_where_it_lies(
    predictors: dict[str, Predictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "long.wav", noise(20), RATE_HZ)
    expected_WC = predictors["linear"](tmp_path / "long.wav").scores_WC
    monkeypatch.setattr("pipeline.reading.MAX_FILE_BYTES", 100_000)
    monkeypatch.chdir(tmp_path)  # where the decoder does not stand
    np.testing.assert_array_equal(predictors["linear"]("long.wav").scores_WC, expected_WC)


def test_files_may_be_heard_side_by_side(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    """A file that is not yet at its end is not taken for the one that came between."""
    paths = [tmp_path / "one.flac", tmp_path / "two.flac"]
    for seed, path in enumerate(paths):
        soundfile.write(path, noise(20, seed=seed) * (1 + 3 * seed), RATE_HZ)
    listener, cut = predictors["linear"].listener, Cut.of(1.5, True, None, None)
    alone = [[one.frames_TM for one in listener.hear(str(path), cut)] for path in paths]
    turns = zip(*(listener.hear(str(path), cut) for path in paths), strict=True)
    for number, pair in enumerate(turns):
        for frames, heard in zip(alone, pair, strict=True):
            assert frames[number] is not None
            assert heard.frames_TM is not None
            np.testing.assert_array_equal(frames[number], heard.frames_TM)
    assert not np.array_equal(np.asarray(alone[0][5]), np.asarray(alone[1][5]))


# --- what cannot be heard ----------------------------------------------------------------------


def test_broken_files_are_refused_with_the_reason_of_the_stages(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    broken = [*corpus()][::9]
    files = []
    for number, one in enumerate(broken):
        files.append(tmp_path / f"{number}-{Path(one.name).name}")
        files[-1].write_bytes(one.data)
    found = [*predictors["linear"].stream(files)]
    assert len(found) == len(broken) > 20
    for one, refused in zip(broken, found, strict=True):
        assert isinstance(refused, Refused), one
        assert one.is_reason(refused.reason), (one.name, refused)


def test_a_file_that_costs_a_decoder_is_not_gone_on_with(
    predictors: dict[str, Predictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "long.flac", []
    soundfile.write(path, noise(20), RATE_HZ)
    sandbox = predictors["linear"].listener.sandbox
    decode = sandbox.clip

    def clip(given: Given, window: Window, *config: Any) -> Clip:
        asked.append(window)
        if len(asked) == 3:
            raise ClipRefused("decoder_hung", "over 10 s")
        return decode(given, window, *config)

    monkeypatch.setattr(sandbox, "clip", clip)
    (refused,) = predictors["linear"].stream([path])
    assert isinstance(refused, Refused)
    assert str(refused).startswith(f"{path}: decoder_hung: over 10 s, 3 s from its start; formats")
    assert str(refused).endswith("convert it, as to FLAC")
    assert len(asked) == 3


def test_a_file_of_unknown_length_is_one_window_or_refused_with_a_cure(
    predictors: dict[str, Predictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, noise(1.5), RATE_HZ)
    predictor = predictors["linear"]
    expected = predictor(path).scores
    monkeypatch.setattr(predictor.listener.sandbox, "seconds", lambda _: None)
    np.testing.assert_array_equal(predictor(path).scores, expected)
    soundfile.write(path, noise(5), RATE_HZ)
    with pytest.raises(InputError, match="too_long: over 1.509 s.*convert it, as to FLAC"):
        predictor(path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"pool": "median"}, "pool median: it is one of mean, max"),
        ({"hop_s": 0.0}, "--hop-s 0: give seconds"),
        ({"window_s": -1.0}, "--window-s -1: give seconds"),
        ({"window_s": float("nan")}, "--window-s nan: give seconds"),
        ({"window_s": 1.6}, "positions for 1.509 s.*longer files are cut"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    how: dict[str, Any], message: str, predictors: dict[str, Predictor]
) -> None:
    with pytest.raises(InputError, match=message):
        predictors["mlp"].stream(["nothing.wav"], **how)


def test_models_without_positions_hear_longer_windows(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, noise(7), 8_000)
    for name in ("bag", "linear", "lstm", "cnn"):
        found = predictors[name](path, window_s=20)
        assert len(found.windows) == 1
        assert len(predictors[name](path, window_s=5.5).windows) == 4


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
    assert found.labels == [titles[c] for c in np.flatnonzero(scores_C >= 0.5)]
    thresholds = [None, *(scores_C[1:] + np.where(np.arange(1, len(titles)) % 2, 0.01, 0)).tolist()]
    tree = json.loads(kept.read_text())
    del tree["sha256"]
    tree["thresholds"] = thresholds

    def keep(tree: dict[str, Any]) -> list[str]:
        kept.write_text(json.dumps({**tree, "sha256": fingerprint(tree)}))
        return load(own_run, "linear")(path).labels

    tuned = [titles[c] for c in range(2, len(titles), 2)]
    assert keep(tree) == ([titles[0]] if scores_C[0] >= 0.5 else []) + tuned
    assert keep({**tree, "model": "another"}) == found.labels


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
    assert probabilities(logits_C, "multiclass").sum() == pytest.approx(1)
    assert probabilities(logits_C, "multilabel")[0] == pytest.approx(0.7310586)
