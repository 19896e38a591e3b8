"""`python -m train VERB CONFIG [key=value ...]`: from token shards to a model and its scores, and
`python -m train VERB RUN ...`: what models say, side by side, clip by clip, of files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import AnyVerb, GridVerb, RunVerb, Verb, main, run_directory
from configs.signals import leave

if TYPE_CHECKING:
    from configs.schema import Config


def fit(config: Config) -> int:
    from train import fit  # torch takes seconds to import: `--help` should not

    return fit.run(config)


def evaluate(config: Config) -> int:
    from train import evaluate

    return evaluate.run(config)


def report(config: Config) -> int:
    from train.pages import report

    return report.run(config)


def compare(run: Path, args: argparse.Namespace) -> int:
    from train.pages.compare import compare

    return compare([run, *(run_directory(Path(word)) for word in args.words)], args.out)


def inspect(run: Path, args: argparse.Namespace) -> int:
    from train.pages.inspect import inspect

    return inspect(run, args.clip, args.model)


def predict(run: Path, args: argparse.Namespace) -> int:
    from train import predict

    return predict.run(run, args)


def sweep(path: Path, words: Sequence[str], is_dry: bool) -> int:
    from train import sweep

    return sweep.run(path, words, is_dry)


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", default=[], metavar="RUN", help="further runs")
    parser.add_argument("--out", type=Path, help="the page; none: compare.html in the first run")


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP", help="its id, as in the index")
    parser.add_argument("--model", metavar="NAME", help="one of the run's models; none: all")


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="FILE", help="audio, or directories of it")
    parser.add_argument("--model", metavar="NAME", help="the model, where the run has several")
    parser.add_argument("--window-s", type=float, metavar="S", help="length of windows")
    parser.add_argument("--hop-s", type=float, metavar="S", help="from window to window")
    parser.add_argument("--pool", choices=("mean", "max"), default="mean", help="over windows")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes that are shown")
    parser.add_argument("--timeline", action="store_true", help="show windows, too")
    parser.add_argument("--out", type=Path, help="write all of it: FILE.jsonl or FILE.parquet")


VERBS: dict[str, AnyVerb] = {
    "fit": Verb(fit, "train the models that the config names"),
    "eval": Verb(evaluate, "score the trained models on held-out clips"),
    "report": Verb(report, "write the HTML report of the trained models"),
    "compare": RunVerb(compare, "show scored models of runs side by side", _compare_options),
    "inspect": RunVerb(inspect, "one clip, its tokens, what models say of it", _inspect_options),
    "sweep": GridVerb(
        sweep,
        "train and score a model for every combination of the values given",
        dry_run="only print the commands",
    ),
    "predict": RunVerb(predict, "say what a trained model hears in files", _predict_options),
}

if __name__ == "__main__":
    # On cores that others use, too, threads that spin while they wait slow all of them down twenty
    # times; this short, they cost nothing on idle ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    leave(main("train", VERBS))
