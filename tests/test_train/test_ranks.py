"""Several processes train as one would: the same gradient, the same examples, after any kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from torch import distributed

from configs.errors import InputError
from configs.load import dump_config
from configs.schema import Config, TrainConfig
from shards.layout import Layout
from shards.stream.schedule import World
from tests.rank_worker import CLIP_NORM, examples, gradients
from tests.test_train.conftest import CopyRun
from tests.test_train.test_board import shown
from train.journal import TIMES, Journal
from train.ranks import Ranks, joined
from train.world import number_on_host, world_of

ROOT = Path(__file__).parents[2]
CHANGES = {"span_masks": {}, "augment": {"gain_db": 6, "stretch": 0.1}, "tensorboard": True}


def start(verb: str, config: Config, out: Path, num_ranks: int, **over: str) -> list[Any]:
    """Ranks as `torchrun` starts them, without its watching over them."""
    return start_each(verb, [config] * num_ranks, out, **over)


def start_each(verb: str, configs: Sequence[Config], out: Path, **over: str) -> list[Any]:
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"config{rank}.yaml" for rank in range(len(configs))]
    for file, config in zip(files, configs, strict=True):
        file.write_text(dump_config(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    shared |= {"WORLD_SIZE": str(len(files)), "OMP_NUM_THREADS": "1", **over}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.rank_worker", verb, str(file), str(out)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]


def ended(processes: list[Any]) -> tuple[list[int], list[str]]:
    """Exit codes and what was said."""
    try:
        said = ["".join(process.communicate(timeout=240)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def run(*args: Any, **over: str) -> None:
    codes, said = ended(start(*args, **over))
    assert set(codes) == {0}, said


def distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_gradient_is_that_of_one_big_batch(
    num_ranks: int, finished: Config, tmp_path: Path
) -> None:
    """Of 13 clips in twos, four ranks have 4, 3, 3 and 3, and of 1 clip three have none."""
    run("gradients", finished, tmp_path, num_ranks)
    alone = Ranks(torch.device("cpu"))
    for name, expected in gradients(finished, alone, "ddp"):
        for how in ("ddp", "fsdp"):
            found = np.load(tmp_path / f"{how} {name}.npz")
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
            assert found["norm"] == pytest.approx(expected["norm"], rel=1e-6)
            assert distance(found["gradient"], expected["gradient"].numpy()) < 1e-6, name
            assert distance(found["clipped"], expected["clipped"].numpy()) < 1e-6, name
            assert np.linalg.norm(found["clipped"]) == pytest.approx(CLIP_NORM, rel=1e-3)


def job(copy_run: CopyRun, how: str = "ddp", **train: Any) -> Config:
    """A short training of a model with dropout, checkpoints every second step."""
    model = {"kind": "lstm", "width": 8, "hidden": 8, "dropout": 0.2, "epochs": 3}
    settings = {"epochs": 1, "batch_size": 13, "micro_batch_size": 3, "device": "cpu", "threads": 1}
    settings |= {"checkpoint_every_steps": 2, "parallel": how, "average_decay": 0.9, **train}
    return copy_run(models={"made": model}, model=("made",), train=settings)


def weights(config: Config) -> dict[str, Any]:
    return load_file(Layout(config.run).model("made") / "model.safetensors")


def logged(config: Config) -> list[dict[str, Any]]:
    directory = Layout(config.run).model("made")
    records = Journal(directory / "metrics.jsonl", directory).read()
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in other)


@pytest.mark.parametrize(("how", "changes"), [("ddp", {}), ("fsdp", CHANGES)])
def test_killed_ranks_go_on_to_the_same_weights(
    how: str, changes: dict[str, Any], copy_run: CopyRun, tmp_path: Path
) -> None:
    """Also where clips are changed, each as by itself; and TensorBoard shows each step once."""
    whole, killed = (job(copy_run, how, **changes) for _ in range(2))
    run("fit", whole, tmp_path / "whole", 2)
    codes, said = ended(start("fit", killed, tmp_path / "killed", 2, KILL="1:5"))
    assert codes == [1, -9]
    assert "lost another" in said[0], said[0]
    assert "run the same command again" in said[0]
    run("fit", killed, tmp_path / "resumed", 2)
    assert equal(weights(killed), weights(whole))
    assert logged(killed) == logged(whole)
    assert examples(tmp_path / "killed", tmp_path / "resumed") == examples(tmp_path / "whole")
    if changes:
        board = shown(Layout(killed.run).model("made") / "tensorboard")
        scores = [(r["step"], r["valid_map"]) for r in logged(killed) if "valid_map" in r]
        assert board["valid_map"] == [(step, pytest.approx(score)) for step, score in scores]


@pytest.mark.parametrize(("how", "before", "after"), [("fsdp", 2, 1), ("ddp", 1, 4)])
def test_on_another_number_of_ranks_the_same_examples_come(
    how: str, before: int, after: int, copy_run: CopyRun, tmp_path: Path
) -> None:
    whole, changed = job(copy_run), job(copy_run, how)
    run("fit", whole, tmp_path / "whole", 1)
    codes, _ = ended(start("fit", changed, tmp_path / "changed", before, KILL="0:5"))
    assert codes[0] == -9
    run("fit", changed, tmp_path / "resumed", after)
    seen = examples(tmp_path / "whole")
    assert examples(tmp_path / "changed", tmp_path / "resumed") == seen
    assert all(len(rows) == 13 for rows in [*seen.values()][:-1])


def test_a_sharded_checkpoint_after_a_validation_is_whole(
    copy_run: CopyRun, tmp_path: Path
) -> None:
    """A validation leaves FSDP2's root gathered: its optimizer state was left out then."""
    settings = {"average_decay": None, "select": "best", "checkpoint_every_steps": 1000}
    whole, killed = job(copy_run, "fsdp", **settings), job(copy_run, "fsdp", **settings)
    run("fit", whole, tmp_path / "whole", 2)
    ended(start("fit", killed, tmp_path / "killed", 2, KILL="1:6"))
    run("fit", killed, tmp_path / "resumed", 2)
    assert equal(weights(killed), weights(whole))
    assert logged(killed) == logged(whole)


