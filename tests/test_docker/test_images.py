"""What the Dockerfiles promise, and what they install, tried in plain virtual environments."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.test_docker.dockerfile import Stage, build, instructions

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
EACH = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
WORKER_MIB = 1000


@EACH
def test_what_an_image_copies_passes_the_dockerignore(dockerfile: Path) -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copies = [step.words for step in instructions(dockerfile) if step.name == "COPY"]
    here = [words for words in copies if not words[0].startswith("--from")]
    assert {name.rstrip("/") for words in here for name in words[:-1]} <= let_in
    assert all((ROOT / name).exists() for name in let_in)


@EACH
def test_an_image_runs_as_nobody_special_and_can_be_stopped(dockerfile: Path) -> None:
    last = {step.name: step for step in instructions(dockerfile)}
    assert last["USER"].text == "1000"
    assert "docker/healthy.py" in last["HEALTHCHECK"].text
    assert json.loads(last["ENTRYPOINT"].text) == ["tini", "--"]
    assert json.loads(last["CMD"].text)[:2] == ["python", "-m"]


@pytest.mark.slow
def test_another_install_line_is_another_image(registry: None, tmp_path: Path) -> None:
    dockerfile = changed_worker("iniconfig", tmp_path)
    image = build(dockerfile, tmp_path / "image")
    assert image.run("python", "-c", "import iniconfig").returncode == 0
    assert image.run("python", "-c", "import numpy").returncode == 1


@pytest.mark.slow
def test_an_install_line_that_fails_is_no_image(registry: None, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="iniconfig==0"):
        build(changed_worker("iniconfig==0.0.0", tmp_path), tmp_path / "image")


def changed_worker(packages: str, place: Path) -> Path:
    """The worker's Dockerfile, with other packages to install."""
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    changed, count = re.subn("--override .* cluster", packages, text)
    assert count == 1
    path = place / "Dockerfile"
    path.write_text(changed)
    return path


@pytest.mark.slow
def test_the_worker_image_is_small_and_holds_no_torch(worker_image: Stage) -> None:
    succeed(worker_image, "python", "-m", "pipeline", "--help")
    assert "No module named 'torch'" in worker_image.run("python", "-c", "import torch").stderr
    assert mib(worker_image.root / "opt/venv/lib") < WORKER_MIB
    assert outside_the_constraints(worker_image) == set()


@pytest.mark.slow
def test_the_training_image_trains_and_reaches_gpus(train_image: Stage) -> None:
    succeed(train_image, "python", "-m", "train", "--help")
    succeed(train_image, "python", "-m", "pipeline", "--help")
    succeed(train_image, "python", "-c", "import torchaudio, train.fit, train.pages.report")
    cuda = succeed(train_image, "python", "-c", "import torch; print(torch.version.cuda)")
    assert cuda.startswith("13.")
    succeed(train_image, "python", "-c", "import faiss; faiss.StandardGpuResources")
    assert outside_the_constraints(train_image) == set()


def succeed(image: Stage, *words: str) -> str:
    done = image.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outside_the_constraints(image: Stage) -> set[str]:
    code = "from importlib.metadata import distributions as all_of\n"
    code += "for item in all_of(): print(item.name.lower(), item.version)"
    installed = succeed(image, "python", "-c", code).splitlines()
    pinned = (ROOT / "constraints.txt").read_text().replace("==", " ").splitlines()
    return {re.sub(r"[._](?=.* )", "-", line) for line in installed} - set(pinned)


def mib(directory: Path) -> float:
    listed = subprocess.run(["du", "-sm", "-D", directory], capture_output=True, check=True)
    return float(listed.stdout.split()[0])
