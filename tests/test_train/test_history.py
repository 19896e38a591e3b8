"""What follows from validation scores: rates, an early end, and which weights are kept."""

from __future__ import annotations

import shutil
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from configs.errors import ConfigError, InputError, IntegrityError
from configs.models import LinearModel
from configs.schema import TrainConfig
from shards.index import decoded
from shards.layout import Layout
from tests.test_train.conftest import CopyRun, MakeData, MakeFit
from tests.test_train.test_resume import die, run
from train import checkpoint, fit, validation
from train.history import History
from train.learner import Average
from train.loop import prepare, train
from train.models import build
from train.stop import Stop
from train.training import Fit

LINEAR = LinearModel(kind="linear", width=8, dropout=0.3)


def history_of(*scores: float) -> History:
    return History({10 * n: score for n, score in enumerate(scores, 1)})


@pytest.mark.parametrize(
    ("scores", "patience", "reductions"),
    [
        ((), 1, 0),
        ((0.5,), 1, 0),
        ((0.5, 0.5), 1, 1),
        ((0.5, 0.4, 0.6, 0.6, 0.1), 2, 1),
        ((0.5, 0.4, 0.4, 0.4, 0.4), 2, 2),
        ((0.1, 0.2, 0.3, 0.4), 1, 0),
    ],
)
def test_a_plateau_is_so_many_validations_without_gain(
    scores: tuple[float, ...], patience: int, reductions: int
) -> None:
    assert history_of(*scores).num_reductions(patience) == reductions


@pytest.mark.parametrize(
    ("scores", "is_over"),
    [((0.5,), False), ((0.5, 0.4), False), ((0.5, 0.4, 0.5), True), ((0.5, 0.4, 0.6), False)],
)
def test_it_ends_after_two_that_bring_nothing(scores: tuple[float, ...], is_over: bool) -> None:
    assert history_of(*scores).is_over(TrainConfig(early_stop=2)) is is_over
    assert not history_of(*scores).is_over(TrainConfig())


def test_of_equal_scores_the_first_is_the_best() -> None:
    assert history_of(0.1, 0.4, 0.4, 0.2).best_step == 20
    assert History().best_step is None


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The scores that validations find after epoch 1, 2 ... of two steps each, whatever the
    weights."""
    scores: list[float] = []

    def validate(fit: Fit, _: Any, done: int, history: History, __: Any) -> None:
        score = scores[done // 2 - 1]
        fit.log({"step": done, "valid_loss": 0.7, "valid_map": score})
        history.scores[done] = score

    monkeypatch.setattr("train.loop._validate", validate)
    monkeypatch.setattr("train.loop.LOG_EVERY_STEPS", 1)
    return scores


def test_the_rate_falls_where_validation_stands_still(
    scripted: list[float], random_data: MakeData, make_fit: MakeFit
) -> None:
    scripted += [0.5, 0.4, 0.4, 0.6, 0.6, 0.6]
    data, settings = random_data((8, 4, 0)), {"schedule": "plateau", "warmup_share": 0.0}
    settings |= {"plateau_patience": 2, "plateau_factor": 0.5, "lr": 0.08, "epochs": 6}
    one = make_fit(data, checkpoint_every_steps=2, **settings)
    run(one, LINEAR)
    rates = [record["lr"] for record in one.journal.read() if "lr" in record]
    assert rates == pytest.approx([0.08] * 6 + [0.04] * 6)
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", checkpoint_every_steps=2, **settings), LINEAR, 8, die)
    again = make_fit(data, directory="died", checkpoint_every_steps=2, **settings)
    run(again, LINEAR)
    assert [r["lr"] for r in again.journal.read() if "lr" in r] == pytest.approx(rates)


def test_it_ends_early_and_keeps_the_best(
    scripted: list[float],
    random_data: MakeData,
    make_fit: MakeFit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted += [0.1, 0.7, 0.3, 0.2]
    data = random_data((8, 4, 0))
    settings = {"epochs": 20, "early_stop": 2, "keep_checkpoints": 1, "checkpoint_every_steps": 3}
    one = make_fit(data, select="best", **settings)
    run(one, LINEAR)
    assert max(record["step"] for record in one.journal.read()) == 8
    assert "step 4 scored best, mAP 70.00 %" in capsys.readouterr().out
    kept = sorted(path.name for path in one.checkpoints.iterdir())
    assert kept == ["step-000004", "step-000006"]


@pytest.mark.parametrize("over", [{"schedule": "plateau", "warmup_share": 0.0}, {"select": "best"}])
def test_nothing_hangs_on_the_journal(
    over: dict[str, Any], scripted: list[float], random_data: MakeData, make_fit: MakeFit
) -> None:
    """It is not synced: after a power loss it may be gone, and the checkpoint be there."""
    scripted += [0.5, 0.7, 0.4, 0.3, 0.2, 0.1]
    settings = {"plateau_patience": 2, "lr": 0.08, "epochs": 6, "checkpoint_every_steps": 2, **over}
    data = random_data((8, 4, 0))
    whole = ended(make_fit(data, **settings))
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", **settings), LINEAR, 10, die)
    again = make_fit(data, directory="died", **settings)
    again.journal.path.unlink()
    assert torch.equal(ended(again), whole)
    scripted[1] = 0.0
    assert not torch.equal(ended(make_fit(data, **settings)), whole), "scores have to matter"


def ended(one: Fit) -> torch.Tensor:
    """What a training ends with."""
    prepare(one.config)
    model = build(LINEAR, one.data.seen, len(one.data.classes), one.data.longest)
    return nn.utils.parameters_to_vector(train(one, model, Stop()).values())


def best_of_many(random_data: MakeData, make_fit: MakeFit) -> Fit:
    """A training that scored best after step 4, killed after step 8."""
    settings = {"select": "best", "epochs": 6, "checkpoint_every_steps": 2}
    data = random_data((8, 4, 0))
    with pytest.raises(ZeroDivisionError):
        run(make_fit(data, directory="died", **settings), LINEAR, 10, die)
    return make_fit(data, directory="died", **settings)


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_best_checkpoint_that_is_not_whole_is_told_before_training_goes_on(
    is_gone: bool,
    scripted: list[float],
    random_data: MakeData,
    make_fit: MakeFit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And refused at the end, if it is the best one then, too."""
    scripted += [0.1, 0.7, 0.3, 0.2, 0.2, 0.2]
    again = best_of_many(random_data, make_fit)
    best = again.checkpoints / "step-000004"
    (best / "model.safetensors").write_bytes(b"half")
    if is_gone:
        shutil.rmtree(best)
    with pytest.raises(ZeroDivisionError):
        run(again, LINEAR, 2, die)
    assert "step-000004, which scored best so far, is damaged or gone" in capsys.readouterr().out
    with pytest.raises(IntegrityError, match="step-000004, which scored best, is damaged or gone"):
        run(again, LINEAR)
    for path in again.checkpoints.iterdir():
        shutil.rmtree(path)
    run(again, LINEAR)


