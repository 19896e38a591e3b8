"""configs/audioset-bert.yaml under torchrun: two ranks, clips with AudioSet's own labels."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from configs.load import load_config
from shards.layout import Layout
from tests.commands import ROOT
from tests.processes import family
from train.journal import TIMES, Journal

LISTS = ROOT.parent / "shared/data/audioset"
CLIPS = {"balanced": 80, "eval": 8}
SMALL = (
    "models.bert.layers=1 models.bert.width=32 models.bert.heads=2 codebook.k=32 train.epochs=3 "
)
SMALL += "train.batch_size=12 train.micro_batch_size=3 train.threads=1 train.device=cpu "
SMALL += "train.checkpoint_every_steps=2 cluster.kind=inline shards.clips_per_shard=16"

pytestmark = pytest.mark.skipif(not LISTS.is_dir(), reason=f"AudioSet's lists: no {LISTS}")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that let the config stand for some of AudioSet's clips, with made audio."""
    place = tmp_path_factory.mktemp("audioset")
    random = np.random.default_rng(0)
    overrides = [f"run={place / 'run'}", f"source.root={place}", *SMALL.split()]
    for name, count in CLIPS.items():
        listed = next(LISTS.glob(f"{name}*segments.csv")).read_text().splitlines()
        lines = [line for line in listed if not line.startswith("#")][:count]
        (place / f"{name}.csv").write_text("\n".join([*listed[:3], *lines]) + "\n")
        overrides.append(f"source.sets.{name}.segments={place / name}.csv")
        for line in lines:
            key = line.partition(",")[0]
            folder = place / ("bal_train" if name == "balanced" else "eval") / key[:2]
            folder.mkdir(parents=True, exist_ok=True)
            tone = np.sin(np.arange(160_000) * random.uniform(0.05, 1.5)) * 0.3
            noise = random.normal(size=160_000) * random.uniform(0.01, 0.2)
            soundfile.write(folder / f"{key}.flac", tone + noise, 16_000)
    command = [sys.executable, "-m", "pipeline", "all", "configs/audioset-bert.yaml", *overrides]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return overrides


def torchrun(words: list[str], *more: str) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command = [*launch, f"--master-port={port}", "-m", "train", "fit", "configs/audioset-bert.yaml"]
    return subprocess.Popen(
        [sys.executable, "-m", *command, *words, *more],
        cwd=ROOT,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: Any) -> str:
    said: str = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    return said


def interrupt(process: Any, model: Path, number: signal.Signals) -> str:
    """Send a signal to torchrun, or kill all of it, once a checkpoint stands."""
    deadline_s = time.monotonic() + 120
    while not [*model.glob("checkpoints/step-*")]:
        assert time.monotonic() < deadline_s
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    for one in family(process.pid) if number == signal.SIGKILL else [process]:
        one.send_signal(number)
    said: str = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert not (model / "model.safetensors").exists()
    return said


def model_of(words: list[str], name: str) -> Path:
    run = load_config(ROOT / "configs/audioset-bert.yaml", words).run
    return Layout(run).model(name)


def logged(model: Path) -> list[dict[str, Any]]:
    records = Journal(model / "metrics.jsonl", model).read()
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def test_stopped_and_killed_it_goes_on_at_the_exact_example(words: list[str]) -> None:
    """Dropout and the order of examples would show in the weights."""
    small = "layers: 1, width: 32, heads: 2, max_positions: 512, bag_path: true"
    named = [f"models.again={{kind: bert, {small}}}"]
    whole, broken = model_of(words, "bert"), model_of(words, "again")
    said = finish(torchrun(words))
    assert "on 2 ranks, cpu" in said
    assert said.count("parameters on") == 1, "one rank speaks"
    again = [*named, "model=again"]
    said = interrupt(torchrun(words, *again), broken, signal.SIGTERM)
    assert "run again" in said
    process = torchrun(words, *again)
    interrupt(process, broken, signal.SIGKILL)
    assert "going on after step" in finish(torchrun(words, *again))
    weights = [(model / "model.safetensors").read_bytes() for model in (whole, broken)]
    assert weights[0] == weights[1]
    assert logged(whole) == logged(broken)
    assert logged(whole)[-1]["valid_map"] > 0


def test_with_webdataset_it_trains_and_a_resumed_epoch_is_drawn_anew(words: list[str]) -> None:
    named = ["models.wds={kind: bert, layers: 1, width: 32, heads: 2, epochs: 20}"]
    more = [*named, "model=wds", "data.reader=webdataset", "train.checkpoint_every_steps=1"]
    model = model_of(words, "wds")
    interrupt(torchrun(words, *more), model, signal.SIGKILL)
    said = finish(torchrun(words, *more))
    assert "is drawn anew" in said
    steps = [record for record in logged(model) if "loss" in record]
    assert steps[-1]["epoch"] == 20.0
    assert np.isfinite([record["loss"] for record in steps]).all()
