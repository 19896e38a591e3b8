"""The codebook stage: fit the front end, draw frames, and find the K centroids of each codebook.

Shards are drawn from by tasks, training is one task more. All that is unfinished lies in a
`Workplace`: the fitted front end, what was drawn from each shard, and the state after every step
of training. A killed run goes on from there and ends at the same bytes. The commit record comes
last, and then the workplace goes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.launch import OpenClient
from configs.console import say
from configs.errors import InputError
from configs.frames import MelFrames
from configs.schema import Config
from pipeline import ledger
from pipeline.audio.choose import choose_device, choose_engine
from pipeline.audio.frames import frames_of
from pipeline.audio.quantise import Quantiser
from pipeline.audio.threads import one_blas_thread
from pipeline.draw import FRONT_END, DrawTask, draw_shard, fit_front_end, fitted, training_clips
from pipeline.drawn import Drawn, DrawnRows, gather
from pipeline.multi_codebook import Training, train_codebooks
from pipeline.stage import Stage, run_parts, run_shards
from pipeline.token_frames import fit_token_frames
from pipeline.workplace import Workplace
from shards.codebook import (
    FORMAT,
    HEADER,
    METRICS,
    STAGE,
    TENSORS,
    Codebook,
    asked_for,
    codebook_names,
)
from shards.commit import CommitRecord, StageLog, canonical_json, ids_sha256, publish_bytes
from shards.index import check_settings, open_shards
from shards.layout import Layout
from shards.seal import Seal

STEP = "step"  # of training, in the workplace
FEW_A_CENTROID = 10  # frames
FEWEST_FITTED = 2**17  # frames that what tokens stand for is fitted to, and
FITTED_A_TOKEN = 16  # at least for each token

Metrics = dict[str, Any]


@dataclass(frozen=True)
class CodebookTask:
    """All that is needed to train the codebooks of one name."""

    place: Workplace
    config: Config
    num_shards: int
    frames_fingerprint: str

    @property
    def title(self) -> str:
        return f"{STAGE} {self.place.name}"

    @property
    def centroid_width(self) -> int:
        """Numbers in a centroid."""
        config = self.config.codebook
        width = config.front_end.width(self.config.frames.num_bins)
        return width // config.codebooks if config.combine == "product" else width


def run(config: Config, layout: Layout, client: OpenClient) -> None:
    """Train and commit every codebook of the job that is not committed yet."""
    seal = open_shards(layout)
    check_settings(seal, config)
    for name, fold in codebook_names(config.codebook, config.split):
        log = StageLog(layout, STAGE, name)
        fingerprint = log.open(recipe(config, seal, fold), layout.codebook_work(name) / STEP)
        place = Workplace(layout.root.absolute(), name, fingerprint)
        if log.record(0) is None:
            say(_title(name, config))
            if not config.cluster.resources_of(STAGE):
                choose_device(config.codebook.device)  # before hours of drawing
            draws = _draw_tasks(config, seal, fold, place)
            task = CodebookTask(place, config, len(seal.records), seal.fingerprint)
            _make(log, draws, task, client)
        else:
            say(f"codebook {name}: committed, nothing to do")
        place.clear()


def _title(name: str, config: Config) -> str:
    """What is asked for: much of it may come from the run's config, and not from the command."""
    asked = config.codebook
    several = f", {asked.codebooks} codebooks ({asked.combine})" if asked.codebooks > 1 else ""
    return f"codebook {name}: k={asked.k}{several}, {asked.metric}, front end {asked.front_end}"


def _make(log: StageLog, draws: Sequence[DrawTask], task: CodebookTask, client: OpenClient) -> None:
    """Draw on all workers; then train in this process, or on a worker that has what
    `cluster.task_resources.codebook` asks for."""
    cluster, fingerprint = task.config.cluster, task.place.fingerprint
    if draws:
        run_parts(Stage(log, fingerprint, draw_shard, part="draw"), draws, cluster, client)
    if cluster.resources_of(STAGE):
        run_shards(Stage(log, fingerprint, make_codebook), [task], cluster, client)
    else:
        make_codebook(task)


