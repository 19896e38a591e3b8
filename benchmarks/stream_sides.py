"""One system of `benchmarks.stream` at a time: a shuffled epoch, and the first batch of a resume.

    python -m benchmarks.stream_sides SIDE DIRECTORY NUM_CLIPS CPU_SECONDS

Every side gives the same batches: int64 tokens [64, 431] and float32 multi-hot labels [64, 527] as
torch tensors, and keys. Shuffle buffers hold 10,000 clips where a system has one. Ends in one JSON
line; a side that has used its CPU seconds stops where it is.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.stream_formats import CLIPS_PER_BLOCK, NUM_CLASSES

BATCH, BUFFER, SEED = 64, 10_000, 7
MOST_BATCHES_LOOKED_AT = 300  # for how well they are mixed

Batch = tuple[torch.Tensor, torch.Tensor, Sequence[str]]
Sample = tuple[Any, Any, str]  # tokens uint16 [431], label ids, key


def collate(samples: Sequence[Sample]) -> Batch:
    """From single clips, as most loaders give them."""
    tokens = np.stack([tokens for tokens, _, _ in samples]).astype(np.int64)
    targets = np.zeros((len(samples), NUM_CLASSES), dtype=np.float32)
    for place, (_, labels, _) in enumerate(samples):
        targets[place, labels] = 1.0
    return torch.from_numpy(tokens), torch.from_numpy(targets), [key for _, _, key in samples]


def batched(samples: Iterable[Sample]) -> Iterator[Batch]:
    waiting: list[Sample] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == BATCH:
            yield collate(waiting)
            waiting = []
    if waiting:
        yield collate(waiting)


class Side:
    """A system: batches from its beginning, or from a state on; and the state."""

    def __init__(self, directory: Path, num_clips: int) -> None:
        self.directory, self.num_clips = directory, num_clips

    def batches(self, state: Any = None) -> Iterator[Batch]:
        raise NotImplementedError

    def state(self) -> Any:
        """None: it cannot say where it is."""
        return None


class Ours(Side):
    """The sealed token set of a run, a permutation of all clips, read in the same thread."""

    def batches(self, state: Any = None) -> Iterator[Batch]:
        from functools import partial

        from shards.layout import Layout
        from shards.stream.order import GlobalOrder
        from shards.stream.sampler import Cursor
        from shards.stream.schedule import Schedule
        from shards.stream.stream import Stream
        from shards.stream.tokens import open_tokens, token_batch

        source = open_tokens(Layout(self.directory), "default")
        order, schedule = GlobalOrder(source.num_rows, SEED), Schedule(source.num_rows, BATCH, 1)
        collate_tokens = partial(token_batch, pad_id=0)
        stream = Stream(source, order, schedule, collate_tokens, num_threads=0)
        start = stream.sampler.place(Cursor.from_json(state)) if state else None
        for step in stream.steps(start):
            self._after = step.after
            (batch,) = step.batches
            tokens_BT, targets_BC = batch.tokens_BTQ[:, :, 0], batch.targets(NUM_CLASSES)
            yield (
                torch.from_numpy(tokens_BT),
                torch.from_numpy(targets_BC),
                batch.keys,
            )

    def state(self) -> Any:
        return self._after.to_json()


class Memmap(Side):
    """Arrays of everything, and a permutation."""

    def batches(self, state: Any = None) -> Iterator[Batch]:
        tokens, keys, labels, starts = (
            np.load(self.directory / f"{name}.npy", mmap_mode="r")
            for name in ("tokens", "keys", "labels", "starts")
        )
        starts = np.asarray(starts)
        order = np.random.default_rng(SEED).permutation(len(tokens))
        self._done = state or 0
        for first in range(self._done, len(order), BATCH):
            rows = order[first : first + BATCH]
            counts = starts[rows + 1] - starts[rows]
            shifts = starts[rows] - np.cumsum(counts) + counts
            flat = labels[np.repeat(shifts, counts) + np.arange(counts.sum())]
            targets = np.zeros((len(rows), NUM_CLASSES), dtype=np.float32)
            targets[np.repeat(np.arange(len(rows)), counts), flat] = 1.0
            self._done = first + len(rows)
            tokens_BT = torch.from_numpy(tokens[rows].astype(np.int64))
            yield (
                tokens_BT,
                torch.from_numpy(targets),
                [key.decode() for key in keys[rows].tolist()],
            )

    def state(self) -> Any:
        return self._done


class WebdatasetNaive(Side):
    """shuffle, decode, to_tuple, and torch's loader: as in most people's code."""

    def batches(self, state: Any = None) -> Iterator[Batch]:
        assert state is None
        loader: Any = torch.utils.data.DataLoader(
            self._samples(), batch_size=BATCH, num_workers=0, collate_fn=collate
        )
        return iter(loader)

    def _samples(self) -> Any:
        import webdataset as wds

        urls = sorted(map(str, self.directory.glob("*.tar")))
        shards = wds.WebDataset(urls, shardshuffle=len(urls), seed=SEED, empty_check=False)
        shuffled = shards.shuffle(BUFFER, initial=BUFFER, rng=random.Random(SEED))
        return shuffled.decode().to_tuple("tokens.npy", "labels.json", "__key__")


class WebdatasetBest(WebdatasetNaive):
    """One member a clip, no decoding by name, and nothing in the pipeline that need not be."""

    def _samples(self) -> Any:
        import webdataset as wds

        urls = sorted(map(str, self.directory.glob("*.tar")))
        return wds.DataPipeline(
            wds.SimpleShardList(urls),
            wds.detshuffle(len(urls), seed=SEED),
            wds.split_by_worker,
            wds.tarfile_to_samples(),
            wds.shuffle(BUFFER, initial=BUFFER, rng=random.Random(SEED)),
            wds.map(_unpacked),
        )


def _unpacked(sample: dict[str, Any]) -> Sample:
    import msgpack

    tokens, labels = msgpack.unpackb(sample["mp"])
    return np.frombuffer(tokens, np.uint16), np.frombuffer(labels, np.uint16), sample["__key__"]


def _of_items(items: Sequence[dict[str, Any]]) -> Batch:
    return collate([(item["tokens"], item["labels"], item["key"]) for item in items])


class Litdata(Side):
    def batches(self, state: Any = None) -> Iterator[Batch]:
        from litdata import StreamingDataLoader, StreamingDataset

        data = StreamingDataset(str(self.directory), shuffle=True, seed=SEED)
        self._loader = StreamingDataLoader(
            data, batch_size=BATCH, num_workers=0, shuffle=True, collate_fn=_of_items
        )
        if state:
            self._loader.load_state_dict(state)
        yield from self._loader

    def state(self) -> Any:
        return self._loader.state_dict()


class Mosaic(Side):
    def batches(self, state: Any = None) -> Iterator[Batch]:
        from streaming import StreamingDataLoader, StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()  # what a process before left would stop this one
        data = StreamingDataset(
            local=str(self.directory), shuffle=True, shuffle_seed=SEED, batch_size=BATCH
        )
        self._loader = StreamingDataLoader(
            data, batch_size=BATCH, num_workers=0, collate_fn=_of_items
        )
        self._loader._get_batch_size = lambda batch: len(batch[2])
        if state:
            self._loader.load_state_dict(state)
        yield from self._loader

    def state(self) -> Any:
        return self._loader.state_dict()


class Parquet(Side):
    """Hugging Face's datasets, streaming."""

    def batches(self, state: Any = None) -> Iterator[Batch]:
        import datasets

        datasets.disable_progress_bars()
        files = sorted(map(str, self.directory.glob("*.parquet")))
        data = datasets.load_dataset(
            "parquet",
            data_files=files,
            streaming=True,
            split="train",
            cache_dir=str(self.directory.parent / "datasets_cache"),
        )
        self._data = data.shuffle(seed=SEED, buffer_size=BUFFER).with_format("numpy")
        if state:
            self._data.load_state_dict(state)
        yield from torch.utils.data.DataLoader(self._data, batch_size=BATCH, collate_fn=_of_items)

    def state(self) -> Any:
        return self._data.state_dict()


