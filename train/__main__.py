"""`python -m train VERB CONFIG [key=value ...]`: from token shards to a model and its scores, and
`python -m train VERB RUN ...`: what models say, side by side or clip by clip."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.cli import AnyVerb, GridVerb, RunVerb, Verb, main, run_directory
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


def sweep(path: Path, words: Sequence[str], is_dry: bool) -> int:
    from train import sweep

    return sweep.run(path, words, is_dry)


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="RUN", help="further runs")
    parser.add_argument("--out", type=Path, help="the page; none: compare.html in the first run")


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP", help="its id, as in the index")
    parser.add_argument("--model", help="of the run's models, by its directory; none: all")


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
}

if __name__ == "__main__":
    sys.exit(main("train", VERBS))
