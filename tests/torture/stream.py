"""`make torture NAME=stream`: promise P7, tried until it breaks or holds.

    kills   a training on 2 ranks with 2 loader workers each, of which one process is killed at
            random moments, over and over: every step sees what it saw before, and over an epoch
            every clip comes exactly once

Seeded; a part that is done is not run again after an interruption (delete its file to do so). Ends
in one JSON line.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from configs.load import load_config
from pipeline.verbs import run_verb
from tests.processes import is_at_work, wait_until
from tests.torture.job import Report, small_job
from tests.torture.parts import Part, main
from tests.torture.ranks import EPOCHS, Reading, Seen, end, everyone, seen, start

CLIPS, SHARDS = 400, 4
CODEBOOK = {"k": 16, "frames_per_centroid": 32}
LONGEST_S = 1.0  # before a kill, once steps are being made
STARTS_SHARE = 0.15  # of kills that come before the first step
STEP_LIMIT_S = 60.0


def kills(place: Path, count: int = 500, seed: int = 21) -> Report:
    """Trainings one after another, each with as many kills as it takes to its end."""
    chance, total = random.Random(seed), Counter[str]()
    run = _tokens(place)
    while total["kills"] < count:
        reading = Reading(run, place / f"reading{total['trainings']:03d}", chance.randrange(2**31))
        reading.place.mkdir()
        total.update(_training(reading, chance, count - total["kills"]))
    return {"lost": 0, "repeated": 0, **total}  # or it would have ended


def _tokens(place: Path) -> Path:
    """A run with tokens, and nothing trained."""
    path = small_job(place, CLIPS, SHARDS, codebook=CODEBOOK, data={"tail": "pad"})
    config = load_config(path)
    assert run_verb(config, "all") == 0
    return config.run


def _training(reading: Reading, chance: random.Random, most: int) -> Counter[str]:
    """One training to its end; raises AssertionError where a clip is lost, or seen twice."""
    found, steps, victims = Counter[str](), dict[tuple[int, int], frozenset[int]](), []
    is_done, attempt = False, 0
    while not is_done:
        ranks = start(reading, attempt)
        if found["kills"] < most:
            _wait(reading, attempt, ranks, chance)
            is_done = any(rank.exitcode == 0 for rank in ranks)
        victims = everyone(ranks)
        if found["kills"] < most and victims and not is_done:
            found[f"{end(ranks, chance.choice(victims))}s_killed"] += 1
            found["kills"] += 1
        for rank in ranks:
            rank.join(STEP_LIMIT_S)
        is_done = all(rank.exitcode == 0 for rank in ranks)
        found["steps_made_again"] += _agree(steps, seen(reading, attempt))
        attempt += 1
    wait_until(lambda: not any(map(is_at_work, victims)), "the end of all loader workers")
    return found + Counter(trainings=1, steps=len(steps), **_losses(reading, steps))


def _wait(reading: Reading, attempt: int, ranks: list[BaseProcess], chance: random.Random) -> None:
    """For the moment of a kill: mostly after a first step."""
    if chance.random() < STARTS_SHARE:
        time.sleep(chance.uniform(0, LONGEST_S))
        return
    ends = [rank.sentinel for rank in ranks]
    wait_until(lambda: seen(reading, attempt) or wait(ends, 0), "a first step", STEP_LIMIT_S)
    wait(ends, chance.uniform(0, LONGEST_S))
    codes = [rank.exitcode for rank in ranks if rank.exitcode]
    assert not codes, f"ranks ended with {codes}, and nobody killed them"


def _agree(steps: Seen, again: Seen) -> int:
    """Add what an attempt saw; returns how many of its steps had been made before. Raises
    AssertionError where one of them saw other clips."""
    before = steps.keys() & again.keys()
    for step in before:
        assert steps[step] == again[step], f"{step}: other clips than before the kill"
    steps.update(again)
    return len(before)


def _losses(reading: Reading, steps: Seen) -> dict[str, int]:
    """Clips lost and repeated in an epoch; both have to be 0. No step spans two epochs (`pad`): the
    cursor after the last one of an epoch stands at the next one's beginning."""
    times = Counter(
        (epoch - (position == 0), row) for (epoch, position), rows in steps.items() for row in rows
    )
    expected = {(epoch, row) for epoch in range(EPOCHS) for row in reading.rows()}
    lost, repeated = len(expected - times.keys()), sum(n - 1 for n in times.values())
    assert (lost, repeated) == (0, 0), f"{lost} lost, {repeated} repeated"
    assert times.keys() == expected
    return {"lost": lost, "repeated": repeated}


PARTS: Mapping[str, Part] = {"kills": kills}

if __name__ == "__main__":
    sys.exit(main("stream", "promise P7, tried until it breaks or holds", PARTS))
