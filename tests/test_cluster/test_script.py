"""`python -m cluster script`: what it prints is what would run, and a shell would take it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.pods import cluster_spec
from cluster.script import script
from cluster.standing import Standing, write_standing
from cluster.training import AGAIN
from cluster.verbs import home_of
from configs.schema import Config
from tests.commands import ROOT, succeed, write_config
from tests.fakes import batch_system
from tests.fakes.places import Place, on_fake_system
from tests.processes import wait_until

KINDS = ("inline", "local", "address", "ssh", "slurm", "pbs")
BATCH = ("slurm", "pbs")
SHEBANG = "#!/usr/bin/env bash"

# Stand-ins for what a node has. torchrun ends with $CODE, or when it is warned; the next time well.
COMMANDS = {
    "srun": 'log=${1#--output=}; shift; exec "$@" > "$log" 2>&1',
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> asked; fi',
    "pbsdsh": 'shift; "$@"; exit 0',
    "torchrun": (
        'echo "$@" >> asked; [ ! -e begun ] || exit 0; trap "exit 1" TERM; touch begun; '
        "for i in $WAIT; do sleep 0.2; done; "
        'if [ "$CODE" != 0 ]; then echo "  exitcode  : $CODE (pid: 9)"; exit 1; fi'
    ),
}


def config_of(tmp_path: Path, kind: str, **over: Any) -> Config:
    tree = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    cluster = {"kind": kind, "ssh": {"hosts": ["one", "two"]}} | over
    return Config.model_validate(tree | {"run": str(tmp_path / "my run"), "cluster": cluster})


def parts_of(config: Config) -> list[str]:
    """The scripts in what is printed: each begins with a line that names its shell."""
    text = script(config)
    parts = [SHEBANG + part for part in text.split(SHEBANG)[1:]]
    return parts or [text]


def shellcheck(text: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    words = ["shellcheck", "--shell=bash", "-"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("insecure", [False, True])
def test_a_shell_would_take_it(tmp_path: Path, kind: str, insecure: bool) -> None:
    for part in parts_of(config_of(tmp_path, kind, insecure=insecure)):
        shellcheck(part)


def test_the_command_prints_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, "slurm")
    file = write_config(tmp_path / "a.yaml", config.model_dump(mode="json"))
    assert succeed("cluster", "script", file) == script(config)


def test_workers_are_for_the_cluster_that_stands_in_the_run(tmp_path: Path) -> None:
    config = config_of(tmp_path, "address")
    home = home_of(config)
    home.mkdir(parents=True)
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    address = "tls://node1:8786"
    write_standing(home, Standing("slurm", address, "", "node1", 7, "2026-11-20T00:00:00Z", **pem))
    text = script(config)
    assert f"{address} --nworkers" in text
    assert f"DASK_DISTRIBUTED__COMM__TLS__CA_FILE={pem['ca']}" in text
    assert text.rstrip().endswith("pipeline shard CONFIG cluster.kind=address")


def test_a_scheduler_that_is_named_wants_its_keys_told(tmp_path: Path) -> None:
    tls = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    address = {"scheduler": "tls://node1:8786"}
    text = script(config_of(tmp_path, "address", address=address, tls=tls))
    job = text.splitlines()[-1]
    assert job.endswith(" ".join(f"cluster.tls.{name}={path}" for name, path in tls.items()))


@pytest.mark.parametrize(
    ("scheduler", "cure"),
    [("tls://192.0.2.7:1", "give cluster.tls.ca"), ("tcp://192.0.2.7:1", "cluster.insecure=true")],
)
def test_what_is_not_safe_is_said(tmp_path: Path, scheduler: str, cure: str) -> None:
    text = script(config_of(tmp_path, "address", address={"scheduler": scheduler}))
    assert text.startswith(f"# {scheduler} ")
    assert cure in text.splitlines()[0]


def test_a_workers_job_is_the_one_that_is_submitted(tmp_path: Path) -> None:
    """As the fake keeps it, but for the names that only a run knows."""
    from cluster.launch import open_client
    from cluster.verbs import home_of

    over = {"interface": "lo", "workers_per_job": 2}
    config = config_of(tmp_path, "slurm", slurm=over, workers=2)
    with (
        on_fake_system("slurm", tmp_path),
        open_client(config.cluster, home_of(config)) as opened,
    ):
        opened()
        submitted = Path(os.environ[batch_system.STATE], "1.sh").read_text().splitlines()
    printed = parts_of(config)[0].splitlines()
    printed = [line for line in printed if line and not line.startswith("# ")]
    for found, shown in zip([line for line in submitted if line], printed, strict=True):
        if "keys-" in shown:
            assert found.partition("keys-")[0] == shown.partition("keys-")[0]
        elif shown.startswith("exec "):
            assert found.split()[6:] != shown.split()[6:]  # the name
            assert found.split()[7:] == shown.split()[7:]
        else:
            assert found == shown


def test_kubernetes_is_the_spec_itself(tmp_path: Path) -> None:
    over = {"volume_claim": "v", "tls_secret": "s"}
    config = config_of(tmp_path, "kubernetes", kubernetes=over)
    assert yaml.safe_load(script(config)) == cluster_spec(config.cluster)


def test_ssh_makes_keys_for_every_process(tmp_path: Path) -> None:
    text = script(config_of(tmp_path, "ssh"))
    assert text.count("make_keys(") == 1
    assert [line for line in text.splitlines() if line.startswith("ssh ")] == [
        "ssh one sh -s << 'END' &",
        "ssh one sh -s << 'END' &",
        "ssh two sh -s << 'END' &",
    ]
    assert "make_keys" not in script(config_of(tmp_path, "ssh", insecure=True))


def training_of(tmp_path: Path, kind: str, **section: Any) -> str:
    training = {"nodes": 2, "gpus_per_node": 4, "walltime": "1-00:00:00"}
    over = {"training": training, kind: {"queue": "gpu", "account": "audio"} | section}
    return parts_of(config_of(tmp_path, kind, **over))[1]


def test_a_training_job_of_slurm(tmp_path: Path) -> None:
    lines = training_of(tmp_path, "slurm").splitlines()
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=audiolex-fit",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=audio",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --cpus-per-task=32",
        "#SBATCH --mem=65536M",
        "#SBATCH --time=1-00:00:00",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:TERM@120",
        f'#SBATCH --output="{tmp_path}/my run/cluster/logs/%x-%j.log"',
    ]
    assert "--nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d" in "\n".join(lines)


def test_a_training_job_of_pbs(tmp_path: Path) -> None:
    lines = training_of(tmp_path, "pbs").splitlines()
    assert "#PBS -l select=2:ncpus=32:ngpus=4:mem=65536mb" in lines
    assert "#PBS -l walltime=24:00:00" in lines
    assert "timeout --foreground --signal=TERM 86280 " in "\n".join(lines)


@pytest.fixture(params=BATCH)
def system(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A batch system whose nodes have stand-ins for Slurm's, PBS's and torch's commands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for name, body in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    with on_fake_system(request.param, tmp_path / "a system") as place:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        yield place


def submit(system: Place, tmp_path: Path) -> str:
    """Save the training job as it says, and submit it."""
    kind = system.config["kind"]
    text = training_of(tmp_path, kind, python=f"{tmp_path}/bin/python")
    found = re.search(r"save as (\S+), then: (.+)", text)
    assert found is not None
    (tmp_path / found[1]).write_text(text)
    subprocess.run(["sh", "-c", found[2]], check=True, stdout=subprocess.DEVNULL)
    return kind


def asked(tmp_path: Path) -> str:
    path = tmp_path / "asked"
    return path.read_text() if path.exists() else ""


def is_over(system: Place) -> bool:
    return not system.processes(0)


@pytest.mark.parametrize("code", [0, 1, 75])
def test_training_goes_again_after_75_only(
    system: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("CODE", str(code))
    kind = submit(system, tmp_path)
    runs = 2 if kind == "pbs" and code == 75 else 1
    wait_until(lambda: len(system.groups()) >= runs and is_over(system), "the end of the job", 20)
    assert len(system.groups()) == runs
    assert ("requeue 1" in asked(tmp_path)) == (kind == "slurm" and code == 75)
    who = {"slurm": ("1", "node1"), "pbs": ("1.here", "here")}[kind]
    assert "--rdzv-id={} --rdzv-endpoint={}:29500 -m train fit".format(*who) in asked(tmp_path)


@pytest.mark.parametrize("system", ["slurm"], indirect=True)
def test_a_warning_reaches_torchrun_and_brings_another_run(
    system: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE", "0")
    monkeypatch.setenv("WAIT", " ".join(map(str, range(100))))
    submit(system, tmp_path)
    wait_until((tmp_path / "begun").exists, "torchrun", 20)
    [shell] = system.groups()
    os.kill(shell, signal.SIGTERM)  # as --signal=B: does, to the batch shell only
    wait_until(lambda: is_over(system), "the end of the job", 20)
    assert "requeue 1" in asked(tmp_path)


TOY = "import sys; sys.exit(75)"


@pytest.mark.slow
def test_torchrun_says_75_though_it_ends_with_1(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "toy.py").write_text(TOY)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    words += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(tmp_path / "toy.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    found = subprocess.run(["grep", "-q", AGAIN], input=done.stderr, text=True, check=False)
    assert found.returncode == 0, done.stderr
