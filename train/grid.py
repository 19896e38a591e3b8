"""The points of a sweep: the configs that overrides of several values stand for.

`codebook.k=50,500 model=bert,lstm` are four points. They share a run, so that clips are decoded
once, and whatever makes points different is in the names of what they make: `k50` is a codebook,
`bert-lr0_001` an entry of `models`, and `models/k50-bert-lr0_001` a directory. What has one value
holds for all points, and is in no name.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.data import WHICH
from configs.errors import ConfigError, InputError
from configs.load import load_config, split_override
from configs.models import Model, NeuralModel
from configs.schema import Config
from shards.commit import fingerprint
from shards.layout import Layout
from train.jobs import Job

CODEBOOK_NAME = "codebook.name"
SHARED = set(Config.model_fields) - {"codebook", "data", "model", "models", "train"}
PLAIN_WORD = re.compile(r"[A-Za-z][0-9A-Za-z_]{0,23}")
HASH_CHARS = 8
OPENING, CLOSING, QUOTES = "[{", "]}", "\"'"


@dataclass(frozen=True)
class Point:
    """One config of a sweep.

    Args:
        settings: what it has of the grid, its model last; of values that are lists or mappings,
            what was typed.
        overrides: what makes CONFIG this point.
        config: which is this.
    """

    settings: Mapping[str, Any]
    overrides: tuple[str, ...]
    config: Config

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings.items())

    @property
    def codebook(self) -> str:
        return self.config.codebook.name

    @property
    def model(self) -> str:
        return self.config.model[0]

    @property
    def name(self) -> str:
        """The directory of its model; the number of a fold would come before the model's name."""
        model = self.config.models[self.model]
        return Job(Layout(self.config.run), self.codebook, None, self.model, model).name


@dataclass(frozen=True)
class Value:
    """What a point has for a key of several values: as it was typed, and as the config has it."""

    key: str
    text: str
    resolved: Any

    @property
    def shown(self) -> Any:
        return self.text if isinstance(self.resolved, dict | list) else self.resolved

    @property
    def slug(self) -> str:
        """Its part of a name: `k50`, `lr0_001`, `order-window`, `front_end-0x1f3a9c20`. Different
        values of a key have different ones."""
        below = self.key.split(".")[2 if self.key.startswith("models.") else 1 :]
        return f"{'_'.join(below)}{self._word()}".removeprefix("-")

    def _word(self) -> str:
        if self.resolved is None or isinstance(self.resolved, bool):
            return f"-{json.dumps(self.resolved)}"
        if isinstance(self.resolved, int | float):
            return repr(self.resolved).removesuffix(".0").replace(".", "_").replace("+", "")
        if PLAIN_WORD.fullmatch(self.text):
            return f"-{self.text}"
        return f"-0x{fingerprint(self.resolved)[:HASH_CHARS]}"


# --- what is typed ------------------------------------------------------------------------------


