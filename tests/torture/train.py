"""`make torture NAME=train`: promises P7 and P8, tried until they break or hold.

    kills    trainings in one process, killed at random moments, over and over: each ends with the
             weights of the undisturbed one, bit for bit
    worlds   the same on 1, 2 or 4 ranks, another number after every kill: every step sees the
             clips that it sees undisturbed

Seeded; a part that is done is not run again after an interruption (delete its file to do so). Ends
in one JSON line.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from configs.errors import AudiolexError
from configs.load import load_config
from configs.schema import Config
from pipeline.verbs import run_verb
from shards.layout import Layout
from tests.rank_worker import examples
from tests.torture.job import Report, small_job
from tests.torture.parts import Part, main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["torch", "train.trainers", "train.losses"])
CODEBOOK = {"k": 16, "frames_per_centroid": 32}
MODEL = {"kind": "lstm", "width": 16, "hidden": 16, "dropout": 0.2, "epochs": 16}
TRAIN = {"batch_size": 13, "micro_batch_size": 3, "checkpoint_every_steps": 4, "threads": 1}
TRAIN |= {"device": "cpu", "average_decay": 0.9, "select": "best", "keep_checkpoints": 1}
LONGEST_S, END_LIMIT_S = 2.5, 60.0
CRASHED = 70  # no kill, and no error that is told
WORLDS = (1, 2, 4)
UNDISTURBED = "undisturbed"


def kills(place: Path, count: int = 200, seed: int = 23) -> Report:
    """Trainings one after another, each with as many kills as it takes to its end."""
    config, chance, total = _tokens(place), random.Random(seed), Counter[str]()
    wanted = _weights(config, _trained(config, place, UNDISTURBED))
    while total["kills"] < count:
        name = f"made{total['trainings']:03d}"
        total += _killed(config, place / name, (1,), chance, count - total["kills"])
        assert _weights(config, name) == wanted, f"{name}: other weights than undisturbed"
    return {"other_weights": 0, **total}  # or it would have ended


def worlds(place: Path, count: int = 30, seed: int = 24) -> Report:
    """The same with another number of ranks after every kill."""
    config, chance, total = _tokens(place), random.Random(seed), Counter[str]()
    wanted = examples(place / _trained(config, place, UNDISTURBED) / "0")
    while total["kills"] < count:
        directory = place / f"made{total['trainings']:03d}"
        total += _killed(config, directory, WORLDS, chance, count - total["kills"])
        attempts = sorted(directory.iterdir(), key=lambda path: int(path.name))
        assert examples(*attempts) == wanted, f"{directory.name}: other clips than undisturbed"
    return {"other_examples": 0, "steps": len(wanted) * total["trainings"], **total}


def _tokens(place: Path) -> Config:
    """A run with tokens, and nothing trained."""
    split = {"valid_share": 0.2}
    path = small_job(place, 120, 4, codebook=CODEBOOK, train=TRAIN, split=split)
    config = load_config(path)
    assert run_verb(config, "all") == 0
    return config


def _trained(config: Config, place: Path, name: str) -> str:
    """Train a model without a kill."""
    assert _ended(_start(config, place / name / "0", 1)) == [0]
    return name


def _weights(config: Config, name: str) -> bytes:
    return (Layout(config.run).model(name) / "model.safetensors").read_bytes()


def _killed(
    config: Config, directory: Path, worlds: Sequence[int], chance: random.Random, most: int
) -> Counter[str]:
    """One training to its end, killed at most so often; whoever is not killed gets there."""
    found = Counter[str](trainings=1)
    for attempt in range(10_000):
        ranks = _start(config, directory / str(attempt), chance.choice(worlds))
        is_spared = found["kills"] == most
        if not is_spared:
            wait([rank.sentinel for rank in ranks], chance.uniform(0, LONGEST_S))
            victim = chance.choice(ranks)
            found["kills"] += victim.exitcode is None
            victim.kill()
            if not [*(directory / str(attempt)).glob("*.jsonl")]:
                _end(ranks)  # as torchrun does: who waits for the others to come, waits long
        codes = _ended(ranks)
        if codes == [0] * len(ranks):
            break
        assert not is_spared, codes
        assert set(codes) <= {0, 1, 2, -9}, codes
    return found


def _start(config: Config, out: Path, num_ranks: int) -> list[BaseProcess]:
    """All ranks of a training of the model that the parent of `out` is named after."""
    out.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        _FORKS.Process(target=_rank, args=(config.run.parent, out, rank, num_ranks, port))
        for rank in range(num_ranks)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def _end(ranks: Sequence[BaseProcess]) -> None:
    for rank in ranks:
        rank.kill()


def _ended(ranks: Sequence[BaseProcess]) -> list[int]:
    for rank in ranks:
        rank.join(END_LIMIT_S)
        assert rank.exitcode is not None, "a rank waits for one that is gone"
    return [rank.exitcode or 0 for rank in ranks]


def _rank(place: Path, out: Path, rank: int, num_ranks: int, port: int) -> None:
    """What a rank does, from its start to its end."""
    from tests.rank_worker import watched
    from train import fit

    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks}
    os.environ |= {name: str(value) for name, value in {**address, **numbers}.items()}
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    config = load_config(place / "config.yaml")
    models = {out.parent.name: MODEL}
    asked = {"models": models, "model": tuple(models)}
    try:
        with watched(out):
            fit.run(Config.model_validate(config.model_dump() | asked))
    except AudiolexError as error:
        sys.exit(error.exit_code)
    except BaseException:
        traceback.print_exc()
        os._exit(CRASHED)


PARTS: Mapping[str, Part] = {"kills": kills, "worlds": worlds}

if __name__ == "__main__":
    sys.exit(main("train", "promises P7 and P8, tried until they break or hold", PARTS))
