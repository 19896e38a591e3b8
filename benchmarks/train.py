"""`make bench NAME=train`: a training of BERT 4 x 256 on one CPU thread, ours against HF's Trainer.

The same model, made clips of 431 tokens, batch and recipe on all sides, which take turns, for
several rounds: our loop with its reader, log and checkpoints as a user has them; transformers'
Trainer with its default collator, the clips in memory; and the bare calls (forward, backward, clip,
step) on tensors, which nobody can be quicker than. Compared are CPU seconds a step, after the first
ones; what our loop waited for its reader is a share of wall time. Trainer wants `accelerate`, which
gets an environment of its own below the directory, with the packages of this one behind it.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("ours", "hf_trainer", "bare")
CLIPS = 2_048
STUDENT_T = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306}

Result = Mapping[str, float]


def main() -> None:
    args = _arguments()
    python = _with_accelerate(args.directory) if "hf_trainer" in args.sides else sys.executable
    rounds = []
    for number in range(args.rounds):
        turn = args.sides[number % len(args.sides) :] + args.sides[: number % len(args.sides)]
        rounds.append({side: _run(side, python, args) for side in turn})
        parts = [f"{side} {rounds[-1][side]['cpu_s']:.3f}" for side in args.sides]
        print(f"round {number + 1}, CPU s a step: {', '.join(parts)}", flush=True)
    print(json.dumps({"bench": "train", **_keys(rounds), "rounds": len(rounds)}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--warm-up", type=int, default=3, help="steps that do not count")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
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


def _run(side: str, python: str, args: argparse.Namespace) -> Result:
    words = [args.steps, args.warm_up, args.batch, args.micro_batch, CLIPS, args.directory]
    done = subprocess.run(
        [python, "-m", "benchmarks.train_sides", side, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def _keys(rounds: Sequence[Mapping[str, Result]]) -> dict[str, float]:
    ours = [found["ours"] for found in rounds]
    keys = {"loader_wait_share": statistics.median(one["wait_share"] for one in ours)}
    if "bare" in rounds[0]:
        shares = [1 - found["bare"]["cpu_s"] / found["ours"]["cpu_s"] for found in rounds]
        keys["overhead_share"] = statistics.median(shares)
    if "hf_trainer" in rounds[0]:
        ratios = [found["hf_trainer"]["cpu_s"] / found["ours"]["cpu_s"] for found in rounds]
        keys["vs_hf_trainer"] = _lower_end(ratios)
        keys["vs_hf_trainer_median"] = statistics.median(ratios)
    return {name: round(value, 4) for name, value in keys.items()}


def _lower_end(values: Sequence[float]) -> float:
    """Of the 95 % interval of the mean, by Student's t; of one value, itself."""
    if len(values) == 1:
        return values[0]
    reach = STUDENT_T.get(len(values), 2.262) * statistics.stdev(values) / len(values) ** 0.5
    return float(statistics.mean(values) - reach)


if __name__ == "__main__":
    main()
