"""float16, as frames are stored, to float32: numpy converts number by number where its build knows
no instruction for it; whole arrays of bits take a third of that time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FRACTION_SHIFT = 13  # float32 has 23 bits of fraction, float16 has 10
KEPT = np.array([0x8FFFE000], dtype=np.uint32).view(np.int32)  # not the sign's copies below it
BIAS = np.float32(2.0**112)  # 127 - 15: between the exponents' biases
BEYOND = 2.0**16  # where the largest exponent would land, which stands for infinity and NaN


def to_float32(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """The same values in float32; an array of float32 as it is."""
    if values.dtype != np.float16:
        return np.asarray(values, dtype=np.float32)
    bits = np.ascontiguousarray(values).view(np.int16).astype(np.int32)
    bits <<= FRACTION_SHIFT
    bits &= KEPT
    floats = bits.view(np.float32)
    floats *= BIAS
    if floats.max(initial=0) >= BEYOND or floats.min(initial=0) <= -BEYOND:
        return values.astype(np.float32)
    return floats
