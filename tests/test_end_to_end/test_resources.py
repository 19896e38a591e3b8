"""Stages that ask for workers with a GPU, and Dask's own report of a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.events import read_lines
from tests.commands import run, succeed
from tests.torture.job import small_job
from tests.torture.trials import tree_hash

pytestmark = pytest.mark.slow

SMALL = ["codebook.k=8", "codebook.passes=2", "codebook.device=cpu"]
ASKED = ["cluster.task_resources={codebook: {GPU: 1}, tokenize: {GPU: 1}}"]
LOCAL = ["cluster.kind=local", "cluster.workers=2"]


def test_stages_that_ask_for_a_gpu_run_where_one_is_offered(tmp_path: Path) -> None:
    config = small_job(tmp_path)
    succeed("pipeline", "all", config, *SMALL, f"run={tmp_path / 'inline'}")
    offered = ["cluster.worker_resources={GPU: 1}"]
    words = [*SMALL, *LOCAL, *ASKED, *offered, "cluster.performance_report=true"]
    said = succeed("pipeline", "all", config, *words)
    assert "Dask's performance report:" in said
    assert tree_hash(tmp_path / "run") == tree_hash(tmp_path / "inline")
    starts = [e["task"] for e in read_lines(tmp_path / "run/events.jsonl") if e.get("task")]
    assert "codebook-default" in starts, "it ran on a worker"
    reports = {path.name for path in (tmp_path / "run/cluster").glob("dask-*.html")}
    stages = ("shard", "codebook draw", "codebook", "tokenize")
    assert reports == {f"dask-{stage}.html" for stage in stages}


def test_where_no_gpu_is_offered_the_job_says_so(tmp_path: Path) -> None:
    config = small_job(tmp_path)
    words = [*SMALL, *LOCAL, *ASKED, "cluster.wait_for_workers_s=2"]
    done = run("pipeline", "all", config, *words)
    assert done.returncode == 1
    assert "no worker with GPU=1 came within 2 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert "shard: 2/2" in done.stdout or "16 clips = 16 decoded" in done.stdout
