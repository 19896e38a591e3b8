"""Clusters that stand between commands on other machines than the command's own, over TLS."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import succeed
from tests.fakes.places import PLACES, Place
from tests.processes import of_groups, wait_until
from tests.torture.job import small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow


@pytest.fixture(params=["ssh", "slurm"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    directory = tmp_path / "a place"
    directory.mkdir()
    with PLACES[request.param](directory) as place:
        yield place


def test_a_cluster_stands_over_tls_and_is_found_by_the_run(place: Place, tmp_path: Path) -> None:
    kind = place.config["kind"]
    config = small_job(tmp_path / "job", 16, 2)
    succeed("pipeline", "shard", config, f"run={tmp_path / 'inline'}")
    run = tmp_path / "run"
    settings = [f"cluster.{key}={json.dumps(value)}" for key, value in place.config.items()]
    try:
        said = succeed("cluster", "up", config, f"run={run}", *settings)
        assert f"{kind} cluster at tls://127.0.0.1:" in said
        wait_until(lambda: "2 workers" in succeed("cluster", "status", run), "workers")
        succeed("pipeline", "shard", config, f"run={run}", "cluster.kind=address")
    finally:
        ended = succeed("cluster", "down", run)
    assert "ended" in ended
    assert tree_hash(run) == tree_hash(tmp_path / "inline")
    assert not list((run / "cluster").glob("keys-*"))
    wait_until(lambda: not of_groups(set(place.groups()) - {os.getpgrp()}), "the end of all of it")
