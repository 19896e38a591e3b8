"""`make bench NAME=train`: a training of BERT 4 x 256 on one CPU thread, ours against HF's Trainer.

The same model, made clips of 431 tokens, batch and recipe on all sides: our loop with its reader
and log as a user has them; transformers' Trainer with its default collator, the clips in memory;
and the bare calls (forward, backward, clip, step) on tensors, which nobody can be quicker than. The
sides take turns step by step, so that a machine whose speed drifts drifts for all, in several
rounds of new processes, since how memory came to lie stays with a process; compared are the medians
over a round of CPU seconds of steps that stand next to each other, after the first ones. What our
loop waits for its reader is a share of wall time, of a training that runs by itself. Trainer wants
`accelerate`, which gets an environment of its own below the directory, with the packages of this
one behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.train_sides import STEP

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("ours", "hf_trainer", "bare")
CLIPS = 2_048
STUDENT_T = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306}

Took = Mapping[str, float]  # by a step: cpu_s, wall_s, waited_s


def main() -> None:
    args = _arguments()
    python = _with_accelerate(args.directory) if "hf_trainer" in args.sides else sys.executable
    alone = _alone(args)
    rounds = []
    for number in range(args.rounds):
        rounds.append(_ratios(_in_turns(python, args)))
        parts = [f"{side} {ratio:.4f}" for side, ratio in rounds[-1].items()]
        print(f"round {number + 1}, CPU s of {', of '.join(parts)} of ours", flush=True)
    print(json.dumps({"bench": "train", **_keys(alone, rounds), "rounds": args.rounds}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--warm-up", type=int, default=3, help="steps that do not count")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--sides", nargs="+", choices=SIDES[1:], default=list(SIDES[1:]))
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/train")
    return parser.parse_args()


def _with_accelerate(directory: Path) -> str:
    """An interpreter that sees the packages of this one, and accelerate."""
    place = directory / "environment"
    python, is_made = place / "bin/python", place / "is-made"
    if not is_made.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", str(place)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps"]
        subprocess.run([*install, "accelerate>=1.1"], check=True)
        (own,) = place.glob("lib/python*/site-packages")
        (own / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
        is_made.touch()
    return str(python)


def _start(side: str, python: str, args: argparse.Namespace, turns: int) -> subprocess.Popen[str]:
    """A side that says what each step took and waits for a line before the next; or does not wait,
    where nobody takes turns (`subprocess.DEVNULL`)."""
    words = [args.steps, args.batch, args.micro_batch, CLIPS, args.directory]
    return subprocess.Popen(
        [python, "-m", "benchmarks.train_sides", side, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdin=turns,
        stdout=subprocess.PIPE,
        text=True,
    )


def _alone(args: argparse.Namespace) -> list[Took]:
    """Our steps one after another."""
    with _start("ours", sys.executable, args, subprocess.DEVNULL) as process:
        return [_next(process) for _ in range(args.steps)][args.warm_up :]


def _in_turns(python: str, args: argparse.Namespace) -> Mapping[str, list[Took]]:
    """The steps of all sides, another one first each time."""
    sides = ("ours", *args.sides)
    took: dict[str, list[Took]] = {side: [] for side in sides}
    with ExitStack() as stack:
        processes = {}
        for side in sides:
            process = _start(side, python, args, subprocess.PIPE)
            processes[side] = stack.enter_context(process)
            stack.callback(process.kill)  # it waits for its next turn
        for step in range(args.steps):
            first = step % len(sides)
            for side in sides[first:] + sides[:first]:
                found = _next(processes[side], "go")
                if step >= args.warm_up:
                    took[side].append(found)
    return took


def _next(process: subprocess.Popen[str], word: str | None = None) -> Took:
    """What the next step took."""
    if word is not None:
        assert process.stdin is not None
        print(word, file=process.stdin, flush=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(STEP):
            took: Took = json.loads(line.removeprefix(STEP))
            return took
    sys.exit(f"a side ended early: {process.args!r}")


def _ratios(took: Mapping[str, Sequence[Took]]) -> dict[str, float]:
    """What a step of each other side takes, as a share of ours beside it."""
    return {
        side: statistics.median(
            theirs["cpu_s"] / ours["cpu_s"]
            for theirs, ours in zip(took[side], took["ours"], strict=True)
        )
        for side in took.keys() - {"ours"}
    }


def _keys(alone: Sequence[Took], rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    waited_s, wall_s = (sum(one[name] for one in alone) for name in ("waited_s", "wall_s"))
    keys = {"loader_wait_share": waited_s / wall_s}
    if "bare" in rounds[0]:
        keys["overhead_share"] = 1 - statistics.median(one["bare"] for one in rounds)
    if "hf_trainer" in rounds[0]:
        ratios = [one["hf_trainer"] for one in rounds]
        keys["vs_hf_trainer_median"] = statistics.median(ratios)
        keys["vs_hf_trainer"] = _lower_end(ratios)
    return {name: round(value, 4) for name, value in keys.items()}


def _lower_end(values: Sequence[float]) -> float:
    """Of the 95 % interval of the mean, by Student's t; of one value, itself."""
    if len(values) == 1:
        return values[0]
    reach = STUDENT_T.get(len(values), 2.262) * statistics.stdev(values) / len(values) ** 0.5
    return float(statistics.mean(values) - reach)


if __name__ == "__main__":
    main()
