"""The examples for batch systems and Kubernetes: configs that load, a driver that is requeued."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask_kubernetes.operator.controller.controller import (
    build_scheduler_deployment_spec,
    build_worker_deployment_spec,
)

from configs.load import load_config
from tests.commands import ROOT

KUBERNETES = ROOT / "docker" / "kubernetes"
SLURM = ROOT / "docker" / "slurm"
STAND_IN = """#!/bin/sh
echo "$@" > asked
trap 'sleep 0.3; exit 75' TERM
touch begun
for i in 1 2 3 4 5 6 7 8 9; do [ -z "$WAIT" ] || sleep 1; done
exit "$CODE"
"""


def jobs() -> list[dict[str, Any]]:
    trees = [
        yaml.safe_load((KUBERNETES / name).read_text()) for name in ("shard.yaml", "train.yaml")
    ]
    return [tree["spec"]["template"]["spec"] for tree in trees]


@pytest.mark.parametrize("pod", jobs(), ids=["shard", "train"])
def test_the_configs_take_the_arguments_of_the_jobs(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    config, *overrides = container["args"][4:]
    assert load_config(ROOT / config, overrides).run == Path("/data/runs/audioset")


@pytest.mark.parametrize("pod", jobs(), ids=["shard", "train"])
def test_a_job_is_locked(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_policy_covers_the_pods_that_the_operator_makes() -> None:
    setup = list(yaml.safe_load_all((KUBERNETES / "setup.yaml").read_text()))
    [policy] = [tree for tree in setup if tree["metadata"]["name"] == "audiolex-dask"]
    [rule] = policy["spec"]["podSelector"]["matchExpressions"]
    assert rule["operator"] == "Exists"
    scheduler = build_scheduler_deployment_spec("any", {"containers": []}, {}, {})
    worker = build_worker_deployment_spec("a", "b", "c", "d", {"containers": []}, {}, {})
    for made in (scheduler, worker):
        assert rule["key"] in made["spec"]["template"]["metadata"]["labels"]


def test_the_slurm_config_is_a_config() -> None:
    config = load_config(SLURM / "audioset.yaml")
    assert config.cluster.kind == "slurm"
    assert config.cluster.slurm.queue == "cpu"


class Batch:
    """The batch script, where python and scontrol are stand-ins that say what they were asked."""

    def __init__(self, place: Path) -> None:
        self.place = place
        write_command(place / ".venv/bin/python", STAND_IN)
        write_command(place / "bin/scontrol", '#!/bin/sh\necho "$@" > requeued\n')

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        own = {"PATH": f"{self.place}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        own |= {"SLURM_SUBMIT_DIR": str(self.place)} | environment
        words = ["bash", str(SLURM / "driver.sbatch"), "a.yaml", "codebook.k=50"]
        return subprocess.Popen(words, env=os.environ | own)

    def said(self, name: str) -> str | None:
        path = self.place / name
        return path.read_text().strip() if path.exists() else None


def write_command(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 75])
def test_only_a_preempted_driver_is_requeued(code: int, tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    assert batch.start(CODE=str(code)).wait(timeout=30) == code
    assert batch.said("asked") == "-m pipeline all a.yaml codebook.k=50"
    assert batch.said("requeued") == ("requeue 7" if code == 75 else None)


def test_the_warning_signal_reaches_the_driver(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    process = batch.start(CODE="1", WAIT="1")
    while batch.said("begun") is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert batch.said("requeued") == "requeue 7"
