"""`make bench NAME=stream_scale`: AudioSet's size. 2,000,000 made clips of 431 tokens in shards of
1,024: how long until a stream is open, until its first shuffled batch of 64 is there, and what
memory a whole epoch takes beside the page cache. A new process a round; the median counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.stream_formats import CLIPS_PER_BLOCK, VOCABULARY, write_ours

ROOT = Path(__file__).resolve().parent.parent
BATCH, SEED = 64, 7


def main() -> None:
    args = _arguments()
    if args.measure:
        print(json.dumps(_measured(args.directory)))
        return
    run = args.directory / f"{args.clips}-clips"
    if not (run / "seals").exists():
        print(f"writing {args.clips:,} clips", flush=True)
        write_ours(run, args.clips, per_shard=CLIPS_PER_BLOCK)
    rounds = [_in_a_new_process(run) for _ in range(args.rounds)]
    for name in ("import_ms", "open_ms", "first_batch_ms", "rss_mib", "clips_per_s"):
        values = sorted(found[name] for found in rounds)
        middle = statistics.median(values)
        print(f"{name:<16}{middle:12,.1f}  ({values[0]:,.1f} to {values[-1]:,.1f})")
    keys = ("open_ms", "rss_mib", "first_batch_ms")
    medians = {key: round(statistics.median(found[key] for found in rounds), 1) for key in keys}
    clips = rounds[0]["clips"]
    print(json.dumps({"bench": "stream_scale", **medians, "clips": clips, "rounds": len(rounds)}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/stream_scale")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_new_process(run: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.stream_scale", "--measure", "--directory", str(run)]
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(run: Path) -> dict[str, Any]:
    began_s = time.perf_counter()
    from shards.layout import Layout
    from shards.stream.order import GlobalOrder
    from shards.stream.schedule import Schedule
    from shards.stream.stream import Stream
    from shards.stream.tokens import open_tokens, token_batch

    imported_s = time.perf_counter()
    before_mib = _anonymous_mib()
    source = open_tokens(Layout(run), "default")
    order, schedule = GlobalOrder(source.num_rows, SEED), Schedule(source.num_rows, BATCH, 1)
    stream = Stream(source, order, schedule, partial(token_batch, pad_id=VOCABULARY), num_threads=1)
    opened_s = time.perf_counter()
    clips, first_s = 0, 0.0
    for step in stream.steps():
        first_s = first_s or time.perf_counter()
        clips += step.num_examples
    ended_s = time.perf_counter()
    return {
        "import_ms": 1000 * (imported_s - began_s),
        "open_ms": 1000 * (opened_s - imported_s),
        "first_batch_ms": 1000 * (first_s - opened_s),
        "clips_per_s": clips / (ended_s - first_s),
        "clips": clips,
        "rss_mib": _anonymous_mib(),
        "before_mib": before_mib,
    }


def _anonymous_mib() -> float:
    """Resident memory that is not a file's: what the kernel could not give back at once."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("Linux only")


if __name__ == "__main__":
    main()
