"""`make bench NAME=stream`: a shuffled epoch of token clips, ours against its peers.

200,000 made clips of 431 tokens, written once in the format of each system; every side then reads
batches of 64 in one process on one core, in turn, for several rounds. Compared are clips a CPU
second after the first batch (a shared machine's wall time says little), how many of the stored
blocks of 1,024 a batch is drawn from, and the time to the first batch of a resume in the middle.
Peers have environments of their own below the directory; mosaicml-streaming one for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
HERE = ("ours", "memmap")  # read in this environment
MOSAIC = "mosaic"
TORCH = "torch==2.11.*"
PACKAGES = {
    "peers": (TORCH, "numpy", "webdataset>=1.0", "litdata", "datasets", "grain", "msgpack"),
    MOSAIC: (TORCH, "numpy", "mosaicml-streaming"),
}
SIDES = (
    "ours",
    "memmap",
    "litdata",
    "webdataset_best",
    "webdataset_naive",
    "parquet",
    "mosaic",
    "grain",
)
CPU_SECONDS = 8.0  # for sides that would take minutes

Result = Mapping[str, Any]


def main() -> None:
    args = _arguments()
    args.directory.mkdir(parents=True, exist_ok=True)
    pythons = {side: _python(side, args.directory) for side in args.sides}
    for side in args.sides:
        _write(side, pythons[side], args.directory, args.clips)
    rounds = [
        {side: _read(side, pythons[side], args.directory, args.clips) for side in args.sides}
        for _ in range(args.rounds)
    ]
    _print_table(rounds, args.directory, args.clips)
    print(json.dumps(_keys(rounds)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/stream")
    return parser.parse_args()


def _python(side: str, directory: Path) -> str:
    """The interpreter of a side; makes its environment the first time."""
    if side in HERE:
        return sys.executable
    name = MOSAIC if side == MOSAIC else "peers"
    place = directory / f"environment-{name}"
    python, is_made = place / "bin/python", place / "is-made"
    if not is_made.exists():
        uv = [str(Path(sys.executable).with_name("uv"))]
        subprocess.run([*uv, "venv", "--quiet", "--clear", str(place)], check=True)
        install = [*uv, "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, *PACKAGES[name]], check=True)
        is_made.touch()
    return str(python)


def _write(side: str, python: str, directory: Path, clips: int) -> None:
    place = _place(side, directory, clips)
    is_written = place.with_suffix(".is-written")
    if is_written.exists():
        return
    print(f"writing {side}", flush=True)
    place.mkdir(parents=True)
    words = [python, "-m", "benchmarks.stream_formats", side, str(place), str(clips)]
    subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    is_written.touch()


def _read(side: str, python: str, directory: Path, clips: int) -> Result:
    place = _place(side, directory, clips)
    words = [python, "-m", "benchmarks.stream_sides", side, str(place), str(clips)]
    limit_s = 1e9 if side in HERE else CPU_SECONDS
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*words, str(limit_s)], cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    result: Result = json.loads(done.stdout.splitlines()[-1])
    print(f"  {side}: {result['clips_per_s']:,.0f} clips/s", flush=True)
    return result


def _place(side: str, directory: Path, clips: int) -> Path:
    return directory / f"{clips}-clips" / side


# --- what is told --------------------------------------------------------------------------------


def _ratios(rounds: Sequence[Mapping[str, Result]], side: str) -> list[float]:
    """How many times as fast ours is, in every round."""
    return [found["ours"]["clips_per_s"] / found[side]["clips_per_s"] for found in rounds]


def _keys(rounds: Sequence[Mapping[str, Result]]) -> dict[str, Any]:
    ratios = {
        f"vs_{side}": round(statistics.median(_ratios(rounds, side)), 3)
        for side in rounds[0]
        if side != "ours"
    }
    ours = [found["ours"] for found in rounds]
    return {
        "bench": "stream",
        **ratios,
        "blocks_per_batch": round(statistics.median(one["blocks_per_batch"] for one in ours), 2),
        "resume_ms": round(statistics.median(one["resume_ms"] for one in ours), 2),
        "rounds": len(rounds),
    }


def _print_table(rounds: Sequence[Mapping[str, Result]], directory: Path, clips: int) -> None:
    table = Table(title=f"{clips:,} clips, medians of {len(rounds)} rounds")
    columns = ("", "1,000 clips/CPU s", "ours times", "blocks/batch", "resume ms", "MiB", "B/clip")
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for side in rounds[0]:
        table.add_row(side, *_cells(rounds, side), _bytes_per_clip(side, directory, clips))
    Console(width=120).print(table)


def _cells(rounds: Sequence[Mapping[str, Result]], side: str) -> list[str]:
    rates = [found[side]["clips_per_s"] for found in rounds]
    ratios = _ratios(rounds, side)
    resumes = [found[side]["resume_ms"] for found in rounds if "resume_ms" in found[side]]
    return [
        " ".join([_thousands(statistics.median(rates)), _range(rates)]),
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        f"{statistics.median(found[side]['blocks_per_batch'] for found in rounds):.1f}",
        f"{statistics.median(resumes):.1f}" if resumes else "-",
        f"{statistics.median(found[side]['peak_mib'] for found in rounds):.0f}",
    ]


def _thousands(rate: float) -> str:
    return f"{rate / 1000:.1f}"


def _range(rates: Sequence[float]) -> str:
    return f"({_thousands(min(rates))}-{_thousands(max(rates))})"


def _bytes_per_clip(side: str, directory: Path, clips: int) -> str:
    files = (path for path in _place(side, directory, clips).rglob("*") if path.is_file())
    return f"{sum(path.stat().st_size for path in files) / clips:.0f}"


if __name__ == "__main__":
    main()
