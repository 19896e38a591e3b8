"""From a source to the run's frozen plan: read the lists, cut long files, write it down once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.console import say
from configs.errors import ConfigError, InputError
from configs.load import load_config
from configs.schema import Config, SplitConfig
from configs.sources import Source
from pipeline.sources import read_source, source_lists
from pipeline.storage import absolute
from pipeline.windows import cut
from shards import plan as plans
from shards.atomic import sha256_file
from shards.commit import StageLog
from shards.layout import Layout
from shards.plan import Catalogue, ClassName, Plan
from shards.splits import CUTS, SPLITS, TEST, TRAIN, SplitCodes, SplitInputs, split_codes

NAMED = 5  # classes in a warning


def catalogue(config: Config) -> Catalogue:
    """What the source offers, long files cut. Raises InputError where a list is at fault."""
    offered = read_source(config.source)
    if config.source.windows is not None:
        offered = cut(offered, config.source.root, config.source.windows)
    if config.audio.store == "source" and offered.clips.column("start_s").null_count < len(
        offered.clips
    ):
        raise InputError("audio.store=source: clips are stretches of files; use flac or none")
    return offered


def frozen_plan(config: Config, log: StageLog) -> Plan:
    """The run's plan, made from the source the first time; once shards of it are committed (in
    `log`), it stands.

    Raises RecipeMismatch with the keys that differ where the config, or a list that is still
    there, is not the plan's.
    """
    layout = log.layout
    bound = (log.recipe() or {}).get("plan") if log.committed() else None
    is_there = layout.plan_json.exists() and (bound is None or layout.plan_table.exists())
    if not (is_there and log.committed()):
        return plans.freeze(layout, catalogue(config), recipe(config), config.shards, bound)
    asked, stored = recipe(config), plans.stored_recipe(layout)
    gone = {key for key, sha256 in asked["lists"].items() if sha256 is None}
    asked["lists"] |= {key: stored["lists"][key] for key in gone & stored["lists"].keys()}
    plans.check_recipe(layout, asked)
    plan = plans.load_bound(layout)
    _say_moved(config, layout)
    if config.source.kind == "folder":
        _say_new_files(config, plan)
    return plan


def _say_moved(config: Config, layout: Layout) -> None:
    """A data set may move; that another one has files of the same names, nobody looks."""
    try:
        saved, asked = load_config(layout.root).source.root, config.source.root
    except ConfigError:  # of another version, or damaged: this job replaces it
        return
    if absolute(saved) != absolute(asked):
        say(
            f"warning: source.root is {asked}, and the run's clips are of {saved}: what is decoded "
            "stays; if these are other files, give another run=DIR"
        )


def _say_new_files(config: Config, plan: Plan) -> None:
    """A directory is its own list, and a plan stands: what was added since is not in the run. What
    was removed may have been removed for good reason."""
    try:
        there = set(read_source(config.source).clips.column("path").to_pylist())
    except InputError:  # all of it is gone
        return
    new = there.difference(plan.column("path").to_pylist())
    if new:
        say(
            f"warning: {len(new)} files below {config.source.root} came after the plan and are not "
            f"in it, as {min(new)}; another run=DIR takes them"
        )


def say_splits(config: SplitConfig, clips: pa.Table, classes: Sequence[ClassName]) -> None:
    """How many clips train, validate and test, and which classes have none to train or to test on,
    before hours are spent on them; raises InputError where none is left to train on, or a group is
    torn apart."""
    inputs = SplitInputs.of_index(clips)
    declared = Counter(inputs.declared)
    if config.rule in CUTS and declared.keys() - {"train"}:
        listed = ", ".join(f"{declared[name]} {name}" for name in SPLITS)
        say(f"warning: the source says {listed}; split.rule={config.rule} cuts all clips anew")
    for fold in config.folds or (None,):
        codes = split_codes(inputs, config, fold)
        counts = np.bincount(codes, minlength=len(SPLITS))
        listed = ", ".join(f"{count} {name}" for name, count in zip(SPLITS, counts, strict=True))
        title = "split" if fold is None else f"split of fold {fold}"
        say(f"{title}: {listed} clips")
        _say_lacking(title, inputs, codes, classes)


def _say_lacking(
    title: str, inputs: SplitInputs, codes: SplitCodes, classes: Sequence[ClassName]
) -> None:
    """Classes that nothing can be learnt or said of."""
    num_labels_N = [len(labels) for labels in inputs.labels]
    labels = np.fromiter(chain.from_iterable(inputs.labels), np.int64, sum(num_labels_N))
    codes_L = np.repeat(codes, num_labels_N)
    has_any_C = np.bincount(labels, minlength=len(classes)) > 0
    for code, what in ((TRAIN, "to train on"), (TEST, "to test with")):
        lacks_C = has_any_C & ~np.isin(np.arange(len(classes)), labels[codes_L == code])
        if (codes == code).any() and lacks_C.any():
            names = ", ".join(classes[c].name for c in np.flatnonzero(lacks_C)[:NAMED].tolist())
            say(
                f"warning: {title}: {lacks_C.sum()} of {has_any_C.sum()} classes have no clip "
                f"{what} ({names}): give more of them, or leave them out"
            )


def recipe(config: Config) -> dict[str, Any]:
    """Everything that decides the plan. Lists count by their content, wherever they lie; one that
    is gone (None) is not held against a plan that stands."""
    lists = source_lists(config.source)
    return {
        "source": _without_places(config.source),
        "lists": {key: _hash_of(path) for key, path in sorted(lists.items())},
        "shards": config.shards.model_dump(mode="json"),
    }


def _without_places(source: Source) -> dict[str, Any]:
    tree: dict[str, Any] = _no_paths(source.model_dump(exclude={"root", "max_clip_s"}))
    return {**tree, "max_clip_s": source.max_clip_s}


def _no_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _no_paths(v) for k, v in value.items() if not isinstance(v, Path)}
    return list(value) if isinstance(value, tuple) else value


def _hash_of(path: Path) -> str | None:
    """The list's hash; None for one that is not there. A disk that fails is no such answer."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        return None
