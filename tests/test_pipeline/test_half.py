"""float16 to float32: the same values, every one of them."""

from __future__ import annotations

import numpy as np

from pipeline.audio.half import to_float32


def test_every_float16_becomes_the_same_float32() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    for values in (every, finite, finite[::2], finite[:0], finite.reshape(-1, 2).T):
        np.testing.assert_array_equal(to_float32(values), values.astype(np.float32))
        assert (np.signbit(to_float32(values)) == np.signbit(values)).all()