def test_a_signal_to_one_rank_saves_the_step_of_all(copy_run: CopyRun, tmp_path: Path) -> None:
    whole, stopped = job(copy_run), job(copy_run)
    run("fit", whole, tmp_path / "whole", 2)
    codes, said = ended(start("fit", stopped, tmp_path / "stopped", 2, TERM="1:4"))
    assert codes == [75, 75], said
    assert "saved step 5 of" in said[0]
    run("fit", stopped, tmp_path / "stopped", 2)
    assert equal(weights(stopped), weights(whole))


def test_a_signal_in_a_validation_leaves_it_to_the_next_command(
    copy_run: CopyRun, tmp_path: Path
) -> None:
    whole, stopped = job(copy_run, select="best"), job(copy_run, select="best")
    run("fit", whole, tmp_path / "whole", 2)
    codes, said = ended(start("fit", stopped, tmp_path / "stopped", 2, TERM_IN_VALIDATION="1"))
    assert codes == [75, 75], said
    assert "saved step" in said[0]
    assert not [record for record in logged(stopped) if "valid_map" in record]
    run("fit", stopped, tmp_path / "stopped", 2)
    assert equal(weights(stopped), weights(whole))
    assert logged(stopped) == logged(whole)


def test_ranks_train_one_model_after_another(copy_run: CopyRun, tmp_path: Path) -> None:
    made = {"kind": "linear", "width": 8, "epochs": 1}
    models = {"made": made, "bag": {"kind": "bag"}, "other": made}
    asked = {"models": models, "model": tuple(models)}
    config = Config.model_validate(job(copy_run).model_dump() | asked)
    run("fit", config, tmp_path, 2)
    assert all((Layout(config.run).model(name) / "model.safetensors").exists() for name in models)


