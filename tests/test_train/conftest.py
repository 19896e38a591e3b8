"""Token sets written for one test, fits on them, and copies of the finished run."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from configs.data import DataConfig
from configs.load import merge
from configs.schema import Config, TrainConfig
from pipeline.verbs import run_verb
from shards.atomic import Attempt
from shards.codebook import Codebook
from shards.commit import CommitRecord, StageLog, Written, ids_sha256
from shards.layout import Layout
from shards.plan import ClassName
from shards.seal import write_seal
from shards.splits import SPLITS
from shards.stream.tokens import open_tokens
from shards.tokens import STAGE, Block, index_table, write_index, write_token_tar
from tests.conftest import tiny_tree
from train import evaluate, fit
from train.batches import Classes
from train.data import TokenData
from train.predictor import Predictor, load
from train.ranks import Ranks
from train.training import Fit

PREDICTING = ("bag", "linear", "lstm", "wide", "cnn", "mlp")
MODELS = {
    "wide": {"kind": "linear", "width": 8, "bag_path": True},  # which counts what is not masked
    "cnn": {"kind": "cnn", "channels": [4, 8], "hidden": 8},
    "mlp": {"kind": "mlp", "reads": "frames", "hidden": [8, 8]},
}
MakeData = Callable[..., TokenData]
MakeFit = Callable[..., Fit]
CopyRun = Callable[..., Config]


@pytest.fixture(autouse=True)
def _denormals() -> None:
    """Training sets the whole process to flush denormals; hypothesis needs them to draw floats."""
    torch.set_flush_denormal(False)


def with_config(data: TokenData, **settings: Any) -> TokenData:
    """The same tokens, read in another way."""
    return replace(data, config=DataConfig.model_validate(settings))


def write_tokens(layout: Layout, block: Block) -> None:
    """Commit, index and seal a token set of one shard."""
    log = StageLog(layout, STAGE, "default")
    with Attempt(layout.partial, "made") as attempt:
        arrays = write_token_tar(attempt.path("tokens.tar"), [block])
        tar = Written.of(attempt, "tokens.tar")
        file = tar.publish(layout.root, layout.token_tar("default", 0, tar.sha256))
        record = log.commit(
            CommitRecord(
                STAGE, "default", 0, "made", {}, ids_sha256(block.keys), (file,), {"arrays": arrays}
            )
        )
        write_index(attempt.path("index"), index_table([record]))
        index = Written.of(attempt, "index")
        place = layout.token_index("default", index.sha256)
        shared = {"index": index.publish(layout.root, place)}
    write_seal(log, [record], shared)


@pytest.fixture
def make_data(tmp_path: Path) -> MakeData:
    """Write a token set: clips (of tokens, or of as many tokens as there are codebooks), their
    labels, and how many are for training, validation, test."""
    numbers = itertools.count()

    def make(
        clips: Sequence[Sequence[int] | Sequence[Sequence[int]]],
        labels: Sequence[Sequence[int]],
        counts: tuple[int, int, int],
        *,
        k: int = 16,
        num_classes: int = 4,
        task: Any = "multilabel",
    ) -> TokenData:
        layout = Layout(tmp_path / f"tokens{next(numbers)}")
        ids = tuple(f"clip{n:03d}" for n in range(len(clips)))
        lengths = np.array([len(clip) for clip in clips], dtype=np.int32)
        flat_SQ = np.concatenate([np.array(c, dtype=np.uint16).reshape(len(c), -1) for c in clips])
        write_tokens(layout, Block(0, flat_SQ, ids, lengths, labels))
        classes = tuple(ClassName(f"/c/{c}", f"class {c}") for c in range(num_classes))
        centroids_QKD = np.tile(np.eye(k, dtype=np.float32), (flat_SQ.shape[1], 1, 1))
        codebook = Codebook(centroids_QKD, "l2", {}, {}, 8000, "made")
        splits = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts)
        source = open_tokens(layout, "default")
        learnt = Classes.chosen(classes, range(num_classes))
        return TokenData(source, codebook, "made", learnt, task, ids, splits)

    return make


@pytest.fixture
def random_data(make_data: MakeData) -> MakeData:
    """Clips of 1 to 12 random tokens; a class colours the tokens of the clips that have it."""

    def make(counts: tuple[int, int, int], *, seed: int = 0, **over: Any) -> TokenData:
        random = np.random.default_rng(seed)
        k, num_classes = over.setdefault("k", 16), over.setdefault("num_classes", 4)
        codebooks = over.pop("codebooks", 1)
        is_multiclass = over.get("task") == "multiclass"
        clips, labels = [], []
        for n in range(sum(counts)):
            extra = random.choice(num_classes, size=1 if is_multiclass else random.integers(1, 3))
            own = {n % num_classes} if is_multiclass else {n % num_classes, *extra.tolist()}
            noise = random.integers(k, size=random.integers(1, 12)).tolist()
            tokens = [*noise, *(c for c in own if c < k)]
            clips.append([[(token + q) % k for q in range(codebooks)] for token in tokens])
            labels.append(sorted(own))
        return make_data(clips, labels, counts, **over)

    return make


@pytest.fixture
def make_fit(tmp_path: Path) -> MakeFit:
    """A training in a directory of its own, two epochs unless told, on the CPU."""
    numbers = itertools.count()

    def make(
        data: TokenData, *, directory: str | None = None, reader: str = "stream", **train: Any
    ) -> Fit:
        config = TrainConfig.model_validate(
            {"epochs": 2, "batch_size": 4, "device": "cpu", "threads": 1, **train}
        )
        of_reader = {} if reader == "stream" else {"reader": reader, "buffer_clips": 8}
        place = tmp_path / (directory or f"fit{next(numbers)}")
        return Fit(
            title="fit made",
            directory=place,
            partial=place / "partial",
            fingerprint="made",
            data=with_config(data, **of_reader),
            config=config,
            ranks=Ranks(torch.device("cpu")),
        )

    return make


@pytest.fixture
def copy_run(finished: Config, tmp_path: Path) -> CopyRun:
    """A config for a private copy of the finished run; keywords replace sections of it."""
    numbers = itertools.count()

    def copy(**over: Any) -> Config:
        run = tmp_path / f"copy{next(numbers)}"
        shutil.copytree(finished.run, run)
        return Config.model_validate(finished.model_dump() | {"run": run} | over)

    return copy


@pytest.fixture(scope="session")
def scored(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on clips of uneven length, with models of all kinds, scored four clips at a time."""
    clips = tmp_path_factory.mktemp("uneven") / "clips"
    shutil.copytree(made_clips, clips)
    for number, path in enumerate(sorted(clips.glob("audio/*.flac"))):
        sound_NC, rate_hz = soundfile.read(path)
        soundfile.write(path, sound_NC[: round((1.5 - 0.13 * (number % 7)) * rate_hz)], rate_hz)
    over = {
        "models": MODELS,
        "model": list(PREDICTING),
        "train": {"micro_batch_size": 4},
    }
    config = Config.model_validate(merge(tiny_tree(clips, clips.parent / "run"), over))
    assert run_verb(config, "all") == 0
    assert fit.run(config) == 0
    assert evaluate.run(config) == 0
    return config


@pytest.fixture(scope="session")
def predictors(scored: Config) -> dict[str, Predictor]:
    return {name: load(scored.run, name) for name in PREDICTING}