def split_values(text: str) -> list[str]:
    """At commas, but for those inside brackets, braces and quotes: a list is one value."""
    values, depth, quote = [""], 0, ""
    for character in text:
        if character == "," and not depth and not quote:
            values.append("")
            continue
        values[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES and values[-1].strip() == character:
            quote = character
        else:
            depth += (character in OPENING) - (character in CLOSING)
    return [value.strip() for value in values]


def axes_of(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of every key of the command line, in its order."""
    typed = dict(split_override(word) for word in words)  # the last one counts, as elsewhere
    return {key: split_values(text) for key, text in typed.items()}


def grid(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of values, the last key going round first."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


# --- what it stands for -------------------------------------------------------------------------


def points_of(path: Path, words: Sequence[str]) -> list[Point]:
    """The points of CONFIG and its overrides, each model by itself; what is the same point, as the
    learning rates of a model that has none, is in it once.

    Raises ConfigError with the faults of all points.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: is a run, and each point would become its saved config; sweep a YAML file "
            f"(`python -m train fit {path} --print-config > FILE.yaml` writes it)"
        )
    axes = axes_of(words)
    typed, configs = grid(axes), _load_all(path, axes)
    swept = sorted(key for key, values in axes.items() if len(values) > 1 and key != "model")
    texts: dict[str, str] = {}  # the first spelling of each value
    found: dict[str, Point] = {}
    for settings, config in zip(typed, configs, strict=True):
        values = [_value(key, settings[key], config, texts) for key in swept]
        for model in _models(config):
            point = _point(path, settings, values, config, model)
            _refuse_collision(found.setdefault(point.name, point), point)
    return list(found.values())


def _load_all(path: Path, axes: Mapping[str, Sequence[str]]) -> list[Config]:
    configs, faults = [], dict.fromkeys(_faults(axes))
    for settings in grid(axes):
        try:
            configs.append(load_config(path, _overrides(settings)))
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise ConfigError(str(path), list(faults))
    return configs


def _faults(axes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What is wrong with the values together."""
    for key, values in axes.items():
        if len(values) > 1 and "" in values:
            yield f"{key}: one of its values is empty: leave out a comma"
        if len(values) > 1 and key.split(".")[0] in SHARED:
            yield (
                f"{key}: all points of a sweep are in one run, on the same shards, and so it has "
                "one value: make a sweep of each (run=DIR), then `python -m train compare RUN RUN`"
            )


def _overrides(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={text}" for key, text in settings.items()]


def _models(config: Config) -> Sequence[str]:
    if not config.model:
        known = ", ".join(config.models) or "none is described under models"
        raise ConfigError("model", [f"say which models to train: model=NAME,NAME (known: {known})"])
    return config.model


def _value(key: str, text: str, config: Config, texts: dict[str, str]) -> Value:
    """Resolved, so that `1e-3` is `0.001`. What the config has no more under the key, as a preset,
    is all that came of it."""
    resolved: Any = config.model_dump(mode="json")
    for part in key.split("."):
        if not isinstance(resolved, dict) or part not in resolved:
            break
        resolved = resolved[part]
    return Value(key, texts.setdefault(fingerprint([key, resolved]), text), resolved)


def _point(
    path: Path, settings: Mapping[str, str], values: Iterable[Value], config: Config, model: str
) -> Point:
    entry = config.models[model]
    _refuse_overruled(values, model, entry)
    own = [value for value in values if _decides(value.key, model, entry)]
    of_codebook = [value for value in own if value.key.startswith("codebook")]
    of_model = [value for value in own if value not in of_codebook]
    codebook = _codebook_name(config.codebook.name, of_codebook)
    name = "-".join([model, *(value.slug for value in of_model)])
    kept = _shared_settings(settings, values, own)
    if codebook != config.codebook.name:
        kept[CODEBOOK_NAME] = codebook
    if of_model:
        kept[f"models.{name}"] = _copy(entry, name, config)
    kept["model"] = name
    shown = {value.key: value.shown for value in own} | {"model": model}
    overrides = _overrides(kept)
    return Point(shown, tuple(overrides), load_config(path, overrides))


def _refuse_overruled(values: Iterable[Value], model: str, entry: Model) -> None:
    """Raises ConfigError where a model's own setting stands above the one that is varied."""
    for value in values:
        section, *below = value.key.split(".")
        if section == "train" and below and getattr(entry, below[0], None) is not None:
            own = f"models.{model}.{below[0]}"
            raise ConfigError(
                "command line",
                [f"{value.key}: {model} goes by {own}, which stands above it: vary that"],
            )


def _decides(key: str, model: str, entry: Model) -> bool:
    """Whether a key has to do with a model's weights: not one of another model, nor how examples go
    through a bag, which takes them all at once."""
    section, *below = key.split(".")
    if section == "models":
        return not below or below[0] == model
    of_steps = section == "train" or (section == "data" and below and below[0] not in WHICH)
    return isinstance(entry, NeuralModel) or not of_steps


def _codebook_name(base: str, values: Iterable[Value]) -> str:
    slugs = [value.slug for value in values if value.key != CODEBOOK_NAME]
    prefix = [] if slugs and base == "default" else [base]
    return "-".join([*prefix, *slugs])


def _shared_settings(
    settings: Mapping[str, str], values: Iterable[Value], own: Sequence[Value]
) -> dict[str, str]:
    """What is typed for the point, less what decides nothing for its model, or goes into a copy of
    its entry."""
    dropped = {value.key for value in values if value not in own or value.key.startswith("models")}
    return {key: text for key, text in settings.items() if key not in dropped | {"model"}}


def _copy(entry: Model, name: str, config: Config) -> str:
    if name in config.models:
        raise ConfigError(
            "command line",
            [f"models.{name}: is in the config, and the sweep would call a model so: rename it"],
        )
    return json.dumps(entry.model_dump(mode="json", exclude_unset=True))


def _refuse_collision(first: Point, second: Point) -> None:
    if first.config != second.config:
        raise ConfigError(
            "command line",
            [f"{first} and {second} would both be models/{first.name}: rename a model or codebook"],
        )
