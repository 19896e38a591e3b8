"""Changed frames are those of a changed sound, and silence stays silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from configs.errors import ConfigError
from configs.frames import FRAMES, FramesConfig
from pipeline.audio.change import level_of, shifted, stretched
from pipeline.audio.frames import frames_of

RATE_HZ = 16_000
KINDS: dict[str, dict[str, Any]] = {
    "mel": {},
    "magnitude": {"power": 1},
    "reference": {"reference": 0.01, "floor": 1e-7},
    "top_db": {"top_db": 60.0},
    "fbank": {"kind": "fbank"},
}
with_kinds = pytest.mark.parametrize("kind", KINDS)


def config_of(kind: str) -> FramesConfig:
    small = {"n_mels": 32} | ({} if kind == "fbank" else {"n_fft": 512, "hop_length": 256})
    return FRAMES.validate_python({"allow_empty_filters": True, **small, **KINDS[kind]})


def sound(seed: int = 0) -> npt.NDArray[np.float32]:
    """Noise of a second that gets louder, after half a second of nothing at all."""
    noise_N = np.random.default_rng(seed).normal(size=RATE_HZ) * np.geomspace(1e-5, 0.1, RATE_HZ)
    return np.concatenate([np.zeros(RATE_HZ // 2), noise_N]).astype(np.float32)


def stored(wave_N: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.float32]:
    return frames_of(wave_N, RATE_HZ, config_of(kind)).astype(np.float16).astype(np.float32)


@with_kinds
@pytest.mark.parametrize("gain_db", [-9.0, 9.0])
def test_frames_are_those_of_a_louder_sound(kind: str, gain_db: float) -> None:
    level, frames_TM = level_of(config_of(kind)), stored(sound(), kind)
    louder_TM = stored(sound() * np.float32(10 ** (gain_db / 20)), kind)
    found_TM = shifted(frames_TM, np.full(32, gain_db, np.float32), level)
    floor = level.floor(frames_TM) + 0.1 * level.of_1_db
    was_heard_TM = frames_TM > floor
    assert 0.2 < was_heard_TM.mean() < 0.9
    np.testing.assert_allclose(
        found_TM[was_heard_TM], louder_TM[was_heard_TM], atol=0.15 * level.of_1_db
    )
    silent_TM = found_TM[:20]
    np.testing.assert_allclose(silent_TM, louder_TM[:20], atol=0.15 * level.of_1_db)


@with_kinds
def test_no_change_changes_no_bit(kind: str) -> None:
    frames_TM = stored(sound(), kind)
    same_TM = shifted(frames_TM, np.zeros(32, np.float32), level_of(config_of(kind)))
    assert same_TM.tobytes() == frames_TM.tobytes()
    assert stretched(frames_TM, 1.0, 10_000).tobytes() == frames_TM.tobytes()


def test_bins_get_louder_one_by_one_and_silence_stays() -> None:
    level, frames_TM = level_of(config_of("mel")), stored(sound(), "mel")
    before_TM = frames_TM.copy()
    found_TM = shifted(frames_TM, np.linspace(-6, 6, 32, dtype=np.float32), level)
    assert (frames_TM == before_TM).all()
    assert (found_TM[:20] == -100).all()
    np.testing.assert_allclose(
        found_TM[-1] - frames_TM[-1], np.linspace(-6, 6, 32), rtol=0, atol=1e-4
    )
    assert (shifted(frames_TM, np.full(32, -500, np.float32), level) == -100).all()


def test_the_floor_of_a_clip_goes_with_its_loudest_cell() -> None:
    """Under top_db it is flat, whatever an equaliser does to the bins above it."""
    level, frames_TM = level_of(config_of("top_db")), stored(sound(), "top_db")
    found_TM = shifted(frames_TM, np.linspace(2, 6, 32, dtype=np.float32), level)
    assert found_TM.min() == pytest.approx(found_TM.max() - 60, abs=0.1)
    assert np.ptp(found_TM[:20]) == 0


@pytest.mark.parametrize(("factor", "num_frames"), [(0.5, 5), (0.8, 8), (1.25, 12), (1.4, 14)])
def test_stretching_keeps_what_is_straight(factor: float, num_frames: int) -> None:
    frames_TM = np.outer(np.arange(10), [1, -2]).astype(np.float32)
    found_TM = stretched(frames_TM, factor, 100)
    assert len(found_TM) == num_frames
    place_T = np.minimum(np.arange(num_frames) / factor, 9)
    np.testing.assert_allclose(found_TM, np.outer(place_T, [1, -2]), atol=1e-5)


def test_a_stretched_clip_is_cut_at_the_longest() -> None:
    frames_TM = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    assert (stretched(frames_TM, 1.4, 11) == stretched(frames_TM, 1.4, 100)[:11]).all()
    assert len(stretched(frames_TM[:1], 0.5, 11)) == 1


def test_frames_that_are_no_logarithm_are_refused() -> None:
    with pytest.raises(ConfigError, match="are mfcc: leave it out, or make a run with frames.kind"):
        level_of(FRAMES.validate_python({"kind": "mfcc"}))
