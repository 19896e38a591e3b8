"""Front ends: from a clip's stored frames to the vectors that are clustered and tokenised.

The same function serves codebook training, tokenising and prediction; the codebook names it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

VectorsTD = npt.NDArray[np.float32]


def none(frames_TM: npt.NDArray[np.floating]) -> VectorsTD:
    """Frames as stored: dB."""
    return np.asarray(frames_TM, dtype=np.float32)


def minmax(frames_TM: npt.NDArray[np.floating]) -> VectorsTD:
    """One clip scaled to [0, 1] by its own smallest and largest value; a constant clip is 0."""
    vectors_TD = np.asarray(frames_TM, dtype=np.float32)
    if vectors_TD.size == 0:
        return vectors_TD
    low, high = vectors_TD.min(), vectors_TD.max()
    if high == low:
        return np.zeros_like(vectors_TD)
    scaled_TD: VectorsTD = (vectors_TD - low) / (high - low)
    return scaled_TD


FRONT_ENDS: dict[str, Callable[[npt.NDArray[np.floating]], VectorsTD]] = {
    "none": none,
    "minmax": minmax,
}
