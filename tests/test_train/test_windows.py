"""Files of any length in windows: cut, decoded, pooled, and refused where nothing can be heard."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import InputError
from pipeline.audio.clip import Clip
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import Given
from tests.broken import corpus
from train.prediction import Refused
from train.predictor import Predictor
from train.windows import Cut

RATE_HZ = 22_050


def noise(seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (random.standard_normal(round(seconds * rate_hz)) / 8).astype(np.float32)


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
    assert len(found.scores_WC) == 28
    nearest_s = [1.0] * 26 + [0.75, 1.0]  # of the last ones, 29.75 and 30.25 are the centres
    wanted = np.average(found.scores_WC, axis=0, weights=nearest_s)
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-12)
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
        ({"hop_s": 0.0}, "a hop of 0 s: give 0.001 to"),
        ({"window_s": -1.0}, "a window of -1 s: give 0.001 to"),
        ({"window_s": float("nan")}, "a window of nan s: give 0.001 to"),
        ({"hop_s": 1e306}, "a hop of 1e.306 s: give 0.001 to 1e.09"),
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
