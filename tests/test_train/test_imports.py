"""Who may import what, seen in fresh interpreters; and nothing in the tree that unpickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.schema import Config

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "configs", "pipeline", "shards", "train")

IMPORT_ALL = """
import importlib, pkgutil, sys
for package in sys.argv[2].split(","):
    root = importlib.import_module(package)
    for item in pkgutil.walk_packages(root.__path__, package + "."):
        if item.name not in sys.argv[3:]:
            importlib.import_module(item.name)
found = sorted(set(sys.argv[1].split(",")) & set(sys.modules))
sys.exit(f"imported: {found}" if found else 0)
"""

RUN_AGAIN = """
import sys
from pathlib import Path
from configs.load import load_config
from train import evaluate, fit
config = load_config(Path(sys.argv[1]))
assert fit.run(config) == 0
assert evaluate.run(config) == 0
sys.exit("imported torch" if "torch" in sys.modules else 0)
"""


def python(code: str, *args: str) -> None:
    subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, check=True, timeout=120)


def test_train_never_imports_dask() -> None:
    python(IMPORT_ALL, "dask,distributed,cluster", "train")


def test_what_workers_import_is_without_torch() -> None:
    forbidden = "torch,torchaudio,transformers,sklearn,matplotlib,train"
    only_on_gpus = "pipeline.audio.assign_triton"
    python(IMPORT_ALL, forbidden, ",".join(PACKAGES[:4]), only_on_gpus)


def test_a_second_fit_and_eval_answer_without_torch(copy_run: Callable[..., Config]) -> None:
    python(RUN_AGAIN, str(copy_run().run))


def test_what_one_model_needs_the_others_do_not_wait_for() -> None:
    """Transformers, scikit-learn and torch's compiler take seconds, each."""
    slow = {"transformers", "sklearn", "scipy.stats", "torch._dynamo"}
    wanted = "import train.trainers, train.pages.report, train.predictor"
    python(f"import sys; {wanted}; sys.exit(', '.join({slow} & sys.modules.keys()) or 0)")


FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    ("torch", "load"),
    ("torch", "save"),
    ("yaml", "load_all"),
    ("yaml", "full_load"),
    ("yaml", "unsafe_load"),
    ("pd", "read_pickle"),
}


def faults(tree: ast.AST) -> Iterator[str]:
    """Everything in a module that could run code out of data."""
    safe = {"SafeLoader", "CSafeLoader"} | {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _is_safe(node)
    }
    for node in ast.walk(tree):
        for fault in _imports(node) | _calls(node, safe):
            yield f"line {getattr(node, 'lineno', 0)}: {fault}"


def _imports(node: ast.AST) -> set[str]:
    names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
    if isinstance(node, ast.ImportFrom):
        names = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {
        n for n in names if n.split(".")[0] in FORBIDDEN_MODULES or n in ("torch.load", "yaml.load")
    }


def _calls(node: ast.AST, safe: set[str]) -> set[str]:
    if not isinstance(node, ast.Call):
        return set()
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    pickled = keywords.get("allow_pickle")
    found = {"allow_pickle"} if pickled and not _is_false(pickled) else set()
    if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
        found.add(node.func.id)
    if isinstance(node.func, ast.Attribute):
        pair = (ast.unparse(node.func.value), node.func.attr)
        loader = ast.unparse(keywords["Loader"]).split(".")[-1] if "Loader" in keywords else ""
        if pair in FORBIDDEN_METHODS or (pair == ("yaml", "load") and loader not in safe):
            found.add(".".join(pair))
    return found


def _is_safe(node: ast.ClassDef) -> bool:
    return any(
        ast.unparse(base).split(".")[-1] in ("SafeLoader", "CSafeLoader") for base in node.bases
    )


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("package", PACKAGES)
def test_no_data_is_ever_code(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = {str(path): list(faults(ast.parse(path.read_text()))) for path in paths}
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle as harmless",
        "from torch import load",
        "torch.load('x')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "class Mine(yaml.Loader): pass\nyaml.load(text, Loader=Mine)",
        "yaml.full_load(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "eval('1')",
        "exec(text)",
    ],
)
def test_the_test_above_can_fail(code: str) -> None:
    assert list(faults(ast.parse(code)))


def test_model_eval_and_safe_loaders_pass() -> None:
    code = "class Mine(yaml.SafeLoader): pass\nyaml.load(text, Loader=Mine)\nmodel.eval()"
    assert not list(faults(ast.parse(code)))
