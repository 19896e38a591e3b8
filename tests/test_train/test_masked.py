"""Training beside damage: masked clips keep their places and weigh nothing, anywhere."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from configs.data import DataConfig
from configs.errors import InputError
from configs.models import LinearModel
from configs.schema import Config
from shards.__main__ import VERBS
from shards.audit import open_audit
from shards.layout import Layout
from shards.seal import open_seal
from shards.tokens import STAGE, TokenIndex, read_token_index
from train import evaluate, fit
from train.data import TokenData, open_data
from train.jobs import jobs
from train.loop import accumulate, prepare
from train.models import build
from train.pages import report
from train.ranks import Ranks
from train.stop import Stop
from train.training import Fit
from train.validation import _whole_everywhere, validate

CopyRun = Callable[..., Config]
MASK = DataConfig(on_damage="mask")


def index_of(run: Path) -> TokenIndex:
    return read_token_index(open_seal(Layout(run), STAGE, "default").shared_file("index"))


def damage(run: Path, *shards: int, column: str = "keys") -> list[int]:
    """Flip a bit in the first block of some shards; returns the rows that are lost."""
    index, lost = index_of(run), []
    for shard in shards:
        block = int(np.flatnonzero(index.shard == shard)[0])
        path = run / index.files[shard].path
        data = bytearray(path.read_bytes())
        data[int(index.columns[column].offset[block])] ^= 1
        path.write_bytes(data)
        lost += range(*index.first_row[block : block + 2].tolist())
    return lost


@pytest.fixture
def damaged(copy_run: CopyRun) -> tuple[Config, list[int]]:
    """A run in which two shards are damaged, and the rows that this masks."""
    config = copy_run(data=MASK.model_dump())
    return config, damage(config.run, 1, 4)


def opened(config: Config) -> Any:
    return open_data(Layout(config.run), "default", config.split, None, config.data)


def gradient(config: Config, rows: np.ndarray, micro: int) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one step over some rows."""
    data = opened(config)
    settings = config.train.model_copy(
        update={"batch_size": len(rows), "micro_batch_size": micro, "epochs": 1}
    )
    made = Fit("made", config.run, config.run, "made", data, settings, Ranks(torch.device("cpu")))
    prepare(settings)
    model = build(
        LinearModel(kind="linear", width=8, dropout=0),
        data.seen,
        len(data.classes),
        data.longest,
    )
    loss = accumulate(made, model, next(data.stream(rows, settings).steps()), number=0)
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss, nn.utils.parameters_to_vector(grads)


@pytest.mark.parametrize("micro", [4, 64])
def test_a_step_is_that_of_the_clips_that_are_whole(
    micro: int, damaged: tuple[Config, list[int]], finished: Config
) -> None:
    config, lost = damaged
    rows = np.arange(40)
    whole = rows[~np.isin(rows, lost)]
    assert 0 < len(whole) < len(rows)
    loss, grads = gradient(config, rows, micro)
    expected_loss, expected = gradient(finished, whole, micro)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert (grads - expected).norm() / expected.norm() < 1e-6


def test_a_step_of_nothing_but_masked_clips_moves_nothing(
    damaged: tuple[Config, list[int]],
) -> None:
    config, lost = damaged
    loss, grads = gradient(config, np.array(lost), 4)
    assert loss == 0
    assert not grads.any()


def test_splits_ids_and_targets_stay_where_they_are(
    damaged: tuple[Config, list[int]], finished: Config
) -> None:
    config, lost = damaged
    data, sound = opened(config), opened(finished)
    assert data.ids == sound.ids
    assert (data.splits == sound.splits).all()
    every = data.source.all_rows
    assert sorted(set(every) - set(data.whole(every))) == lost
    assert (data.targets(data.whole(every)) == sound.targets(data.whole(every))).all()
    assert (sound.whole(every) == every).all()


def test_a_training_ends_and_says_what_it_went_without(
    damaged: tuple[Config, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, lost = damaged
    shutil.rmtree(config.run / "models")
    shutil.rmtree(config.run / "commits" / "fit")
    assert fit.run(config) == 0
    out = capsys.readouterr().out
    num_lost = int(np.isin(opened(config).rows("train"), lost).sum())
    said = f"warning: {num_lost} clips of split train weighed nothing: their blocks are damaged"
    assert out.count(said) == len(config.model)
    rows = opened(config).rows("train")
    for job in jobs(config):
        record = job.record()
        assert record is not None
        assert record.counts == {"clips": len(rows), "masked": int(np.isin(rows, lost).sum())}
    assert evaluate.run(config) == 0
    assert report.run(config) == 0
    num_tested = int(np.isin(opened(config).rows("test"), lost).sum())
    said = f"warning: {num_tested} clips of split test weighed nothing"
    assert (capsys.readouterr().out.count(said) >= len(config.model)) is (num_tested > 0)


def test_scores_beside_damage_do_not_stand_when_it_is_mended(
    copy_run: CopyRun, finished: Config
) -> None:
    config = copy_run(data=MASK.model_dump())
    job = next(jobs(config))
    (job.directory / "eval.json").unlink()
    before = evaluate.scores_of(finished, next(jobs(finished)))
    damage(config.run, *range(6))
    scores = evaluate.scores_of(config, job)
    assert scores["clips"] < before["clips"]
    assert not (job.directory / "eval.json").exists()
    for file in index_of(config.run).files:
        shutil.copyfile(finished.run / file.path, config.run / file.path)
    assert evaluate.scores_of(config, job)["clips"] == before["clips"]


def test_what_was_masked_is_known_after_the_mend(
    damaged: tuple[Config, list[int]], finished: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config, lost = damaged
    shutil.rmtree(config.run / "models")
    shutil.rmtree(config.run / "commits" / "fit")
    assert fit.run(config) == 0
    for file in index_of(config.run).files:
        shutil.copyfile(finished.run / file.path, config.run / file.path)
    audit = open_audit(Layout(config.run), None)
    gone = {audit.ids[row] for row in lost}
    for step in range(1, audit.schedule.num_steps + 1):
        assert audit.masked.get(step, frozenset()) == gone.intersection(audit.clips(step))
    first = min(audit.masked)
    capsys.readouterr()
    assert VERBS["audit"].run(config.run, Namespace(step=first, model=None)) == 0
    said = capsys.readouterr().out
    assert said.count(" (weighed nothing: its block was damaged)") == len(audit.masked[first])
    assert VERBS["audit"].run(config.run, Namespace(step=None, model=None)) == 0
    assert " weighed nothing in " in capsys.readouterr().out


class Beside(Ranks):
    """A rank beside one that cannot read some rows."""

    def concatenated(self, array: Any) -> Any:
        return np.concatenate([array, [0, 5]])


def test_what_one_rank_cannot_read_is_validated_by_none(damaged: tuple[Config, list[int]]) -> None:
    config, lost = damaged
    rows = np.arange(40)
    whole = _whole_everywhere(opened(config), rows, Beside(torch.device("cpu")))
    assert whole.tolist() == [row for row in range(40) if row not in {*lost, 0, 5}]


def test_a_validation_of_nothing_but_damage_is_refused(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = opened(finished)
    model = build(LinearModel(kind="linear"), data.seen, len(data.classes), data.longest)
    args = model, data, finished.train, Ranks(torch.device("cpu")), Stop()
    assert validate(*args) is not None
    monkeypatch.setattr(TokenData, "whole", lambda _, rows: rows[:0])
    with pytest.raises(InputError, match=r"no validation clip that is whole.*--repair"):
        validate(*args)
