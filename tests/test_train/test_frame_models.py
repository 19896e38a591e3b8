"""Models of frames: fed as they should be, padding is nothing, sizes are the stated ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from configs.errors import ConfigError, InputError
from configs.frames import FbankFrames
from configs.models import AstModel, Model
from configs.schema import Config
from pipeline.audio.fbank import fbank
from pipeline.audio.quantise import Quantiser
from shards.layout import Layout
from train import evaluate, fit
from train.data import open_data
from train.models import build
from train.models.ast import AstClassifier

CopyRun = Callable[..., Config]
N, NUM_CLASSES, LONGEST = 16, 5, 40
SHAPE = {"layers": 1, "width": 16, "heads": 2, "dropout": 0}
SECTIONS: dict[str, dict[str, Any]] = {
    "bert_frames": {"kind": "bert_frames", **SHAPE, "max_positions": 64, "pooling": "mean"},
    "bert_frames-strided": {"kind": "bert_frames", **SHAPE, "max_positions": 16, "stride": 4},
    "cnn": {"kind": "cnn", "dropout": 0},
    "cnn4": {"kind": "cnn", "channels": [16, 32, 64, 128], "hidden": 0, "dropout": 0},
    "mlp": {"kind": "mlp", "hidden": [32, 16], "dropout": 0},
    "ast": {"kind": "ast", **SHAPE, "max_length": 48, "mean": 0, "std": 0.5},
}
with_models = pytest.mark.parametrize("name", SECTIONS)


def make_model(name: str, num_numbers: int = N, **over: Any) -> nn.Module:
    section: Any = TypeAdapter(Model).validate_python(SECTIONS[name] | over)
    torch.manual_seed(0)
    return build(section, num_numbers, NUM_CLASSES, LONGEST)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@with_models
@pytest.mark.parametrize("filling", [0.0, 3.0])
def test_padding_changes_no_logits(name: str, filling: float) -> None:
    """Whatever it is filled with."""
    model = make_model(name).eval()
    clips = [torch.randn(length, N) for length in (7, 1, 40, 12, 39, 2)]
    lengths_B = torch.tensor([len(clip) for clip in clips])
    padded_BTN = pad_sequence(clips, batch_first=True, padding_value=filling)
    wider_BTN = nn.functional.pad(padded_BTN, (0, 0, 0, 5), value=filling)
    with torch.no_grad():
        alone_BC = torch.cat([model(c[None], torch.tensor([len(c)])) for c in clips])
        torch.testing.assert_close(model(padded_BTN, lengths_B), alone_BC, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(wider_BTN, lengths_B), alone_BC, rtol=1e-5, atol=1e-5)
    assert alone_BC.std(dim=0).min() > 1e-4, "clips must differ, or nothing is tested"


@with_models
def test_every_parameter_learns(name: str) -> None:
    """Ranks wait for the gradient of each."""
    model = make_model(name)
    model(torch.randn(3, LONGEST, N), torch.tensor([LONGEST, 9, 4])).square().sum().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]


def test_sizes_are_the_stated_ones() -> None:
    with torch.device("meta"):
        sizes = {name: num_parameters(make_model(name, 64)) for name in ("cnn", "cnn4")}
        convolutions = make_model("cnn4", 64).get_submodule("convolutions")
        mlp = build(TypeAdapter(Model).validate_python({"kind": "mlp"}), 64, 527, 431)
        ast = build(TypeAdapter(Model).validate_python({"kind": "ast"}), 128, 527, 1024)
        encoder = ast.get_submodule("encoder")
    assert sizes["cnn"] == 320 + 18_496 + (64 * 16 + 1) * 256 + 257 * NUM_CLASSES
    assert num_parameters(convolutions) == 97_152
    assert sizes["cnn4"] == 97_152 + (128 * 4 + 1) * NUM_CLASSES
    assert num_parameters(mlp) == pytest.approx(14.4e6, abs=0.05e6)
    assert num_parameters(encoder) == pytest.approx(86.2e6, abs=0.1e6)


def test_what_does_not_fit_is_an_error_with_a_cure() -> None:
    with pytest.raises(ConfigError, match="set max_positions=11 or more"):
        make_model("bert_frames-strided", max_positions=10)
    with pytest.raises(ConfigError, match="max_length=39 is too short.*max_length=40 or more"):
        make_model("ast", max_length=39)
    with pytest.raises(ConfigError, match="5 maxima .* leave nothing of vectors of 16"):
        make_model("cnn4", channels=[2, 2, 2, 2, 2])


def test_ast_is_fed_as_by_its_own_extractor() -> None:
    from transformers import ASTFeatureExtractor

    random = np.random.default_rng(0)
    waves = [random.normal(size=size).astype(np.float32) / 4 for size in (16_000, 40_000)]
    extractor = ASTFeatureExtractor(max_length=256)
    expected = extractor(waves, sampling_rate=16_000, return_tensors="pt").input_values
    config = FbankFrames(kind="fbank", allow_empty_filters=True)
    clips = [torch.from_numpy(fbank(wave, 16_000, config)) for wave in waves]
    lengths_B = torch.tensor([len(clip) for clip in clips])
    model = AstClassifier(AstModel(kind="ast", layers=1, max_length=256), 128, NUM_CLASSES)
    fed = model.fed(pad_sequence(clips, batch_first=True), lengths_B)
    torch.testing.assert_close(fed, expected, atol=2e-3, rtol=1e-3)


def test_ast_starts_from_weights_in_a_directory(tmp_path: Path) -> None:
    from transformers import ASTConfig, ASTModel

    shape = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_mel_bins=N,
        max_length=48,
    )
    given = ASTModel(shape)
    given.save_pretrained(tmp_path / "ast")
    model = make_model("ast", pretrained=str(tmp_path / "ast"))
    for name, weight in given.named_parameters():
        assert torch.equal(model.get_submodule("encoder").get_parameter(name), weight)
    with pytest.raises(ConfigError, match="takes 16 bins, and stored frames have 64"):
        make_model("ast", 64, pretrained=str(tmp_path / "ast"))
    with pytest.raises(InputError, match="no AST there"):
        make_model("ast", pretrained=str(tmp_path / "none"))


def test_vectors_are_those_that_tokens_are_of(finished: Config) -> None:
    layout, args = Layout(finished.run), ("default", finished.split, None)
    tokens, vectors = open_data(layout, *args), open_data(layout, *args, reads="vectors")
    rows = tokens.rows("train")[:12]
    quantiser = Quantiser(tokens.codebook)
    (of_tokens,), (of_vectors,) = tokens.batches(rows, 12), vectors.batches(rows, 12)
    assert torch.equal(of_tokens.lengths_B, of_vectors.lengths_B)
    assert torch.equal(of_tokens.targets_BC, of_vectors.targets_BC)
    triples = zip(of_tokens.inputs_BTN, of_vectors.inputs_BTN, of_tokens.lengths_B, strict=True)
    heard = 0
    for tokens_TQ, vectors_TN, length in triples:
        is_heard = (tokens_TQ[:length, 0] < tokens.codebook.k).numpy()
        found_TQ = quantiser.quantise(vectors_TN[:length].numpy()[is_heard])
        assert (found_TQ == tokens_TQ[:length].numpy()[is_heard]).all()
        heard += is_heard.sum()
    assert heard > 100


def test_frames_as_stored(finished: Config) -> None:
    data = open_data(Layout(finished.run), "default", finished.split, None, reads="frames")
    rows = data.rows("train")[:4]
    (batch,) = data.batches(rows, 4)
    chunk = data.inputs.source.read(rows)
    for found_TM, frames_TM in zip(batch.inputs_BTN, chunk.clips(), strict=True):
        assert (found_TM[: len(frames_TM)].numpy() == frames_TM.astype(np.float32)).all()
    assert data.seen == data.inputs.source.num_mels


@with_models
def test_it_is_trained_and_scored_by_the_commands(name: str, copy_run: CopyRun) -> None:
    own = {"max_length": 80} if name == "ast" else {"max_positions": 80}
    own = own if name.startswith(("ast", "bert")) else {}
    model = SECTIONS[name] | own | {"epochs": 2}
    config = copy_run(models={"made": model}, model=("made",))
    assert fit.run(config) == 0
    assert evaluate.run(config) == 0
    directory = Layout(config.run).model("made")
    assert 0 < json.loads((directory / "eval.json").read_text())["map"] <= 1


@pytest.mark.parametrize("setting", ["reader: webdataset", "on_damage: mask"])
def test_what_only_tokens_have_is_refused(setting: str, finished: Config) -> None:
    name, _, value = setting.partition(": ")
    tree = finished.model_dump() | {"models": {"made": SECTIONS["cnn"]}, "model": ("made",)}
    with pytest.raises(ValueError, match=f"data.{name} is of tokens, and made reads frames"):
        Config.model_validate(tree | {"data": {name: value}})
