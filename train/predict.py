"""`train predict`: a table of what a model hears in files, or all of it as JSONL or Parquet."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from configs.cli import QUARANTINE_EXIT_CODE
from configs.console import counted, say, warn
from configs.errors import InputError
from pipeline import storage
from shards.layout import Layout
from train.committed import open_model
from train.prediction import Prediction, Refused, WindowPrediction
from train.prediction_files import check_out, written

WIDEST_NAME = 60


def run(run_directory: Path, args: argparse.Namespace) -> int:
    """Predict every file and say so line by line; what cannot be heard is named on standard error.

    Returns 0, or 3 where some files were refused. Raises InputError where all were.
    """
    if args.top < 1:
        raise InputError(f"--top {args.top}: show one class or more")
    if args.out is not None:
        check_out(args.out)
    files = files_of(args.words)
    open_model(Layout(run_directory), args.model)  # whoever types a wrong name hears so at once
    from train.predictor import load  # seconds, for torch

    predictor = load(run_directory, args.model)
    found = predictor.stream(files, window_s=args.window_s, hop_s=args.hop_s, pool=args.pool)
    heard = _warned(found)
    if args.out is None:
        width = min(WIDEST_NAME, max(map(len, files)))
        say(f"{'file':<{width}}{'seconds':>10}  likeliest, as {predictor.name} hears it")
        num_refused = _say_table(heard, width, args.top, args.timeline)
    else:
        num_refused = written(args.out, heard, predictor)
        say(f"{args.out}: {counted(len(files) - num_refused, 'file')} by {predictor.name}")
    if num_refused == len(files):
        raise InputError(
            f"nothing of {counted(len(files), 'file')} could be heard, for the reasons above; "
            "what other programs play, `ffmpeg -i FILE FILE.wav` makes readable"
        )
    return QUARANTINE_EXIT_CODE if num_refused else 0


def files_of(words: Sequence[str]) -> list[str]:
    """Files as they are named, and all audio below directories, sorted; raises InputError for a
    directory that holds none."""
    found: list[str] = []
    for word in words:
        if not Path(word).is_dir():
            found.append(word)
            continue
        inside = [path for path in storage.files(word) if storage.is_audio_name(path)]
        if not inside:
            raise InputError(f"{word}: no file in this directory has the suffix of audio")
        found += [str(Path(word, path)) for path in inside]
    return found


def _warned(found: Iterable[Prediction | Refused]) -> Iterator[Prediction | Refused]:
    for one in found:
        if isinstance(one, Refused):
            warn(f"refused: {one}")
        yield one


def _say_table(
    found: Iterable[Prediction | Refused], width: int, top: int, has_timeline: bool
) -> int:
    """Returns how many files were refused."""
    num_refused = 0
    for one in found:
        if isinstance(one, Refused):
            num_refused += 1
            continue
        say(f"{one.file:<{width}}{one.duration_s:>10.1f}  {_shown(one.top(top))}{_left_out(one)}")
        for window in one.windows if has_timeline else ():
            span = f"{window.start_s:.1f} to {window.stop_s:.1f}"
            say(f"{span:>{width + 10}}  {_of_window(one, window, top)}")
    return num_refused


def _of_window(one: Prediction, window: WindowPrediction, top: int) -> str:
    if window.scores_C is None:
        return str(window.refusal)
    return _shown(one.classes.top(window.scores_C, top))


def _shown(top: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{title} {score:.2f}" for title, score in top)


def _left_out(one: Prediction) -> str:
    refusals = [window.refusal for window in one.left_out if window.refusal is not None]
    if not refusals:
        return ""
    reasons = ", ".join(sorted({refusal.reason for refusal in refusals}))
    return f" ({len(refusals)} of {counted(len(one.windows), 'window')} left out: {reasons})"
