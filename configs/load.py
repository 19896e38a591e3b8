"""YAML file -> includes -> overrides -> one validation -> a frozen `Config`.

A CONFIG argument is a YAML file, or a run directory, which stands for the config saved in it.
`include: [base.yaml]` merges other files first, left to right, relative to the including file;
then come `key.path=value` overrides, read as YAML. Every fault is listed in one message.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.faults import described, did_you_mean
from configs.schema import Config

SAVED_NAME = "config.yaml"


def load_config(where: Path, overrides: Sequence[str] = ()) -> Config:
    """The validated config at `where` (a YAML file or a run directory) with overrides applied.

    Raises ConfigError with every fault: missing file, bad YAML, unknown key, wrong type or range.
    """
    path = where / SAVED_NAME if where.is_dir() else where
    tree = _read_with_includes(path, seen=())
    if where.is_dir():  # it may have been moved since
        tree["run"] = str(where)
    for override in overrides:
        tree = merge(tree, _parse_override(override))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(str(path), [described(fault) for fault in error.errors()]) from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML text that `load_config` reads back to an equal value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top; mappings merge key by key, everything else replaces. A front
    end's name is short for a mapping."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if key == "front_end" and isinstance(below, str):
            below = {"preset": below}
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice (PyYAML silently keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
        if doubled:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {doubled[0]} is set twice")
        return super().construct_mapping(node, deep=deep)


def _read_with_includes(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(str(path), ["include: the file includes itself"])
    tree = _read_yaml(path)
    includes = tree.pop("include", [])
    if isinstance(includes, str):
        includes = [includes]
    if not (isinstance(includes, list) and all(isinstance(name, str) for name in includes)):
        raise ConfigError(str(path), ["include: must be a file name or a list of file names"])
    merged: dict[str, Any] = {}
    for name in includes:
        merged = merge(merged, _read_with_includes(path.parent / name, (*seen, path.resolve())))
    return merge(merged, tree)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(str(path), [_missing(path, error)]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not valid YAML: {error}"]) from None
    if not isinstance(tree, dict):
        raise ConfigError(str(path), ["must be a mapping of sections, as in configs/esc10.yaml"])
    return tree


def _missing(path: Path, error: OSError) -> str:
    if path.name == SAVED_NAME:
        return "this directory is no run: it holds no config.yaml"
    folder = path.parent
    known = sorted(item.name for item in folder.glob("*.yaml")) if folder.is_dir() else []
    hint = did_you_mean(path.name, known)
    if isinstance(error, FileNotFoundError):
        return f"there is no such config file or run{hint or '; configs/ holds some to begin with'}"
    return f"{error.strerror or 'cannot be read'}{hint}"


def split_override(text: str) -> tuple[str, str]:
    """Its key and its value, as they are written."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError("command line", [f"{text}: an override is written key.path=value"])
    return key, value


def _parse_override(text: str) -> dict[str, Any]:
    key, value = split_override(text)
    try:
        tree: Any = yaml.load(value, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        if value.lstrip().startswith(("{", "[")):
            raise ConfigError(
                "command line", [f"{key}: {value!r} is no YAML: {_short(error)}"]
            ) from None
        tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return dict(tree)


def _short(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    return str(problem or "a bracket is open")