def _draw_tasks(config: Config, seal: Seal, fold: int | None, place: Workplace) -> list[DrawTask]:
    """One for each shard that was not drawn from; before the first, the front end is fitted."""
    clips = training_clips(seal, config.codebook, config.split, fold)
    if place.read(FRONT_END) is None:
        place.write(FRONT_END, fit_front_end(seal, clips, config.codebook).tensors())
    wanted = config.codebook.k * config.codebook.frames_per_centroid
    num_clips = sum(len(of_shard.train) for of_shard in clips)
    return [
        DrawTask(
            place,
            record,
            of_shard,
            config.codebook,
            frames_a_clip=wanted / num_clips,
            silent_M=digital_silence(config),
        )
        for record, of_shard in zip(seal.records, clips, strict=True)
        if not place.has_drawn(record.shard)
    ]


def digital_silence(config: Config) -> npt.NDArray[np.float16]:
    """The frame [M], as stored, of samples that are all 0."""
    rate_hz = config.audio.sample_rate_hz
    longest = config.frames.n_fft if isinstance(config.frames, MelFrames) else 0
    silent_N = np.zeros(rate_hz + 2 * longest, dtype=np.float32)
    silent_TM = frames_of(silent_N, rate_hz, config.frames)
    return np.asarray(silent_TM[len(silent_TM) // 2], dtype=np.float16)


def recipe(config: Config, seal: Seal, fold: int | None) -> dict[str, Any]:
    """Everything that decides a codebook, but for the libraries and the kernels that round."""
    return {
        "format": FORMAT,
        "frames": seal.fingerprint,
        "codebook": asked_for(config.codebook),
        "split": config.split.model_dump(mode="json", exclude={"folds"}),
        "fold": fold,
    }


def make_codebook(task: CodebookTask) -> CommitRecord:
    """Train and commit, going on from the state that a killed attempt left."""
    place, config = task.place, task.config.codebook
    log = StageLog(place.layout, STAGE, place.name)
    existing = log.made(0, place.fingerprint)
    if existing is not None:
        return existing
    drawn = gather(place, task.num_shards)
    training = _train(task, drawn.train.capped(config.silence_share), drawn.holdout)
    with one_blas_thread:  # or their number decides last digits of the ledger
        codebook = _codebook(task, training, drawn)
        metrics = _metrics(task, training, codebook, drawn)
    record = _commit(log, codebook, metrics, place.fingerprint)
    say(summary(place.name, codebook, metrics))
    return record


def _train(task: CodebookTask, rows: DrawnRows, holdout: DrawnRows) -> Training:
    place, config = task.place, task.config.codebook
    num_frames = round(rows.total_weights()[0])
    choice = choose_engine(config.k, task.centroid_width, config.device)
    say(f"codebook {place.name}: {num_frames:,} frames drawn, assigned by {choice}")
    if num_frames < FEW_A_CENTROID * config.k:
        say(
            f"warning: {num_frames / config.k:.1f} frames a centroid, where "
            f"{config.frames_per_centroid} are asked for: lower codebook.k or give more clips"
        )
    kept = place.read(STEP)
    training = Training() if kept is None else Training.resumed(kept)
    if kept is not None:
        say(f"codebook {place.name}: going on after step {training.step}")
    try:
        for after_step in train_codebooks(training, config, rows, holdout, choice.build):
            place.write(STEP, after_step.tensors())
            training = after_step
    except InputError:  # these settings have no end to come to: others may take over
        place.path(STEP).unlink(missing_ok=True)
        raise
    return training


def _codebook(task: CodebookTask, training: Training, drawn: Drawn) -> Codebook:
    config = task.config
    codebook = Codebook(
        centroids_QKD=training.centroids_QKD,
        metric=config.codebook.metric,
        front_end=config.codebook.front_end.model_dump(mode="json"),
        frames=config.frames.model_dump(mode="json"),
        sample_rate_hz=config.audio.sample_rate_hz,
        frames_fingerprint=task.frames_fingerprint,
        combine=config.codebook.combine,
        front_end_tensors=fitted(task.place, config.codebook).tensors(),
    )
    rows = slice(0, max(FEWEST_FITTED, FITTED_A_TOKEN * codebook.k))
    vectors_ND, weights_N = drawn.train.read(rows)
    tokens_NQ = Quantiser(codebook).quantise(vectors_ND)
    frames_NM = drawn.train.frames(rows)
    token_frames_QVM = fit_token_frames(tokens_NQ, frames_NM, weights_N, codebook.vocabulary)
    if codebook.silence_token is not None:
        masked_M = drawn.masked_M
        token_frames_QVM[:, codebook.silence_token] = 0
        token_frames_QVM[0, codebook.silence_token] = (
            digital_silence(config) if masked_M is None else masked_M
        )
    return replace(codebook, token_frames_QVM=token_frames_QVM)


def _metrics(task: CodebookTask, training: Training, codebook: Codebook, drawn: Drawn) -> Metrics:
    """The ledger: over the frames drawn to train on (`train`) and, where some clips were held out,
    over theirs (`holdout`)."""
    quantiser = Quantiser(codebook)
    parts = {"train": drawn.train, "holdout": drawn.holdout}
    total, silence = drawn.train.total_weights()
    frames_per_s = codebook.sample_rate_hz / task.config.frames.hop_samples(codebook.sample_rate_hz)
    tokens_per_s = frames_per_s * codebook.num_codebooks
    return {
        "frames_drawn": round(total),
        "digital_silence": silence / total,
        "tokens_per_s": tokens_per_s,
        "bits_per_s": tokens_per_s * float(np.log2(codebook.vocabulary)),
        "judged_on": "holdout" if len(drawn.holdout) else "train",
        "steps": [
            {"train_errors": state.train_errors, "pass_errors": state.pass_errors}
            for state in training.done
        ],
        "map": np.round(ledger.pca_map(codebook.centroids_QKD[0]), 4).tolist(),
        **{name: ledger.measure(rows, quantiser) for name, rows in parts.items() if len(rows)},
    }


def _commit(log: StageLog, codebook: Codebook, metrics: Metrics, fingerprint: str) -> CommitRecord:
    layout = log.layout
    contents = {
        TENSORS: codebook.to_bytes(),
        HEADER: _pretty(codebook.header()),
        METRICS: canonical_json(metrics) + b"\n",
    }
    files = []
    for title, data in contents.items():
        path = layout.codebook_file(log.name, title, hashlib.sha256(data).hexdigest())
        files.append(publish_bytes(layout.partial, layout.root, path, data))
    return log.commit(
        CommitRecord(
            stage=STAGE,
            name=log.name,
            shard=0,
            fingerprint=fingerprint,
            counts={
                "centroids": codebook.k * codebook.num_codebooks,
                "frames": metrics["frames_drawn"],
            },
            ids_sha256=ids_sha256([]),
            files=tuple(files),
        )
    )


def summary(name: str, codebook: Codebook, metrics: Metrics) -> str:
    """The ledger as a table for people."""
    columns = [part for part in ("train", "holdout") if part in metrics]
    several = f" (means of {codebook.num_codebooks})" if codebook.num_codebooks > 1 else ""
    lines = [f"codebook {name}{several}:".ljust(34) + "".join(f"{part:>12}" for part in columns)]
    for title, of_part in ROWS.items():
        cells = "".join(f"{of_part(metrics[part]):>12}" for part in columns)
        lines.append(f"  {title:<32}{cells}")
    bits = f"{metrics['tokens_per_s']:.0f} tokens/s, {metrics['bits_per_s']:,.0f} bits/s"
    return "\n".join([*lines, f"  {bits}, {codebook.num_codebooks} x {codebook.k} tokens"])


def _mean(part: Metrics, name: str) -> float:
    return float(np.mean([of_codebook[name] for of_codebook in part["tokens"]]))


ROWS: dict[str, Callable[[Metrics], str]] = {
    "frames": lambda part: f"{part['frames']:,}",
    "error, cosine": lambda part: f"{part['cosine']:.4f}",
    "error, l2, each number": lambda part: f"{part['l2']:.4g}",
    "reconstruction, dB rms": lambda part: f"{part['db_rms']:.2f}",
    "tokens used": lambda part: f"{_mean(part, 'used'):.0f}",
    "tokens dead": lambda part: f"{_mean(part, 'dead'):.0f}",
    "perplexity": lambda part: f"{_mean(part, 'perplexity'):.0f}",
    "share of the 10 most frequent": lambda part: f"{_mean(part, 'top10_share'):.1%}",
    "tokens that make up 80 %": lambda part: f"{_mean(part, 'for_80_percent'):.0f}",
    "gap to the second, median": lambda part: f"{part['gaps']['0.5']:.3f}",
    "silhouette": lambda part: f"{part['silhouette']:.3f}",
}


def _pretty(tree: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(canonical_json(tree)), indent=2).encode() + b"\n"
