"""`train report`: one self-contained HTML file a model, which opens offline.

It says first what matters: the scores, beside those of chance and of the bag of tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from configs.console import say
from configs.models import BagModel
from configs.schema import Config
from shards.atomic import write_whole
from shards.events import timed
from shards.layout import Layout
from train.committed import SCORES_NAME
from train.data import TokenData, job_data
from train.evaluate import scores_of
from train.jobs import Job, jobs
from train.pages.clips import cards, hop_s
from train.pages.origin import codebook_use, origin, quarantine, training
from train.pages.page import page
from train.pages.scores import Scored, calibration, confusion, curves, per_class_f1, rounded

Json = dict[str, Any]
REPORT_NAME = "report.html"
SHOWN_CLIPS = 6  # of the worst, and of the best
MAPPED_CLIPS = 2_000
LENGTH_BINS = 24


def run(config: Config) -> int:
    """Write the report of every neural model that the config names, scoring it if need be."""
    layout = Layout(config.run)
    with timed(layout, "report"):
        for job in jobs(config):
            if isinstance(job.model, BagModel):
                say(f"report {job.name}: a bag's scores stand in reports of models named beside it")
                continue
            path = job.directory / REPORT_NAME
            write_whole(job.partial, path, build(config, job))
            say(f"report: {path}")
    return 0


def build(config: Config, job: Job) -> bytes:
    """The whole page of one model."""
    scores, data = scores_of(config, job), job_data(config, job)
    scored, map_N2 = read_scored(job, data, scores)
    tree = {
        "model": job.name,
        "run": job.layout.root.resolve().name,
        "task": data.task,
        "split": scores["split"],
        "classes": [name.name for name in data.classes],
        "models": _compared(config, job, scores),
        "counts": {
            split: data.count_classes(data.rows(split))[0].tolist() for split in ("train", "valid")
        },
        "per_class": scores["per_class"] | {"f1_decided": per_class_f1(scored)},
        "thresholds": scores["thresholds"],
        "curves": curves(scored),
        "calibration": calibration(scored),
        "confusion": confusion(scored),
        "clips": _clips(job, data, scored),
        "map": _map(scored, map_N2),
        "lengths": _lengths(data),
        "labels_a_clip": np.bincount(scored.has_NC.sum(axis=1)).tolist(),
        "codebook": codebook_use(job, data),
        "training": training(job),
        "quarantine": quarantine(job.layout),
        "origin": origin(config, job, data, scored.ids),
    }
    title = f"{job.name}: {100 * scores['map']:.1f} % mAP"
    return page("report.html", title, tree)


def read_scored(job: Job, data: TokenData, scores: Json) -> tuple[Scored, list[list[float]]]:
    """What `scores.parquet` holds of a model: logits and labels, and its map of the clips."""
    table = pq.read_table(job.directory / SCORES_NAME)
    flat = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    logits_NC = flat.astype(np.float32).reshape(len(table), -1)
    targets_NC = np.zeros_like(logits_NC)
    for n, labels in enumerate(table["labels"].to_pylist()):
        targets_NC[n, labels] = 1
    thresholds = scores["thresholds"]
    thresholds_C = None if thresholds is None else np.array(thresholds)
    ids = tuple(table["id"].to_pylist())
    return Scored(ids, logits_NC, targets_NC, data.task, thresholds_C), table["map"].to_pylist()


def _compared(config: Config, job: Job, scores: Json) -> list[Json]:
    """This model, the bag of the same tokens where it is trained, and what knows no clip."""
    same = (other for other in jobs(config) if other.tokens == job.tokens and other != job)
    bags = [other for other in same if isinstance(other.model, BagModel) and other.record()]
    rows = [(job.name, scores), *((bag.name, scores_of(config, bag)) for bag in bags)]
    chance = {"map": scores["prior_map"], "mauc": 0.5, "d_prime": 0.0}
    rows.append(("class frequencies only", chance))
    return [
        {"name": name, **{key: value for key, value in tree.items() if key != "per_class"}}
        for name, tree in rows
    ]


def _clips(job: Job, data: TokenData, scored: Scored) -> Json:
    """Those with the largest and with the smallest loss."""
    order = np.argsort(-scored.losses_N, kind="stable")
    row_of = {clip_id: row for row, clip_id in enumerate(data.ids)}
    rows_N = np.array([row_of[clip_id] for clip_id in scored.ids])
    worst = order[:SHOWN_CLIPS]
    best = order[len(worst) :][::-1][:SHOWN_CLIPS]
    said_NC = scored.probabilities_NC
    return {
        name: cards(job.layout, data, rows_N[chosen], said_NC[chosen])
        for name, chosen in (("worst", worst), ("best", best))
        if len(chosen)
    }


def _map(scored: Scored, map_N2: list[list[float]]) -> Json:
    """Where clips lie, each with its labels."""
    places = [rounded(np.array(place)) for place in map_N2[:MAPPED_CLIPS]]
    labels = [np.flatnonzero(has_C).tolist() for has_C in scored.has_NC[:MAPPED_CLIPS]]
    return {"places": places, "labels": labels, "ids": scored.ids[:MAPPED_CLIPS]}


def _lengths(data: TokenData) -> Json:
    """How many clips are how long: counts, and the bounds between them in seconds."""
    lengths_s = data.source.lengths(np.arange(data.source.num_rows)) * hop_s(data.codebook)
    counts, bounds_s = np.histogram(lengths_s, bins=LENGTH_BINS)
    return {"counts": counts.tolist(), "bounds_s": rounded(bounds_s)}
