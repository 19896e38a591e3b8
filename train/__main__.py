"""`python -m train VERB CONFIG [key=value ...]`: from token shards to a model and its scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configs.cli import AnyVerb, GridVerb, Verb, main
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


def sweep(path: Path, words: Sequence[str], is_dry: bool) -> int:
    from train import sweep

    return sweep.run(path, words, is_dry)


VERBS: dict[str, AnyVerb] = {
    "fit": Verb(fit, "train the models that the config names"),
    "eval": Verb(evaluate, "score the trained models on held-out clips"),
    "report": Verb(report, "write the HTML report of the trained models"),
    "sweep": GridVerb(
        sweep,
        "train and score a model for every combination of the values given",
        dry_run="only print the commands",
    ),
}

if __name__ == "__main__":
    sys.exit(main("train", VERBS))