def test_a_damaged_one_that_a_later_step_beats_costs_nothing(
    scripted: list[float], random_data: MakeData, make_fit: MakeFit
) -> None:
    scripted += [0.1, 0.7, 0.3, 0.2, 0.8, 0.2]
    again = best_of_many(random_data, make_fit)
    (again.checkpoints / "step-000004/optimizer.safetensors").write_bytes(b"half")
    whole = make_fit(again.data, **again.config.model_dump(include={"select", "epochs"}))
    assert torch.equal(ended(again), ended(whole))


def test_without_the_newest_the_best_before_is_there(
    scripted: list[float], random_data: MakeData, make_fit: MakeFit
) -> None:
    """The newest is the best one and damaged: training goes on from the one before, whose best is
    another."""
    scripted += [0.1, 0.7, 0.3, 0.8, 0.2, 0.2]
    again = best_of_many(random_data, make_fit)
    kept = sorted(path.name for path in again.checkpoints.iterdir())
    assert kept == ["step-000004", "step-000006", "step-000008"]
    (again.checkpoints / "step-000008/model.safetensors").write_bytes(b"half")
    whole = make_fit(again.data, **again.config.model_dump(include={"select", "epochs"}))
    assert torch.equal(ended(again), ended(whole))


def test_where_nobody_validates_nothing_can_go_by_it(copy_run: CopyRun) -> None:
    made = {"kind": "linear", "width": 8}
    config = copy_run(models={"made": made}, model=("made",))
    train = config.train.model_copy(update={"early_stop": 2})
    split = config.split.model_copy(update={"valid_share": 0.0})
    with pytest.raises(ConfigError, match="go by the validation clips, and there are none"):
        fit.run(config.model_copy(update={"train": train, "split": split}))


def test_where_no_validation_clip_has_a_label_nothing_is_trained(
    copy_run: CopyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copy_run(models={"made": {"kind": "linear", "width": 8}}, model=("made",))

    def unlabelled(table: pa.Table) -> pa.Table:
        nothing = pa.array([[]] * table.num_rows, pa.list_(pa.int16()))
        return decoded(table).set_column(0, "labels", nothing)

    monkeypatch.setattr(validation, "decoded", unlabelled)
    with pytest.raises(InputError, match="no validation clip has a label"):
        fit.run(config)
    assert not (Layout(config.run).model("made") / "metrics.jsonl").exists()


def test_the_average_is_the_exponential_one_after_a_start() -> None:
    model = nn.Linear(3, 2)
    average = Average(model, decay=0.5)
    expected = model.weight.detach().clone().double()
    for done in range(1, 30):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        average.update(done)
        decay = min(0.5, done / (done + 9))
        expected = decay * expected + (1 - decay) * model.weight.double()
    torch.testing.assert_close(average.tensors["weight"].double(), expected, rtol=1e-5, atol=1e-5)
    own = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.weight, own)


def test_the_average_is_what_a_training_ends_with(random_data: MakeData, make_fit: MakeFit) -> None:
    data = random_data((8, 4, 0))
    plain, averaged = make_fit(data, epochs=5), make_fit(data, epochs=5, average_decay=0.99)
    weights = run(plain, LINEAR), run(averaged, LINEAR)
    assert torch.equal(*weights), "the model itself is trained as without"
    newest = checkpoint.newest(averaged.checkpoints, averaged.partial)
    assert newest is not None
    assert (newest / "average.safetensors").exists()
    valid = [
        [record["valid_loss"] for record in one.journal.read() if "valid_loss" in record]
        for one in (plain, averaged)
    ]
    assert valid[0][-1] != valid[1][-1]
