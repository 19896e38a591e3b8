"""Stored frames as they would be of another sound: louder, through an equaliser, slower.

Legend: T frames of a clip, M mel bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.errors import ConfigError
from configs.frames import FbankFrames, FramesConfig, MelFrames
from pipeline.audio.fbank import EPSILON
from pipeline.audio.mel import lowest_db

ROUNDED_DB = 0.1  # float16 moves a floor by less

FramesTM = npt.NDArray[np.float32]
ShiftM = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """What the numbers of frames say of power.

    Args:
        of_1_db: the difference that 1 dB makes.
        lowest: what stands for all power from there down.
        top: how far at most a clip's cells are below its loudest; None: any.
    """

    of_1_db: float
    lowest: float
    top: float | None = None

    def floor(self, frames_TM: FramesTM) -> float:
        """The smallest number that a clip may have."""
        if self.top is None or not frames_TM.size:
            return self.lowest
        return max(self.lowest, float(frames_TM.max()) - self.top)


def _of_mel(config: MelFrames) -> Level:
    return Level(1.0, lowest_db(config), config.top_db)


def _of_fbank(_: FbankFrames) -> Level:
    return Level(math.log(10) / 10, math.log(EPSILON))


LEVELS: dict[str, Callable[[Any], Level]] = {"mel": _of_mel, "fbank": _of_fbank}


def level_of(config: FramesConfig) -> Level:
    """Raises ConfigError for frames that are no logarithm of power, as MFCC."""
    if config.kind not in LEVELS:
        raise ConfigError(
            "train",
            [
                f"augment changes the power of log-mel frames, and those of the run are "
                f"{config.kind}: leave it out, or make a run with frames.kind=mel"
            ],
        )
    return LEVELS[config.kind](config)


def shifted(frames_TM: FramesTM, shift_M: ShiftM, level: Level) -> FramesTM:
    """Frames of a sound whose bins have so many dB more. A cell at the floor is silent, and stays
    at the floor: what lies below is not known."""
    floor = level.floor(frames_TM)
    is_silent_TM = frames_TM <= floor + ROUNDED_DB * level.of_1_db
    moved_TM = frames_TM + shift_M * np.float32(level.of_1_db)
    np.copyto(moved_TM, frames_TM, where=is_silent_TM)
    new_floor = level.floor(moved_TM)
    np.copyto(moved_TM, frames_TM + np.float32(new_floor - floor), where=is_silent_TM)
    np.maximum(moved_TM, np.float32(new_floor), out=moved_TM, where=~is_silent_TM)
    return moved_TM


def stretched(frames_TM: FramesTM, factor: float, longest: int) -> FramesTM:
    """Frames of a sound that lasts `factor` times as long at the same pitch, `longest` of them at
    most: each on a straight line between two that are stored."""
    last = len(frames_TM) - 1
    num_frames = min(max(1, round(len(frames_TM) * factor)), longest)
    place_T = np.minimum(np.arange(num_frames) / factor, last)
    before_T = place_T.astype(np.int64)
    share_T1 = (place_T - before_T).astype(np.float32)[:, None]
    before_TM, after_TM = frames_TM[before_T], frames_TM[np.minimum(before_T + 1, last)]
    after_TM -= before_TM
    after_TM *= share_T1
    return np.asarray(before_TM + after_TM)