class Grain(Side):
    def batches(self, state: Any = None) -> Iterator[Batch]:
        import grain

        files = sorted(map(str, self.directory.glob("*.array_record")))
        data = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files))
        shuffled = data.seed(SEED).shuffle().map(_of_record).batch(BATCH, batch_fn=collate)
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._iterator = iter(shuffled.to_iter_dataset(options))
        if state:
            self._iterator.set_state(state)
        yield from self._iterator

    def state(self) -> Any:
        return self._iterator.get_state()


def _of_record(record: bytes) -> Sample:
    import msgpack

    key, tokens, labels = msgpack.unpackb(record)
    return np.frombuffer(tokens, np.uint16), np.frombuffer(labels, np.uint16), key


SIDES: dict[str, Callable[[Path, int], Side]] = {
    "ours": Ours,
    "memmap": Memmap,
    "webdataset_naive": WebdatasetNaive,
    "webdataset_best": WebdatasetBest,
    "litdata": Litdata,
    "mosaic": Mosaic,
    "parquet": Parquet,
    "grain": Grain,
}
IMPORTS = {
    "ours": ("shards.stream.tokens",),
    "webdataset_naive": ("webdataset",),
    "webdataset_best": ("webdataset", "msgpack"),
    "litdata": ("litdata",),
    "mosaic": ("streaming",),
    "parquet": ("datasets", "pyarrow.parquet", "pyarrow.dataset"),
    "grain": ("grain", "msgpack"),
}


