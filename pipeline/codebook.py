"""The codebook stage: draw frames from the training clips and find their K centroids.

The state after every pass is kept in `codebooks/<name>/state`; a killed run goes on
from it and ends at the same bytes. The commit record comes last, and then the state goes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load, save

from cluster.launch import OpenClient
from configs.console import Progress, say
from configs.schema import CodebookConfig, Config
from pipeline import kmeans
from pipeline.audio.assign import choose_device
from pipeline.draw import Draw, draw_frames
from pipeline.stage import Stage, run_shards
from shards.atomic import write_whole
from shards.codebook import FILE_NAME, STAGE, Codebook, codebook_names
from shards.commit import CommitRecord, StageLog, canonical_json, ids_sha256, publish_bytes
from shards.index import open_shards
from shards.layout import Layout
from shards.seal import Seal

FORMAT = 1
STATE_NAME = "state"  # a hash, then safetensors
STAMP_BYTES = 32
FEW_A_CENTROID = 10  # frames

Metrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CodebookTask:
    """All that is needed to train one codebook."""

    root: Path
    config: Config
    name: str
    fold: int | None
    fingerprint: str

    @property
    def title(self) -> str:
        return f"{STAGE} {self.name}"


def run(config: Config, layout: Layout, client: OpenClient) -> None:
    """Train and commit every codebook of the job that is not committed yet: in this process, or
    on a worker that has what `cluster.task_resources.codebook` asks for."""
    seal = open_shards(layout)
    for name, fold in codebook_names(config.codebook, config.split):
        log = StageLog(layout, STAGE, name)
        state_path = layout.codebook(name) / STATE_NAME
        fingerprint = log.open(recipe(config, seal, fold), state_path)
        task = CodebookTask(layout.root.absolute(), config, name, fold, fingerprint)
        if log.record(0) is not None:
            say(f"codebook {name}: committed, nothing to do")
        elif config.cluster.resources_of(STAGE):
            run_shards(Stage(log, fingerprint, make_codebook), [task], config.cluster, client)
        else:
            make_codebook(task)
        state_path.unlink(missing_ok=True)


def make_codebook(task: CodebookTask) -> CommitRecord:
    """Train and commit one codebook, going on from the state that a killed attempt left."""
    layout, config, name = Layout(task.root), task.config, task.name
    log, seal = StageLog(layout, STAGE, name), open_shards(layout)
    existing = log.made(0, task.fingerprint)
    if existing is not None:
        return existing
    device = choose_device(config.codebook.device)
    draw = draw_frames(seal, config.codebook, config.split, task.fold)
    say(f"codebook {name}: {len(draw.train_ND)} frames drawn, faiss on {device}")
    if len(draw.train_ND) < FEW_A_CENTROID * config.codebook.k:
        say(f"warning: few frames for k={config.codebook.k} centroids; lower codebook.k")
    state = _train(layout, name, config.codebook, draw, task.fingerprint, device)
    codebook = _codebook(config, seal, state)
    metrics = measure(codebook, draw)
    record = _commit(log, codebook, metrics, task.fingerprint)
    say(summary(name, codebook, metrics))
    return record


def recipe(config: Config, seal: Seal, fold: int | None) -> dict[str, Any]:
    """Everything that decides a codebook, but for the kernels that round its sums."""
    return {
        "format": FORMAT,
        "frames": seal.fingerprint,
        "codebook": config.codebook.model_dump(mode="json", exclude={"device", "name"}),
        "split": config.split.model_dump(mode="json", exclude={"folds"}),
        "fold": fold,
    }


def _train(
    layout: Layout, name: str, config: CodebookConfig, draw: Draw, fingerprint: str, device: str
) -> kmeans.State:
    path = layout.codebook(name) / STATE_NAME
    state = _resume(path, fingerprint) or kmeans.start(draw.train_ND, config)
    if state.passes:
        say(f"codebook {name}: going on after pass {state.passes} of {config.passes}")
    with Progress(f"codebook {name}", config.passes, "frames", state.passes) as progress:
        for after_pass in kmeans.train(state, draw.train_ND, config, device):
            write_whole(layout.partial, path, _state_bytes(after_pass, fingerprint))
            progress.advance(len(draw.train_ND))
            state = after_pass
    return state


def _resume(path: Path, fingerprint: str) -> kmeans.State | None:
    """The state after the last pass; None where there is none that is whole and of this recipe:
    to begin again ends at the same bytes."""
    if not path.exists():
        return None
    data = path.read_bytes()
    stamp, tensors = data[:STAMP_BYTES], data[STAMP_BYTES:]
    is_ours = stamp == _stamp(tensors, fingerprint)
    return kmeans.resumed(load(tensors)) if is_ours else None


def _state_bytes(state: kmeans.State, fingerprint: str) -> bytes:
    tensors = save(kmeans.to_tensors(state))
    return _stamp(tensors, fingerprint) + tensors


def _stamp(tensors: bytes, fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode() + tensors).digest()


def _codebook(config: Config, seal: Seal, state: kmeans.State) -> Codebook:
    return Codebook(
        centroids_KD=state.centroids_KD,
        metric=config.codebook.metric,
        front_end=config.codebook.front_end,
        frames=config.frames.model_dump(mode="json"),
        sample_rate_hz=config.audio.sample_rate_hz,
        frames_fingerprint=seal.fingerprint,
    )


def measure(codebook: Codebook, draw: Draw) -> Metrics:
    """Error and use of the tokens, over the vectors drawn to train (`train`) and, where some were
    held out, over those (`holdout`)."""
    parts = {"train": draw.train_ND, "holdout": draw.holdout_ND}
    return {
        part: kmeans.measure(codebook.centroids_KD, vectors_ND, codebook.metric)
        for part, vectors_ND in parts.items()
        if len(vectors_ND)
    }


def _commit(log: StageLog, codebook: Codebook, metrics: Metrics, fingerprint: str) -> CommitRecord:
    layout = log.layout
    contents = {
        FILE_NAME: codebook.to_bytes(),
        "codebook.json": _pretty(codebook.header()),
        "metrics.json": _pretty(metrics),
    }
    files = tuple(
        publish_bytes(layout.partial, layout.root, layout.codebook(log.name) / file_name, data)
        for file_name, data in contents.items()
    )
    return log.commit(
        CommitRecord(
            stage=STAGE,
            name=log.name,
            shard=0,
            fingerprint=fingerprint,
            counts={"centroids": codebook.k, "frames": metrics["train"]["vectors"]},
            ids_sha256=ids_sha256([]),
            files=files,
        )
    )


def summary(name: str, codebook: Codebook, metrics: Metrics) -> str:
    """One line for people."""
    part, title = ("holdout", "held-out") if "holdout" in metrics else ("train", "training")
    train = metrics["train"]
    return (
        f"codebook {name}: {title} error {metrics[part]['error']:.4g}; of the training frames "
        f"{train['used']} of {codebook.k} tokens, perplexity {train['perplexity']:.0f}"
    )


def _pretty(tree: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(canonical_json(tree)), indent=2).encode() + b"\n"
