"""`python -m train VERB CONFIG [key=value ...]`: from token shards to a model and its scores, and
`python -m train predict RUN FILE ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import AnyVerb, RunVerb, Verb, main

if TYPE_CHECKING:
    from configs.schema import Config


def fit(config: Config) -> int:
    from train import fit  # torch takes seconds to import: `--help` should not

    return fit.run(config)


def evaluate(config: Config) -> int:
    from train import evaluate

    return evaluate.run(config)


def report(config: Config) -> int:
    from train import report

    return report.run(config)


def predict(run: Path, args: argparse.Namespace) -> int:
    from train import predict

    return predict.run(run, args)


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
    "predict": RunVerb(predict, "say what a trained model hears in files", _predict_options),
}

if __name__ == "__main__":
    sys.exit(main("train", VERBS))
