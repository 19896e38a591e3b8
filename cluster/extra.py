"""Packages of the extra `cluster`, which most machines do without."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from configs.errors import ClusterFailed


def extra(module: str) -> Any:
    """The module, imported when used; raises ClusterFailed where the extra is absent."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ClusterFailed(
            f"cluster.kind needs the package {module.partition('.')[0]} ({error}): "
            "pip install '.[cluster]'"
        ) from None


def one_line(text: object) -> str:
    """Words of another program, which may be many lines, for an error of one line."""
    return "; ".join(line.strip() for line in str(text).splitlines() if line.strip())
