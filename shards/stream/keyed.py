"""Random numbers without a state: what is drawn depends on a key and an index alone.

A generator would have to be run, or saved, to come back to where it was. Here every draw is a
function, so that a position of a stream can be asked for by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence  # numpy itself would import that at the first step

from shards.ragged import Indices

Words = npt.NDArray[np.uint32]

# Of a permutation: in a small rectangle each round has little to choose from. Among all 720
# permutations of 6, six rounds have favourites, twelve have none that a chi-square test finds.
ROUNDS, ROUNDS_OF_FEW, FEW = 6, 12, 1024
_WORD = np.uint64(32)

# What a key is for, so that no two uses share their numbers.
EXAMPLES, UNITS, WITHIN, DRAWS, SEEDS, MASKS, CHANGES, MIXES = range(8)


def key_words(count: int, *key: int) -> Words:
    """Well mixed words from the integers of a key, none of them negative."""
    return SeedSequence(key).generate_state(count).astype(np.uint32)


class Permutation:
    """A permutation of range(size) chosen by a key, at any indices, in constant time each.

    A generalised Feistel network over a rectangle that just holds the range (Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", 2002); what falls outside walks on until it is inside.
    """

    def __init__(self, size: int, *key: int) -> None:
        self._size = size
        self._height = math.isqrt(max(size - 1, 0)) + 1
        self._width = -(-size // self._height) if size else 1
        self._keys = key_words(ROUNDS_OF_FEW if size <= FEW else ROUNDS, *key)

    def __call__(self, indices: Indices) -> Indices:
        """Where `indices` of range(size) go, int64 of the same shape."""
        images = self._step(indices)
        while (outside := images >= self._size).any():
            images[outside] = self._step(images[outside])
        return images

    def _step(self, indices: Indices) -> Indices:
        left, right = (part.astype(np.uint32) for part in np.divmod(indices, self._width))
        height, width = self._height, self._width
        for key in self._keys:
            turned = left + _below(_mixed(right ^ key), height)
            left, right = right, np.minimum(turned, turned - np.uint32(height))  # modulo height
            height, width = width, height
        return left.astype(np.int64) * self._width + right


def draws(indices: Indices, *key: int) -> npt.NDArray[np.float64]:
    """An independent draw from [0, 1) for every index."""
    words = key_words(3, *key)
    low = _mixed(indices.astype(np.uint32) ^ words[0])
    high = _mixed((indices >> 32).astype(np.uint32) ^ words[1] ^ low)
    fraction = (high.astype(np.uint64) << _WORD) | _mixed(low ^ high ^ words[2])
    return (fraction >> np.uint64(11)).astype(np.float64) * 2.0**-53


def example_seeds(seed: int, epochs: Indices, positions: Indices) -> npt.NDArray[np.uint64]:
    """A seed of its own for every example of every epoch, also where a row is drawn again: for
    `numpy.random.Philox(key=...)`, and whatever else is drawn for one example (a crop, a mask) and
    must come again after a kill."""
    words = key_words(3, SEEDS, seed)
    low = _mixed(positions.astype(np.uint32) ^ words[0])
    high = _mixed((positions >> 32).astype(np.uint32) ^ epochs.astype(np.uint32) ^ words[1])
    high = _mixed(high ^ low)
    return (high.astype(np.uint64) << _WORD) | _mixed(low ^ high ^ words[2])


def _mixed(words: Words) -> Words:
    """A bijection of 32-bit words in which every bit moves every other: "lowbias32" of Ellis
    Wellons' search for integer hashes. Works in place."""
    words ^= words >> np.uint32(16)
    words *= np.uint32(0x7FEB352D)
    words ^= words >> np.uint32(15)
    words *= np.uint32(0x846CA68B)
    words ^= words >> np.uint32(16)
    return words


def _below(words: Words, limit: int) -> Words:
    """Words scaled down to range(limit)."""
    scaled: npt.NDArray[Any] = (words.astype(np.uint64) * np.uint64(limit)) >> _WORD
    return scaled.astype(np.uint32)
