"""The command grammar of all packages.

Verbs that make something: `python -m PACKAGE VERB CONFIG [key=value ...]`, where CONFIG is a YAML
file or a run directory. Verbs that read something made: `python -m PACKAGE VERB RUN` and what they
need. No flag repeats a config field. Exit codes: 0 done, 1 failed, 2 bad config or input, 3 done
but the quarantine is above its threshold (or `predict` refused some files), 75 preempted: run the
same command again.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import AudiolexError, InputError, Preempted, notes_of
from configs.signals import GOES_ON, leave_on_signals, stop_on_signals

if TYPE_CHECKING:  # pydantic takes half a second, in which Ctrl-C must be heard
    from configs.schema import Config

QUARANTINE_EXIT_CODE = 3
OBJECTS_A_LOOK = 10_000  # for garbage; Python's 700 cost imports of torch half a second
MARK = "\0"  # which no word of a command line can hold
ID_LIKE_AN_OPTION = re.compile(r"-[A-Za-z0-9_][A-Za-z0-9_-]{9}")


@dataclass(frozen=True)
class Mode:
    """What a flag of a verb does with the config, in place of the verb.

    Args:
        run: returns the exit code.
        help: a line of it.
        only_looks: it leaves nothing undone, so that Ctrl-C and SIGTERM end it with 0, from the
            start: until `run` takes the signals for itself, they end the process where it stands.
    """

    run: Callable[[Config], int]
    help: str
    only_looks: bool = False


@dataclass(frozen=True)
class Verb:
    """One command: what it does with a config, a line of help, and its modes by their flags."""

    run: Callable[[Config], int]
    help: str
    modes: Mapping[str, Mode] = field(default_factory=dict)


@dataclass(frozen=True)
class RunVerb:
    """One command on a run directory, and the options that it adds to its parser; positional ones
    of any number are `words`."""

    run: Callable[[Path, argparse.Namespace], int]
    help: str
    options: Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class GridVerb:
    """One command on many configs: it is given CONFIG, the overrides as they are typed, which may
    have several values, and whether only to say what it would do."""

    run: Callable[[Path, Sequence[str], bool], int]
    help: str
    dry_run: str


AnyVerb = Verb | RunVerb | GridVerb


def main(package: str, verbs: Mapping[str, AnyVerb], argv: Sequence[str] | None = None) -> int:
    """Parse, load the config, run one verb; returns the exit code, never raises for a user."""
    try:
        stop_on_signals()
        gc.set_threshold(OBJECTS_A_LOOK)
        return _dispatch(_parser(package, verbs), verbs, argv)
    except AudiolexError as error:
        where = ", ".join(notes_of(error))
        return _fail(f"{where}: {error}" if where else str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(GOES_ON, Preempted.exit_code)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 1)


def _dispatch(
    parser: argparse.ArgumentParser, verbs: Mapping[str, AnyVerb], argv: Sequence[str] | None
) -> int:
    words = map(_marked, sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args([*words])
    takes_more = "overrides" in args or "words" in args  # also after an option
    if any(word.startswith("-") for word in rest) or (rest and not takes_more):
        parser.error(f"unrecognized arguments: {' '.join(_unmarked(rest))}")
    args = argparse.Namespace(**{name: _unmarked(value) for name, value in vars(args).items()})
    rest = _unmarked(rest)
    verb = verbs[args.verb]
    if isinstance(verb, RunVerb):
        if rest:
            args.words += rest
        return verb.run(run_directory(args.run), args)
    if isinstance(verb, GridVerb):
        return verb.run(args.config, [*args.overrides, *rest], args.dry_run)
    return _run_verb(verb, args, rest)


def _marked(word: str) -> str:
    """A word that begins like an option, as one in 64 of YouTube's ids does, so that it is none."""
    return MARK + word if ID_LIKE_AN_OPTION.fullmatch(word) else word


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(word) for word in value]
    return value.removeprefix(MARK) if isinstance(value, str) else value


def _run_verb(verb: Verb, args: argparse.Namespace, rest: Sequence[str]) -> int:
    mode: Mode | None = args.mode
    if mode is not None and mode.only_looks:
        leave_on_signals(0)
    from configs.load import dump_config, load_config

    config = load_config(args.config, [*args.overrides, *rest])
    if args.print_config:
        print(dump_config(config), end="")
        return 0
    return (mode or verb).run(config)


def run_directory(path: Path) -> Path:
    """The path itself; raises InputError unless a run lies there."""
    from configs.load import SAVED_NAME

    if not (path / SAVED_NAME).is_file():
        raise InputError(f"{path} is no run: it holds no {SAVED_NAME}; give a config's `run`")
    return path


def _fail(message: str, code: int) -> int:
    word = "stopped" if code == Preempted.exit_code else "error"
    print(f"{word}: {message}", file=sys.stderr, flush=True)
    return code


def _parser(package: str, verbs: Mapping[str, AnyVerb]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {package}", allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in verbs.items():
        sub = subparsers.add_parser(name, help=verb.help, description=verb.help)
        if isinstance(verb, RunVerb):
            sub.add_argument("run", type=Path, metavar="RUN", help="a run directory")
            verb.options(sub)
            continue
        if isinstance(verb, GridVerb):
            sub.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
            sub.add_argument(
                "overrides", nargs="*", default=[], metavar="key=a,b", help="one or more"
            )
            sub.add_argument("--dry-run", action="store_true", help=verb.dry_run)
            continue
        sub.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file or a run")
        sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="overrides")
        sub.add_argument("--print-config", action="store_true", help="show the resolved config")
        sub.set_defaults(mode=None)
        for flag, mode in verb.modes.items():
            sub.add_argument(flag, dest="mode", action="store_const", const=mode, help=mode.help)
    return parser
