"""The images as plain directories: built once, and removed when their tests are done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.test_docker.dockerfile import Stage, build


@pytest.fixture(scope="session")
def worker_image(registry: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    yield from _built("worker", tmp_path_factory.mktemp("worker-image"))


@pytest.fixture(scope="module")  # seven gigabytes, where the package cache is on another disk
def train_image(registry: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    yield from _built("train", tmp_path_factory.mktemp("train-image"))


def _built(name: str, place: Path) -> Iterator[Stage]:
    try:
        yield build(ROOT / "docker" / f"{name}.Dockerfile", place)
    finally:
        shutil.rmtree(place)