@pytest.mark.parametrize(
    ("section", "over"),
    [
        ("train", {"lr": 0.5}),
        ("train", {"checkpoint_every_steps": 3}),
        ("data", {"on_damage": "mask"}),
    ],
    ids=["lr", "when", "damage"],
)
def test_ranks_of_other_configs_are_refused(
    section: str, over: dict[str, Any], copy_run: CopyRun, tmp_path: Path
) -> None:
    """Also where what differs decides no weights, but when ranks meet."""
    config = job(copy_run)
    other = config.model_copy(update={section: getattr(config, section).model_copy(update=over)})
    codes, said = ended(start_each("fit", [config, other], tmp_path))
    assert codes == [2, 2]
    assert all("rank 1 was started with another config, or run, than rank 0" in one for one in said)
    assert not (Layout(config.run).model("made") / "checkpoints").exists()


def test_a_rank_that_waits_for_another_hears_a_signal(copy_run: CopyRun, tmp_path: Path) -> None:
    """The other one may have been refused, and gone."""
    config = job(copy_run)
    first, other = start("fit", config, tmp_path, 2)
    other.kill()
    other.communicate(timeout=60)
    lines = iter(first.stdout.readline, "")
    assert any("rank 0 waits for 1 other rank at 127.0.0.1:" in line for line in lines)
    first.send_signal(signal.SIGTERM)
    codes, said = ended([first])
    assert codes == [75], said
    assert "stopped: " in said[0]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World()),
        ({"WORLD_SIZE": ""}, World()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, World()),
        ({"WORLD_SIZE": "4", "RANK": "3"}, World(3, 4)),
    ],
)
def test_which_rank_this_is(environment: dict[str, str], expected: World) -> None:
    assert world_of(environment) == expected


@pytest.mark.parametrize(
    ("environment", "rank", "expected"),
    [
        ({}, 0, 0),
        ({}, 5, 1),
        ({"LOCAL_RANK": "3"}, 5, 3),
        ({"LOCAL_RANK": "3", "SLURM_LOCALID": "2"}, 5, 3),
        ({"SLURM_LOCALID": "2"}, 5, 2),
        ({"SLURM_LOCALID": "6"}, 5, 2),
    ],
)
def test_which_gpu_of_its_host_a_rank_takes(
    environment: dict[str, str], rank: int, expected: int
) -> None:
    """`torchrun` counts for itself; a task of Slurm may see one GPU, or all of the host."""
    world = World(rank, 8)
    assert number_on_host(environment, world, 4) == expected
    assert number_on_host({"SLURM_LOCALID": "6"}, world, 1) == 0
    assert number_on_host({}, World(), 0) == 0


def test_a_number_on_the_host_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="LOCAL_RANK=two"):
        number_on_host({"LOCAL_RANK": "two"}, World(1, 2), 4)


def test_ranks_that_do_not_find_each_other_have_lost_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NCCL sets its connections up with the first sum."""

    def fail(*_: Any) -> None:
        raise RuntimeError("NCCL error: unhandled system error")

    monkeypatch.setattr(distributed, "init_process_group", lambda _: None)
    monkeypatch.setattr(distributed, "all_reduce", fail)
    with (
        pytest.raises(InputError, match="2 ranks did not meet: NCCL error: unhandled system error"),
        joined(World(1, 2), TrainConfig(device="cpu")),
    ):
        pass


@pytest.mark.parametrize("rank", [None, "2", "-1", "first"])
def test_half_of_an_environment_is_refused(rank: str | None) -> None:
    of_rank = {} if rank is None else {"RANK": rank}
    with pytest.raises(InputError, match="start with torchrun, or unset both"):
        world_of({"WORLD_SIZE": "2", **of_rank})
