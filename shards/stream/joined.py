"""Several token sets as one, for mixtures of data sets.

Legend: N rows asked for, Q codebooks. Rows of the second set are counted on from those of the
first, as `MixedOrder` counts its examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from configs.errors import InputError
from shards.codebook import open_codebook
from shards.commit import fingerprint
from shards.layout import Layout
from shards.plan import ClassName, load_bound
from shards.ragged import Indices, ragged, sorted_places, starts_of
from shards.stream.batches import decoded
from shards.stream.tokens import TokenChunk, Tokens, TokenSource, open_tokens, refuse_foreign

Labels = npt.NDArray[np.int16]
Part = tuple[TokenSource, Indices, Labels]  # rows of a set, and the numbers of its classes


class JoinedSource:
    """Token sets one after another, with labels of one numbering.

    Args:
        sources: the sets, made with the same codebook.
        numbers: for every set, the joint number of each of its classes.
    """

    def __init__(self, sources: Sequence[TokenSource], numbers: Sequence[Labels]) -> None:
        self.counts = [source.num_rows for source in sources]
        self.num_rows = sum(self.counts)
        self.rows_at_once = min(source.rows_at_once for source in sources)
        self.unit_sizes: Indices = np.concatenate([source.unit_sizes for source in sources])
        self.fingerprint = fingerprint(
            [
                [source.fingerprint, own.tolist()]
                for source, own in zip(sources, numbers, strict=True)
            ]
        )
        self._sources, self._numbers = tuple(sources), tuple(numbers)
        self._first_row = starts_of(np.array(self.counts))

    @property
    def all_rows(self) -> Indices:
        return np.arange(self.num_rows)

    def lengths(self, rows: Indices) -> npt.NDArray[np.int32]:
        """How many tokens each row has; 0 of a damaged one."""
        parts, back = self._parts(rows)
        return np.concatenate([source.lengths(own) for source, own, _ in parts])[back]

    def keys(self, rows: Indices) -> list[str]:
        """The tar keys of some rows: two sets may have the same."""
        return decoded(self.read(rows).keys_N)

    def labels(self, rows: Indices) -> tuple[Labels, Indices]:
        """The label ids of some rows, flat, and where each row's begin: [rows + 1]."""
        parts, back = self._parts(rows)
        return _joined_labels([source.labels(own) for source, own, _ in parts], parts, back)

    def read(self, rows: Indices) -> TokenChunk:
        """Many rows at once; the more, the cheaper each."""
        parts, back = self._parts(rows)
        chunks = [source.read(own) for source, own, _ in parts]
        labels, label_starts = _joined_labels(
            [(chunk.labels, chunk.label_starts) for chunk in chunks], parts, back
        )
        first_place = starts_of(np.array([len(chunk.rows_N) for chunk in chunks]))
        places = [c.place_N + first for c, first in zip(chunks, first_place, strict=False)]
        return TokenChunk(
            rows_N=rows,
            keys_N=np.concatenate([chunk.keys_N for chunk in chunks])[back],
            lengths_N=np.concatenate([chunk.lengths_N for chunk in chunks])[back],
            labels=labels,
            label_starts=label_starts,
            window_NWQ=_joined_windows([chunk.window_NWQ for chunk in chunks]),
            place_N=np.concatenate(places)[back],
            is_whole_N=np.concatenate([chunk.is_whole_N for chunk in chunks])[back],
        )

    def _parts(self, rows: Indices) -> tuple[list[Part], Indices]:
        """The rows of every set in their order, and where each of `rows` stands among them all."""
        sets = np.searchsorted(self._first_row, rows, side="right") - 1
        _, back = sorted_places(sets)
        return [
            (source, rows[sets == number] - first, numbers)
            for number, (source, first, numbers) in enumerate(
                zip(self._sources, self._first_row.tolist(), self._numbers, strict=False)
            )
        ], back


def _joined_labels(
    found: Sequence[tuple[Labels, Indices]], parts: Sequence[Part], back: Indices
) -> tuple[Labels, Indices]:
    """From the labels of every part, flat, and where each row's begin, to those of all rows."""
    flat = np.concatenate(
        [numbers[labels] for (labels, _), (_, _, numbers) in zip(found, parts, strict=True)]
    )
    counts = np.concatenate([np.diff(starts) for _, starts in found])
    picked = ragged(starts_of(counts)[back], counts[back])
    return flat[picked], starts_of(counts[back])


def _joined_windows(windows: Sequence[Tokens]) -> Tokens:
    """One below the other, as wide as the widest."""
    num_rows, width = sum(map(len, windows)), max(window.shape[1] for window in windows)
    joined_NWQ = np.zeros((num_rows, width, windows[0].shape[2]), dtype=np.uint16)
    first = 0
    for window in windows:
        joined_NWQ[first : first + len(window), : window.shape[1]] = window
        first += len(window)
    return joined_NWQ


def open_joined(runs: Sequence[Path], name: str) -> tuple[JoinedSource, tuple[ClassName, ...]]:
    """The token sets of a codebook in several runs as one, and the classes of all, by their ids.

    Raises NotMadeYet, IntegrityError, or InputError where the codebooks differ.
    """
    layouts = [Layout(run) for run in runs]
    codebooks = {open_codebook(layout, name)[1]: layout.root for layout in layouts}
    if len(codebooks) > 1:
        raise InputError(
            f"{' and '.join(map(str, codebooks.values()))}: their codebooks {name} differ, so that "
            "their tokens mean different things; tokenize all of them with one"
        )
    classes = [load_bound(layout).classes for layout in layouts]
    joint: dict[str, ClassName] = {}
    for own in chain.from_iterable(classes):
        joint.setdefault(own.id, own)
    number_of = {class_id: number for number, class_id in enumerate(joint)}
    for layout in layouts:
        refuse_foreign(layout, name)
    numbers = [np.array([number_of[own.id] for own in names], dtype=np.int16) for names in classes]
    source = JoinedSource([open_tokens(layout, name) for layout in layouts], numbers)
    return source, tuple(joint.values())
