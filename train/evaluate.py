"""`train eval`: scores of every trained model on its held-out clips, computed once and kept.

`scores.parquet` beside the weights holds id, logits and labels of every clip scored; `eval.json`
holds the scores and the model that they are of. A second `eval` reads them, without torch.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from configs.console import answer, say
from configs.errors import NotMadeYet
from configs.schema import Config
from shards.atomic import Attempt, sha256_file, write_whole
from shards.commit import fingerprint
from shards.events import timed, total_seconds
from shards.layout import Layout
from shards.seal import check_size
from train.jobs import EVAL_NAME, Job, jobs, recipe, stamp_of

SCORES_NAME = "scores.parquet"
FloatsNC = npt.NDArray[np.float32]
SHOWN = ("accuracy", "map", "f1_micro", "f1_macro", "hamming")


def run(config: Config) -> int:
    """Score what is not scored yet, print a table, and end with one JSON line of means."""
    layout = Layout(config.run)
    with timed(layout, "eval"):
        scored = [(job, scores_of(config, job)) for job in jobs(config)]
    _say_table(scored)
    answer(summary(scored) | {"seconds": round(total_seconds(layout), 1)})
    return 0


def scores_of(config: Config, job: Job) -> dict[str, Any]:
    """The scores of one model, from `eval.json` if they are of the model that is committed.

    Raises NotMadeYet where the model is not trained, RecipeMismatch where it was trained with
    other settings.
    """
    record = job.record()
    if record is None:
        raise NotMadeYet(f"{job.directory}: not trained yet; run `python -m train fit` first")
    job.log.check(recipe(config, job))  # or training clips could pass for held-out ones
    for file in record.files:
        check_size(job.layout.root, file)
    stamp = stamp_of(record)
    kept = _kept(job)
    return kept if kept.get("model") == stamp else _score(config, job, stamp)


def _kept(job: Job) -> dict[str, Any]:
    """The scores in `eval.json`; empty where they, or the logits that they are of, changed."""
    try:
        kept: dict[str, Any] = json.loads((job.directory / EVAL_NAME).read_bytes())
        signature = kept.pop("sha256")
        logits_sha256 = sha256_file(job.directory / SCORES_NAME)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    is_whole = signature == fingerprint(kept) and kept["logits_sha256"] == logits_sha256
    return kept if is_whole else {}


def _score(config: Config, job: Job, stamp: str) -> dict[str, Any]:
    from train.data import job_data, say_masked
    from train.logits import model_logits
    from train.metrics import evaluate

    data = job_data(config, job)
    every = data.rows(data.test_split)
    rows = data.whole(every)
    logits_NC, targets_NC = model_logits(config, job, data, rows), data.targets(rows)
    scores = {"model": stamp, "split": data.test_split, "clips": len(rows)}
    scores |= evaluate(logits_NC, targets_NC, data.task)
    _keep_logits(job, [data.ids[row] for row in rows], logits_NC, targets_NC)
    scores["logits_sha256"] = sha256_file(job.directory / SCORES_NAME)
    text = json.dumps({**scores, "sha256": fingerprint(scores)}, indent=2) + "\n"
    if not data.source.damaged:  # or they would stand when it is mended
        write_whole(job.partial, job.directory / EVAL_NAME, text.encode())
    say_masked(len(every) - len(rows), data.test_split)
    return scores


def _keep_logits(job: Job, ids: list[str], logits_NC: FloatsNC, targets_NC: FloatsNC) -> None:
    labels = [np.flatnonzero(targets_C).tolist() for targets_C in targets_NC]
    table = pa.table({"id": ids, "logits": list(logits_NC), "labels": labels})
    with Attempt(job.partial, "scores") as attempt:
        pq.write_table(table, attempt.path("table"))
        attempt.publish("table", job.directory / SCORES_NAME)


def summary(scored: list[tuple[Job, dict[str, Any]]]) -> dict[str, float]:
    """Means over the folds, in percent: `bert_map`, `bert_accuracy` ... and `prior_map`, what
    knowing the class frequencies gives."""
    values: dict[str, list[float]] = defaultdict(list)
    for job, scores in scored:
        for name in SHOWN:
            if name in scores:
                values[f"{job.model_name}_{name}"].append(scores[name])
        values["prior_map"].append(scores["prior_map"])
    return {name: round(100 * float(np.mean(shares)), 2) for name, shares in values.items()}


def _say_table(scored: list[tuple[Job, dict[str, Any]]]) -> None:
    columns = [name for name in (*SHOWN, "prior_map") if any(name in s for _, s in scored)]
    say("".join([f"{'model':<22}{'clips':>12}", *(f"{name:>11}" for name in columns)]))
    for job, scores in scored:
        cells = [f"{100 * scores[name]:>10.2f}%" for name in columns]
        scored_on = f"{scores['clips']} {scores['split']}"
        say("".join([f"{job.name:<22}{scored_on:>12}", *cells]))
