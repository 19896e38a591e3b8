"""Configs that the tests of loading start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "configs").glob("*.yaml"))
MINIMAL = "run: r\nsource: {kind: esc, root: d}\n"
MODELS = MINIMAL + "models: {bag: {kind: bag}, lstm: {kind: lstm}, bert: {kind: bert}}\n"

WriteYaml = Callable[..., Path]
FaultsOf = Callable[..., list[str]]
