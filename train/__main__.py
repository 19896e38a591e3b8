"""`python -m train VERB CONFIG [key=value ...]`: from token shards to a model and its scores."""

from __future__ import annotations

import sys

from configs.cli import Verb, main
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


VERBS = {
    "fit": Verb(fit, "train the models that the config names"),
    "eval": Verb(evaluate, "score the trained models on held-out clips"),
    "report": Verb(report, "write the HTML report of the trained models"),
}

if __name__ == "__main__":
    sys.exit(main("train", VERBS))
