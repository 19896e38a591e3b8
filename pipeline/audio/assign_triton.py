"""An engine for GPUs: scores are made and compared tile by tile, and never written to memory.

With K = 5,000, scores that go through a GPU's memory cost ten times what making them does. Imported
only where a GPU is: workers elsewhere have no torch.

Legend: T rows, K weights, E numbers in each, padded to whole tiles.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from pipeline.audio.engines import Found, RowsTE

TILE_ROWS, TILE_WEIGHTS, TILE_WIDTH = 64, 64, 32
ROWS_BYTES = 2**26  # of a call


@triton.jit  # type: ignore[untyped-decorator]
def _best_two(  # type: ignore[no-untyped-def]
    rows_pointer,
    weights_pointer,
    index_pointer,
    best_pointer,
    second_pointer,
    num_rows,
    num_weights: tl.constexpr,
    width: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_weights: tl.constexpr,
    tile_width: tl.constexpr,
):
    """Of each row the first best weight, its score, and the second best score."""
    row = (tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)).to(tl.int64)
    best = tl.full((tile_rows,), float("-inf"), tl.float32)
    second = tl.full((tile_rows,), float("-inf"), tl.float32)
    index = tl.zeros((tile_rows,), tl.int32)
    for first in range(0, num_weights, tile_weights):
        weight = first + tl.arange(0, tile_weights)
        scores = tl.zeros((tile_rows, tile_weights), tl.float32)
        for start in range(0, width, tile_width):
            number = start + tl.arange(0, tile_width)
            rows = tl.load(
                rows_pointer + row[:, None] * width + number[None, :],
                row[:, None] < num_rows,
                0.0,
            )
            weights = tl.load(
                weights_pointer + weight[None, :] * width + number[:, None],
                weight[None, :] < num_weights,
                0.0,
            )
            scores = tl.dot(rows, weights, scores, input_precision="ieee")  # float32, not TF32
        scores = tl.where(weight[None, :] < num_weights, scores, float("-inf"))
        here = tl.argmax(scores, axis=1)
        found = tl.max(scores, axis=1)
        others = tl.where(
            tl.arange(0, tile_weights)[None, :] == here[:, None], float("-inf"), scores
        )
        second = tl.maximum(tl.maximum(second, tl.max(others, axis=1)), tl.minimum(best, found))
        index = tl.where(found > best, first + here, index)
        best = tl.maximum(best, found)
    tl.store(index_pointer + row, index, row < num_rows)
    tl.store(best_pointer + row, best, row < num_rows)
    tl.store(second_pointer + row, second, row < num_rows)


class Fused:
    """One GPU, by a kernel of Triton's."""

    num_threads = 1
    is_on_gpu = True

    def __init__(self, weight_KE: RowsTE, device: str = "cuda") -> None:
        self._device = torch.device(device)
        self._width = -(-weight_KE.shape[1] // TILE_WIDTH) * TILE_WIDTH
        self.rows_at_a_time = max(TILE_ROWS, ROWS_BYTES // (4 * self._width))
        self._weights = self._padded(weight_KE)

    def search(self, rows_TE: RowsTE) -> Found:
        rows, num_rows = self._padded(rows_TE), len(rows_TE)
        index = torch.empty(num_rows, dtype=torch.int32, device=self._device)
        best = torch.empty(num_rows, dtype=torch.float32, device=self._device)
        second = torch.empty_like(best)
        _best_two[(triton.cdiv(num_rows, TILE_ROWS),)](
            rows,
            self._weights,
            index,
            best,
            second,
            num_rows,
            num_weights=len(self._weights),
            width=self._width,
            tile_rows=TILE_ROWS,
            tile_weights=TILE_WEIGHTS,
            tile_width=TILE_WIDTH,
        )
        index_T = index.cpu().numpy().astype(np.int64)
        return Found(index_T, best.cpu().numpy(), second.cpu().numpy())

    def _padded(self, rows_TE: RowsTE) -> torch.Tensor:
        """On the device, with zeros up to the width of a tile."""
        rows = torch.from_numpy(np.ascontiguousarray(rows_TE)).to(self._device)
        return torch.nn.functional.pad(rows, (0, self._width - rows.shape[1])).contiguous()
