"""The commands that `--help`, `make` and the README name are the same, and all of them work."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import Config
from tests.commands import ROOT

# The final list of docs: what exists today is a part of it.
VERBS = {
    "pipeline": {"shard", "codebook", "tokenize", "all", "status", "listen"},
    "cluster": {"up", "down", "status", "script"},
    "shards": {"ls", "verify", "gc", "seal", "export", "audit"},
    "train": {
        *("fit", "eval", "inspect", "report", "compare", "sweep", "predict", "serve", "export"),
    },
}
TARGETS = set(
    "help setup test check demo all shard codebook tokenize train eval report serve quickstart "
    "quality bench torture docs docker".split()
)
TREE_LINE = re.compile(r"^( *)(\S+?)(/?)(?: +# .+)?$")


def packages() -> list[str]:
    return [name for name in VERBS if (ROOT / name / "__main__.py").exists()]


def helped_verbs(package: str) -> set[str]:
    words = [sys.executable, "-m", package, "--help"]
    text = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^    (\w+) ", text, flags=re.MULTILINE)) - {"VERB"}


def make_targets() -> set[str]:
    words = ["make", "--no-print-directory"]
    text = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  make (\w+)", text, flags=re.MULTILINE))


def readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.mark.parametrize("package", packages())
def test_the_readme_lists_the_verbs_that_help_lists(package: str) -> None:
    verbs = helped_verbs(package)
    named = set(re.findall(rf"python -m {package} (\w+)", readme()))
    assert verbs
    assert verbs <= VERBS[package]
    assert named == verbs


def test_the_readme_lists_the_targets_that_make_lists() -> None:
    targets = make_targets()
    assert targets <= TARGETS
    named = set(re.findall(r"(?:`|^    )make (\w+)", readme(), flags=re.MULTILINE))
    assert named == targets


def test_every_makefile_target_has_help() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == make_targets()


def test_help_is_quick() -> None:
    """No package imports torch, dask or faiss to say what it can do."""
    for package in packages():
        code = (
            f"import sys, {package}.__main__; "
            "print([m for m in ('torch', 'distributed', 'faiss') if m in sys.modules])"
        )
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_the_readme_tree_is_the_tree_on_disk() -> None:
    """Each file of the packages stands in the README with a caption, and none that is not there."""
    block = readme().split("<!-- tree -->")[1].split("```")[1]
    captioned: set[Path] = set()
    folder = Path()
    for line in block.splitlines():
        match = TREE_LINE.match(line)
        if not match:
            continue
        indent, name, is_folder = match.groups()
        folder = Path(*folder.parts[: len(indent) // 2])
        if is_folder:
            folder = folder / name
        else:
            assert " # " in line, f"{line} has no caption"
            captioned.add(folder / name)
    assert captioned == files_on_disk()


def files_on_disk() -> set[Path]:
    folders = ("configs", "shards", "cluster", "pipeline", "train", "benchmarks", "docker", "docs")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return {Path(name) for name in listed if not is_only_a_docstring(ROOT / name)}


def is_only_a_docstring(path: Path) -> bool:
    return path.name == "__init__.py" and len(ast.parse(path.read_text()).body) <= 1


def test_what_the_readme_does_in_python_works(finished: Config) -> None:
    """On a small run in the place of the demo's; names that it cuts short are looked up."""
    snippets = re.findall(r"```python\n(.*?)```", readme(), flags=re.DOTALL)
    ours = [text for text in snippets if "runs/demo" in text]
    assert len(ours) >= 3
    for text in ours:
        code = text.replace("runs/demo", str(finished.run))
        code = code.replace("data/demo", str(finished.source.root))
        code = re.sub(r'"([^"]+-)\.{4}(\w+)"', lambda match: repr(_first(*match.groups())), code)
        arrays = sorted(path.name for path in (finished.run / "frames.zarr").glob("000000-*"))
        words = [sys.executable, "-c", code.replace("000000-....", arrays[0])]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _first(start: str, extension: str) -> str:
    return next(str(path) for path in Path(start).parent.glob(f"{Path(start).name}*.{extension}"))
