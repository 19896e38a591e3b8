"""`make check` refuses broken files below docker/: its own commands, on copies with one fault."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.commands import ROOT

DOCKER = ROOT / "docker"
FAULTS = {
    "the newest of anything": ("worker.Dockerfile", "python:3.11-slim", "python:latest"),
    "root": ("train.Dockerfile", "USER 1000", "USER root"),
    "a shell between signals and Python": (
        "worker.Dockerfile",
        '["tini", "--"]',
        "tini --",
    ),
    "any version": ("train.Dockerfile", "--constraint constraints.txt uv", "uv"),
    "an unknown instruction": ("worker.Dockerfile", "WORKDIR", "WORKDIRECTORY"),
    "an unknown key": ("compose.yaml", "cap_drop:", "capdrop:"),
    "a wrong type": ("compose.yaml", "command: [python, -m, train", "command: {a: train"),
    "an unknown condition": ("compose.yaml", "service_healthy", "healthy"),
    "a misspelt field": ("kubernetes/shard.yaml", "backoffLimit", "backofLimit"),
    "a text for a number": ("kubernetes/train.yaml", "values: [75]", "values: [preempted]"),
    "a rule without verbs": ("kubernetes/setup.yaml", "    verbs: [get]\n", ""),
    "an unquoted variable": ("slurm/driver.sbatch", 'cd "${', "cd ${"),
}
TOOLS = {
    ".Dockerfile": "hadolint",
    "compose.yaml": "check-jsonschema",
    "kubernetes": "kubernetes-validate",
    ".sbatch": "shellcheck",
}


@cache
def check_commands() -> tuple[str, ...]:
    """What `make check` would run, with the tools beside this Python."""
    words = ["make", "--no-print-directory", "--dry-run", "check"]
    words.append(f"BIN={Path(sys.executable).parent}")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(done.stdout.replace("\\\n", " ").splitlines())


def lint(path: Path, kind: str) -> subprocess.CompletedProcess[str]:
    """The command of `make check` for this kind of file, on one file."""
    tool = next(tool for end, tool in TOOLS.items() if end in kind)
    if tool == "shellcheck" and shutil.which(tool) is None:
        pytest.skip("shellcheck is not installed")
    [line] = [line for line in check_commands() if tool in line and "docker/" in line]
    words = [str(path) if "docker/" in word else word for word in shlex.split(single(line))]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def single(line: str) -> str:
    """The command itself, where the line asks first whether its tool is there."""
    return line.split("then", 1)[-1].split(";")[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_file_is_refused(fault: str, tmp_path: Path) -> None:
    name, before, after = FAULTS[fault]
    text = (DOCKER / name).read_text()
    assert before in text
    path = tmp_path / Path(name).name
    path.write_text(text)
    assert lint(path, name).returncode == 0, "the file itself is not in order"
    path.write_text(text.replace(before, after, 1))
    refused = lint(path, name)
    assert refused.returncode == 1, refused.stdout + refused.stderr


def test_every_file_of_docker_is_looked_at() -> None:
    """By a linter, by ruff, or, the last ones, by tests that load or install them."""
    others = {
        DOCKER / name for name in ("dask.yaml", "slurm/audioset.yaml", "worker-overrides.txt")
    }
    for path in DOCKER.rglob("*.*"):
        is_linted = any(end in str(path) for end in TOOLS)
        assert is_linted or path.suffix in {".py", ".pyc"} or path in others, path
