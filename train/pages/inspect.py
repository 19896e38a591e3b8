"""`train inspect`: one clip, its tokens, what models say of it, on the terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from configs.console import say
from configs.errors import InputError, NotMadeYet
from configs.load import load_config
from configs.schema import Config
from shards.atomic import write_whole
from shards.layout import Layout
from shards.splits import SPLITS
from train.data import TokenData, job_data
from train.jobs import Job, jobs
from train.logits import model_logits
from train.metrics import probabilities
from train.pages.clips import cards
from train.pages.page import page

Json = dict[str, Any]
PAGE_NAME = "inspect.html"
MEDIA = ("audio", "grid", "frames", "bands", "bounds")
SEARCHED = 50_000  # ids, for one that was meant


def inspect(run: Path, clip_id: str, model: str | None = None) -> int:
    """Say and show what the models of a run's config (or one, by its directory's name) make of a
    clip. Raises NotMadeYet where none is trained, InputError for an id or a name that is not there.
    """
    config, layout = load_config(run), Layout(run)
    shown = [_said(config, job, clip_id) for job in _trained(config, model)]
    for tree in shown:
        _say(tree)
    title = f"{clip_id} of {run.resolve().name}"
    path = layout.root / PAGE_NAME
    media = _media_of_all(shown)
    tree = {"title": title, "media": media, "models": shown}
    write_whole(layout.partial, path, page("inspect.html", title, tree))
    say(f"page: {path}")
    return 0


def _trained(config: Config, model: str | None) -> Iterator[Job]:
    found = [job for job in jobs(config) if job.record() is not None]
    if not found:
        raise NotMadeYet(f"{config.run}: no model is trained; run `python -m train fit` first")
    names = [job.name for job in found]
    if model is not None and model not in names:
        raise InputError(f"{config.run}: no trained model {model} (there are: {', '.join(names)})")
    return (job for job in found if model in (None, job.name))


def _said(config: Config, job: Job, clip_id: str) -> Json:
    data = job_data(config, job)
    row = np.array([_row_of(data, clip_id)])
    said_NC = probabilities(model_logits(config, job, data, row), data.task)
    (card,) = cards(job.layout, data, row, said_NC)
    code = int(data.splits[row[0]])
    return {
        "model": job.name,
        "tokens": job.tokens,
        "split": SPLITS[code] if code < len(SPLITS) else "left out",
        "classes": [name.name for name in data.classes],
        "clip": card,
    }


def _media_of_all(shown: list[Json]) -> Json:
    """Sound and picture of the clip, which is the same for all models, taken out of what each of
    them has of it."""
    found: Json = {}
    for tree in shown:
        clip = tree["clip"]
        found |= {name: clip.pop(name) for name in MEDIA if name in clip}
    return found


def _row_of(data: TokenData, clip_id: str) -> int:
    if clip_id in data.ids:
        return data.ids.index(clip_id)
    near = get_close_matches(clip_id, data.ids[:SEARCHED], n=3, cutoff=0.5) or data.ids[:3]
    raise InputError(
        f"no decoded clip has the id {clip_id} (there are: {', '.join(near)} ...); one that is in "
        "quarantine has no tokens: `python -m pipeline status` names those"
    )


def _say(tree: Json) -> None:
    """Tokens in a row as often as they come: 17 x3."""
    clip, names = tree["clip"], tree["classes"]
    truth = ", ".join(names[c] for c in clip["labels"]) or "no label"
    say(f"{tree['model']}: {clip['id']}, {tree['split']}, {clip['seconds']} s: {truth}")
    for tokens in clip["tokens"]:
        runs = ((token, len([*same])) for token, same in groupby(tokens))
        said = " ".join(f"{token}" if count == 1 else f"{token} x{count}" for token, count in runs)
        say(f"  {len(tokens)} tokens of {tree['tokens']}, {len({*tokens})} different: {said}")
    for c, share in clip["said"]:
        say(f"  {'*' if c in clip['labels'] else ' '} {100 * share:5.1f} %  {names[c]}")