def measure(side: Side, limit_s: float) -> dict[str, Any]:
    """Clips per CPU second after the first batch, which fills buffers; blocks per batch; and, where
    the middle was reached, the first batch from there on in milliseconds."""
    half = side.num_clips // BATCH // 2
    blocks: list[int] = []
    clips = checksum = 0
    state, first_s = None, 0.0
    began_s = time.process_time()
    for number, (tokens_BT, targets_BC, keys) in enumerate(side.batches()):
        if number == 0:
            first_s = time.process_time() - began_s
        else:
            clips += len(keys)
        checksum += int(tokens_BT[0, 0]) + int(targets_BC.sum())
        if number < MOST_BATCHES_LOOKED_AT and len(keys) == BATCH:
            before_s = time.process_time()
            blocks.append(len({int(key[1:]) // CLIPS_PER_BLOCK for key in keys}))
            began_s += time.process_time() - before_s
        if number + 1 == half:
            state = side.state()
        if time.process_time() - began_s > limit_s:
            break
    seconds = time.process_time() - began_s - first_s
    found = {
        "clips": clips,
        "clips_per_s": clips / seconds,
        "first_batch_s": first_s,
        "blocks_per_batch": float(np.mean(blocks)),
        "checksum": checksum,
    }
    return found | ({} if state is None else {"resume_ms": _resume_ms(side, state)})


def _resume_ms(side: Side, state: Any) -> float:
    """In a new object of the same process: imports are done."""
    again = type(side)(side.directory, side.num_clips)
    began_s = time.perf_counter()
    next(again.batches(state))
    return 1000 * (time.perf_counter() - began_s)


def main() -> None:
    warnings.filterwarnings("ignore")
    name, directory, num_clips, limit_s = sys.argv[1:]
    torch.set_num_threads(1)
    for module in IMPORTS.get(name, ()):
        __import__(module)
    side = SIDES[name](Path(directory), int(num_clips))
    found = measure(side, float(limit_s))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"side": name, **found, "peak_mib": peak_mib}), flush=True)


if __name__ == "__main__":
    main()
