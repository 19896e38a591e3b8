"""A Dockerfile's steps as far as they can be walked without a container engine: COPY, and those RUN
that install Python packages, below a directory that stands for `/`. apt and users are only read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.commands import ROOT

INSTALLS = re.compile(r"\bpip install\b|-m venv\b")
ABSOLUTE = re.compile(r"(?<![\w./-])/(?=(app|keys|opt)\b)")
LIMIT_S = 550  # below the tests' own


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined: `RUN`, and all that follows it."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def instructions(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Instruction(name, text) for name, text in steps]


@dataclass
class Stage:
    """What a `FROM ... AS name` begins: a directory in place of `/`, where it is, what it sets."""

    root: Path
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def moved(self, text: str) -> str:
        """Absolute paths of the image, below this stage's directory."""
        return ABSOLUTE.sub(f"{self.root}/", text)

    def environment_here(self) -> dict[str, str]:
        """This machine's environment with the image's over it. Modules are compiled once, as in an
        image; what that makes lies beside it."""
        theirs = {key: self.moved(value) for key, value in self.environment.items()}
        theirs["PYTHONPYCACHEPREFIX"] = str(self.root.parent / "bytecode")
        theirs["PATH"] = theirs.get("PATH", "$PATH").replace("$PATH", os.environ["PATH"])
        return outer_environment() | theirs

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the image would: in its directory, with its environment."""
        return run_in(self.directory, self.environment_here(), *words)


def outer_environment() -> dict[str, str]:
    ours = ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if key not in ours}


def run_in(
    directory: Path, environment: dict[str, str], *words: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )


def build(dockerfile: Path, place: Path) -> Stage:
    """Walk all stages below `place`; returns the last one, which is the image.

    Raises AssertionError with the output of an installation that fails.
    """
    stages: dict[str, Stage] = {}
    for number, steps in enumerate(_by_stage(dockerfile)):
        name = steps[0].words[-1] if " AS " in steps[0].text else str(number)
        root = place / name
        stages[name] = stage = Stage(root, root)
        for step in steps[1:]:
            _walk(step, stage, stages, _own_python(place))
    return stage


def _by_stage(dockerfile: Path) -> Iterator[list[Instruction]]:
    steps: list[Instruction] = []
    for step in instructions(dockerfile):
        if step.name == "FROM" and steps:
            yield steps
            steps = []
        steps.append(step)
    yield steps


def _own_python(place: Path) -> Path:
    """The directory of a plain Python with pip, as the base image brings one."""
    home = place / "base"
    if not home.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    return home / "bin"


def _walk(step: Instruction, stage: Stage, stages: dict[str, Stage], python: Path) -> None:
    if step.name == "WORKDIR":
        stage.directory = Path(stage.moved(step.text))
        stage.directory.mkdir(parents=True, exist_ok=True)
    elif step.name == "ENV":
        stage.environment |= dict(word.split("=", 1) for word in step.words)
    elif step.name == "COPY":
        _copy(step.words, stage, stages)
    elif step.name == "RUN" and INSTALLS.search(step.text):
        _install(step.text, stage, python)


def _copy(words: list[str], stage: Stage, stages: dict[str, Stage]) -> None:
    *sources, target = [word for word in words if not word.startswith("--")]
    origin = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
    to = Path(stage.moved(target))
    to = to if to.is_absolute() else stage.directory / target
    if origin:  # a virtual environment does not work from another place: a link to it does
        to.parent.mkdir(parents=True, exist_ok=True)
        to.symlink_to(stages[origin[0]].moved(sources[0]))
        return
    for source in sources:
        _copy_in(ROOT / source, to, as_child=target.endswith("/") or target == ".")


def _copy_in(source: Path, to: Path, *, as_child: bool) -> None:
    if source.is_dir():  # its content, also into a directory with a slash
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        path = to / source.name if as_child else to
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)


def _install(text: str, stage: Stage, python: Path) -> None:
    """The RUN line itself. The stage's ENV is left out: it would forbid the package cache."""
    environment = outer_environment() | {"PATH": f"{python}:{os.environ['PATH']}"}
    done = run_in(stage.directory, environment, "sh", "-ec", stage.moved(text))
    assert done.returncode == 0, f"RUN {text}\n{done.stdout}{done.stderr}"
