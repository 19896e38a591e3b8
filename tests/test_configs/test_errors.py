"""The tree of errors that the docstring draws is the tree that is there."""

from __future__ import annotations

import re

from configs import errors
from configs.errors import AudiolexError, ConfigError, RecipeMismatch

LINE = re.compile(r"^(?P<rails>[ │├└─]*)(?P<name>[A-Z]\w+) +(?P<code>\d+) {3}\S")


def drawn_tree() -> dict[str, tuple[str, int]]:
    """(parent, exit code) of every class in the drawing."""
    above: list[str] = []
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth = len(match["rails"]) // 4 - 1
            parent = above[depth - 1] if depth else "Exception"
            above = [*above[:depth], match["name"]]
            tree[match["name"]] = (parent, int(match["code"]))
    return tree


def real_tree() -> dict[str, tuple[str, int]]:
    found = [item for item in vars(errors).values() if isinstance(item, type)]
    tree = [error for error in found if issubclass(error, AudiolexError)]
    return {error.__name__: (error.__bases__[0].__name__, error.exit_code) for error in tree}


def test_the_drawn_tree_is_the_real_tree() -> None:
    assert drawn_tree() == real_tree()
    assert sorted(errors.__all__) == sorted(real_tree())


def test_config_errors_list_their_faults() -> None:
    assert str(ConfigError("a.yaml", ["x: bad"])) == "a.yaml: 1 fault\n  x: bad"
    assert ConfigError("a.yaml", ["x: bad", "y: bad"]).faults == ("x: bad", "y: bad")


def test_a_recipe_mismatch_says_what_differs_and_what_to_do() -> None:
    error = RecipeMismatch("runs/x: shard", ["mel.n_mels: 64 there, 128 now"], "Ask again.")
    assert str(error).splitlines() == [
        "runs/x: shard was made with other settings:",
        "  mel.n_mels: 64 there, 128 now",
        "Ask again.",
    ]
