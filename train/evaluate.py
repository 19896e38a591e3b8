"""`train eval`: scores of every trained model on its held-out clips, computed once and kept.

`scores.parquet` beside the weights holds id, logits and labels of every clip scored, and its place
on a map of them; `eval.json` holds the scores, the model that they are of, and thresholds, which
validation clips decided. A second `eval` reads them, without torch.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from configs.console import answer, say
from configs.errors import NotMadeYet
from configs.schema import Config
from shards.atomic import Attempt, sha256_file, write_whole
from shards.commit import CURE, fingerprint, ids_sha256
from shards.events import timed, total_seconds
from shards.layout import Layout
from shards.seal import check_size
from train.committed import SCORES_NAME, kept_scores
from train.jobs import EVAL_NAME, Job, jobs, recipe, stamp_of
from train.world import world_of

if TYPE_CHECKING:
    from train.data import TokenData
    from train.ranking import Doubles

REPLICATE_DIGITS = 6  # differences between two models are small
FloatsNC = npt.NDArray[np.float32]
ORDERED = ("map", "map_weighted", "mauc", "lwlrap")
SHARES = ("accuracy", *ORDERED, "f1_micro", "f1_macro", "hamming")


def run(config: Config) -> int:
    """Score what is not scored yet, print a table, and end with one JSON line of means. Of several
    processes that torchrun starts, the first one does all of it."""
    if world_of(os.environ).rank:
        return 0
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
    # Of the same recipe, or training clips could pass for held-out ones.
    job.log.check(recipe(config, job), f"{CURE} {_remembered(job.layout)}")
    for file in record.files:
        check_size(job.layout.root, file)
    stamp = stamp_of(record)
    kept = kept_scores(job.directory)
    return kept if kept.get("model") == stamp else _score(config, job, stamp)


def _remembered(layout: Layout) -> str:
    return (
        "Where they came from a command line, the run knows those of its last `fit`: "
        f"`python -m train eval {layout.root}`."
    )


def _score(config: Config, job: Job, stamp: str) -> dict[str, Any]:
    from train.data import job_data, say_masked
    from train.logits import model_logits
    from train.metrics import evaluate

    data = job_data(config, job)
    every = data.rows(data.test_split)
    rows = data.whole(every)
    seen: list[FloatsNC] = []
    logits_NC = model_logits(config, job, data, rows, seen.append)
    targets_NC = data.targets(rows)
    thresholds_C = _thresholds(config, job, data)
    scores = {"model": stamp, "split": data.test_split, "clips": len(rows)}
    scores |= evaluate(logits_NC, targets_NC, data.task, thresholds_C)
    by_id = np.argsort([data.ids[row] for row in rows])  # so that draws are those of other models
    scores |= _intervals(scores, logits_NC[by_id], targets_NC[by_id], data.task)
    scores["thresholds"] = None if thresholds_C is None else thresholds_C.tolist()
    map_N2 = plane(np.concatenate(seen) if seen else logits_NC)
    _keep_logits(job, [data.ids[row] for row in rows], logits_NC, targets_NC, map_N2)
    scores["ids"] = ids_sha256(sorted(data.ids[row] for row in rows))
    scores["logits_sha256"] = sha256_file(job.directory / SCORES_NAME)
    text = json.dumps({**scores, "sha256": fingerprint(scores)}, indent=2) + "\n"
    if not data.source.damaged:  # or they would stand when it is mended
        write_whole(job.partial, job.directory / EVAL_NAME, text.encode())
    say_masked(len(every) - len(rows), data.test_split)
    return scores


def _thresholds(config: Config, job: Job, data: TokenData) -> Doubles | None:
    """As validation clips want them; None where one label is decided by the largest score, or where
    there are no validation clips but those that are scored."""
    from train.logits import model_logits
    from train.metrics import tuned_thresholds

    rows = data.whole(data.rows("valid"))
    if data.task != "multilabel" or data.test_split == "valid" or not len(rows):
        return None
    return tuned_thresholds(model_logits(config, job, data, rows), data.targets(rows))


def _intervals(
    scores: dict[str, Any], logits_NC: FloatsNC, targets_NC: FloatsNC, task: str
) -> dict[str, Any]:
    """95 % intervals of mAP and, of one label, of accuracy; and mAP in each draw of clips, None
    where a draw holds no positive."""
    from train.bootstrap import interval, map_replicates, share_replicates
    from train.metrics import decide, ranked_by

    replicates_B = {"map": map_replicates(ranked_by(logits_NC, task), targets_NC)}
    if "accuracy" in scores:
        is_right_N = np.any(decide(logits_NC, task) & (targets_NC > 0), axis=1)
        replicates_B["accuracy"] = share_replicates(np.asarray(is_right_N))
    found: dict[str, Any] = {
        f"{name}_interval": interval(scores[name], values_B)
        for name, values_B in replicates_B.items()
    }
    maps = replicates_B["map"].round(REPLICATE_DIGITS).tolist()
    return found | {"map_replicates": [None if math.isnan(value) else value for value in maps]}


def plane(vectors_ND: FloatsNC) -> FloatsNC:
    """Vectors in the plane of their two directions of largest variance, float32 [N, 2]."""
    centred_ND = vectors_ND - vectors_ND.mean(axis=0, dtype=np.float64)
    _, directions_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    main_D2 = directions_DD[:, ::-1][:, :2]
    main_D2 = main_D2 * np.sign(main_D2[np.abs(main_D2).argmax(axis=0), range(main_D2.shape[1])])
    found_N2 = np.zeros((len(vectors_ND), 2), np.float32)
    found_N2[:, : main_D2.shape[1]] = centred_ND @ main_D2
    return found_N2


def _keep_logits(
    job: Job, ids: list[str], logits_NC: FloatsNC, targets_NC: FloatsNC, map_N2: FloatsNC
) -> None:
    labels = [np.flatnonzero(targets_C).tolist() for targets_C in targets_NC]
    columns = {"id": ids, "logits": list(logits_NC), "labels": labels, "map": list(map_N2)}
    table = pa.table(columns)
    with Attempt(job.partial, "scores") as attempt:
        pq.write_table(table, attempt.path("table"))
        attempt.publish("table", job.directory / SCORES_NAME)


def summary(scored: list[tuple[Job, dict[str, Any]]]) -> dict[str, float]:
    """Means over the folds, in percent: `bert_map`, `bert_accuracy` ... and `prior_map`, what
    knowing the class frequencies gives."""
    values: dict[str, list[float]] = defaultdict(list)
    for job, scores in scored:
        for name in SHARES:
            if scores.get(name) is not None:
                values[f"{job.model_name}_{name}"].append(scores[name])
        values["prior_map"].append(scores["prior_map"])
    return {name: round(100 * float(np.mean(shares)), 2) for name, shares in values.items()}


def _say_table(scored: list[tuple[Job, dict[str, Any]]]) -> None:
    """In percent; the rest stands in `eval.json`. mAP has its 95 % interval beside it, and F1 is
    macro: at probability one half, and at the thresholds that validation clips gave."""
    rows = [(job.name, _cells(scores)) for job, scores in scored]
    columns = [*dict.fromkeys(name for _, cells in rows for name in cells)]
    say(f"{'model, in %':<22}" + "".join(f"{name:>10}" for name in columns))
    for name, cells in rows:
        say(f"{name:<22}" + "".join(f"{cells.get(column, ''):>10}" for column in columns))


def _cells(scores: dict[str, Any]) -> dict[str, str]:
    low, high = scores["map_interval"]
    values = {
        "accuracy": scores.get("accuracy"),
        "mAP": scores["map"],
        "+-": (high - low) / 2,
        "mAUC": scores["mauc"],
        "F1": scores["f1_macro"],
        "F1 tuned": scores.get("tuned", {}).get("f1_macro"),
        "prior mAP": scores["prior_map"],
    }
    held_out = {"clips": f"{scores['clips']} {scores['split']}"}
    shares = {name: f"{100 * value:.2f}" for name, value in values.items() if value is not None}
    return held_out | shares
