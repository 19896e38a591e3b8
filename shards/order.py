"""The order in which a trainer meets examples, as a pure function: no iterator, no state.

Position p of a job is example `p % n` of epoch `p // n`, and each epoch is a permutation keyed by
(seed, epoch). A cursor is therefore one integer, and to resume is to go on from it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@lru_cache(maxsize=2)  # every step of an epoch asks for it
def epoch_order(seed: int, epoch: int, num_examples: int) -> Rows:
    """The permutation of range(num_examples) for one epoch, read-only."""
    bits = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    order = np.random.Generator(bits).permutation(num_examples).astype(np.int64)
    order.flags.writeable = False
    return order


def examples_at(seed: int, num_examples: int, start: int, stop: int) -> Rows:
    """The examples at positions [start, stop), which may span the end of an epoch."""
    epochs = range(start // num_examples, -(-stop // num_examples))
    parts = []
    for epoch in epochs:
        first = epoch * num_examples
        order = epoch_order(seed, epoch, num_examples)
        parts.append(order[max(start - first, 0) : stop - first])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
