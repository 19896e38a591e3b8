"""The live line: what is counted was done, and the peak that it is held against is named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from configs.models import LinearModel
from shards.stream.schedule import Place
from tests.test_train.conftest import MakeData, MakeFit
from train.live import Live, flops_a_place, peak_of
from train.models import build

LINEAR = LinearModel(kind="linear", width=8, dropout=0, embedding="random")


def test_operations_are_those_of_the_models_products(
    random_data: MakeData, make_fit: MakeFit
) -> None:
    """`linear` has one: [B, width] x [width, classes], a multiplication and an addition each."""
    fit = make_fit(random_data((8, 0, 0)))
    model = build(LINEAR, fit.data.seen, 4, fit.data.longest).train()
    (batch,) = next(fit.reader.steps(Place(0, 0))).batches
    num_clips, num_places, _ = batch.inputs_BTN.shape
    assert flops_a_place(model, batch) == pytest.approx(3 * 2 * 8 * 4 / num_places)
    assert num_clips > 1
    assert model.training


def test_the_line_says_what_was_done(
    random_data: MakeData, make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps in four seconds, of which one was waited for data."""
    clock = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr("train.live.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("train.live.peak_of", lambda _: ("made", 1e-9))
    fit = make_fit(random_data((8, 0, 0)))
    model = build(LINEAR, fit.data.seen, 4, fit.data.longest)
    live = Live(fit.ranks, model)
    steps = [*fit.reader.steps(Place(0, 0))][:2]
    *_, note = [live.note(step, {"loss": 0.25, "waited_s": 0.5}) for step in steps]
    batches = [batch for step in steps for batch in step.batches]
    own = sum(int(batch.lengths_B.sum()) for batch in batches)
    padded = sum(batch.inputs_BTN[:, :, 0].numel() for batch in batches)
    share = padded * flops_a_place(model, batches[0]) / 4 / 1e3
    assert note.startswith(f"loss 0.2500, {own / 4:,.0f} places/s, loader 25.0%, ")
    assert note.endswith(f" GiB, MFU {share:.1%} of 1e-09 TFLOP/s (made, bf16)")


def test_a_cpu_has_no_peak_and_gpus_have_their_data_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_of(torch.device("cpu")) is None
    named = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA A100-SXM4-40GB": 312.0, "NVIDIA L4": 121.0}
    for name, peak in named.items():
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _, name=name: name)
        found = peak_of(torch.device("cuda", 0))
        assert found is not None
        assert found[1] == peak
    for name in ("Quadro P600", "NVIDIA L40", "NVIDIA A10G"):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _, name=name: name)
        assert peak_of(torch.device("cuda", 0)) is None
