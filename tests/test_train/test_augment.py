"""What a training changes of its clips: by seed, epoch and clip alone, and never for scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from configs.augment import SpanMasks
from configs.errors import ConfigError, Preempted
from configs.models import BertFramesModel, LinearModel, Model
from configs.schema import Config, TrainConfig
from pipeline.audio.quantise import Quantiser
from shards.audit import open_audit
from shards.layout import Layout
from shards.stream.keyed import example_seeds
from shards.stream.schedule import Place, World
from tests.test_train.test_resume import run, terminate
from train import evaluate, fit
from train.augment import Augmented, spans
from train.batches import Batch
from train.data import TokenData, open_data
from train.inputs import Tokens
from train.loader import LoaderProcesses
from train.loop import prepare, train
from train.models import build
from train.stop import Stop
from train.training import Fit

CopyRun = Callable[..., Config]
MakeData = Callable[..., TokenData]
MakeFit = Callable[..., Fit]
EVERYTHING = {"gain_db": 9, "equaliser_db": 6, "stretch": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "masks": {"span_masks": {"count": 2, "longest": 10}},
    "augment": {"augment": EVERYTHING},
    "both": {"span_masks": {}, "augment": EVERYTHING},
}
with_settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
with_reads = pytest.mark.parametrize("reads", ["tokens", "vectors", "frames"])


def opened(config: Config, reads: str = "tokens") -> TokenData:
    return open_data(Layout(config.run), "default", config.split, None, reads=reads)


def train_config(**over: Any) -> TrainConfig:
    return TrainConfig.model_validate({"epochs": 2, "batch_size": 12, "device": "cpu", **over})


def clips_of(batches: Iterable[Batch]) -> list[tuple[int, bytes]]:
    """The row of every clip that counts, and what a model sees of it."""
    return [
        (row, inputs_TN[:length].numpy().tobytes())
        for batch in batches
        for row, inputs_TN, length, weight in zip(
            batch.rows_B.tolist(),
            batch.inputs_BTN,
            batch.lengths_B.tolist(),
            batch.weights_B.tolist(),
            strict=True,
        )
        if weight
    ]


def seen(steps: Any) -> list[tuple[int, bytes]]:
    """Of every step the clips by their rows: parts of ranks are put together again."""
    with closing(steps):
        return [clip for step in steps for clip in sorted(clips_of(step.batches))]


# --- what is drawn hangs on seed, epoch and clip alone ------------------------------------------


@with_settings
@with_reads
def test_micro_batches_and_places_change_nothing(
    settings: dict[str, Any], reads: str, finished: Config
) -> None:
    data = opened(finished, reads)
    rows = data.rows("train")
    whole = seen(data.stream(rows, train_config(**settings)).steps())
    assert len(whole) == 2 * len(rows)
    for size in (1, 5):
        stream = data.stream(rows, train_config(micro_batch_size=size, **settings))
        assert seen(stream.steps()) == whole
    place = Place(0, 24)
    assert seen(stream.steps(place)) == whole[24:]


@with_settings
def test_ranks_and_loader_processes_change_nothing(
    settings: dict[str, Any], finished: Config
) -> None:
    data = opened(finished)
    rows, config = data.rows("train"), train_config(micro_batch_size=3, **settings)
    whole = seen(data.stream(rows, config).steps())
    assert seen(LoaderProcesses(data.stream(rows, config), 2).steps(Place(0, 0))) == whole
    worlds = [World(rank, 3) for rank in range(3)]
    together = zip(*(data.stream(rows, config, world).steps() for world in worlds), strict=True)
    found = [sorted(clips_of(b for part in parts for b in part.batches)) for parts in together]
    assert [clip for step in found for clip in step] == whole


@with_settings
def test_epochs_and_seeds_draw_anew(settings: dict[str, Any], finished: Config) -> None:
    data = opened(finished)
    rows = data.rows("train")
    first = seen(data.stream(rows, train_config(**settings)).steps())
    other = seen(data.stream(rows, train_config(seed=1, **settings)).steps())
    epochs = dict(first[: len(rows)]), dict(first[len(rows) :]), dict(other[: len(rows)])
    for one, two in ((0, 1), (0, 2)):
        num_same = sum(epochs[one][row] == epochs[two][row] for row in rows.tolist())
        assert num_same < len(rows) / 4


@with_settings
@pytest.mark.parametrize(
    "section",
    [
        LinearModel(kind="linear", width=8),
        BertFramesModel(kind="bert_frames", layers=1, width=8, heads=2, max_positions=80),
    ],
    ids=lambda section: section.kind,
)
def test_a_stopped_training_ends_with_the_same_weights(
    section: Any, settings: dict[str, Any], finished: Config, make_fit: MakeFit
) -> None:
    data = opened(finished, getattr(section, "reads", "tokens"))
    own = {"epochs": 2, "batch_size": 16, "micro_batch_size": 5, **settings}
    whole = run(make_fit(data, **own), section)
    plain = run(make_fit(data, epochs=2, batch_size=16, micro_batch_size=5), section)
    assert not torch.equal(whole, plain)
    with pytest.raises(Preempted, match="saved step 3 of"):
        run(make_fit(data, directory="stopped", **own), section, 3, terminate)
    assert torch.equal(run(make_fit(data, directory="stopped", **own), section), whole)


# --- spans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_spans_lie_within_a_clip_and_leave_some_of_it(count: int) -> None:
    lengths_B = np.repeat(np.arange(1, 60, dtype=np.int32), 50)
    every_B = np.arange(len(lengths_B))
    seeds_B = example_seeds(0, 0 * every_B, every_B)
    config = SpanMasks(count=count, longest=7)
    hidden_BT = spans(config, lengths_B, seeds_B, 70)
    assert not hidden_BT[np.arange(70) >= lengths_B[:, None]].any()
    num_hidden_B = hidden_BT.sum(axis=1)
    assert (num_hidden_B < lengths_B).all()
    assert 5 * count < num_hidden_B.max() <= 7 * count
    wide = lengths_B > 50
    starts_B = np.diff(hidden_BT[wide], axis=1, prepend=0).clip(0).sum(axis=1)
    assert starts_B.max() == count
    assert (spans(config, lengths_B, seeds_B, 90)[:, :70] == hidden_BT).all()


def test_spans_are_even() -> None:
    every_B = np.arange(40_000)
    lengths_B = np.full(len(every_B), 40, dtype=np.int32)
    seeds_B = example_seeds(3, 0 * every_B, every_B)
    hidden_BT = spans(SpanMasks(count=1, longest=4), lengths_B, seeds_B, 40)
    sizes = np.bincount(hidden_BT.sum(axis=1))
    np.testing.assert_allclose(sizes / len(every_B), 1 / 5, rtol=0.05)
    starts = np.bincount(hidden_BT[hidden_BT.sum(axis=1) == 4].argmax(axis=1))
    assert len(starts) == 37
    np.testing.assert_allclose(starts / starts.sum(), 1 / 37, rtol=0.3)


@with_reads
def test_what_is_hidden_is_padding_or_the_mean(reads: str, finished: Config) -> None:
    data = opened(finished, reads)
    rows, config = data.rows("train"), train_config(span_masks={"longest": 10})
    masked, plain = (
        [batch for step in data.stream(rows, one).steps() for batch in step.batches]
        for one in (config, train_config())
    )
    shares = []
    for found, whole in zip(masked, plain, strict=True):
        assert torch.equal(found.lengths_B, whole.lengths_B)
        for found_TN, whole_TN, length in zip(
            found.inputs_BTN, whole.inputs_BTN, whole.lengths_B.tolist(), strict=True
        ):
            is_hidden_T = (found_TN != whole_TN).any(dim=1)
            hidden_TN = found_TN[is_hidden_T]
            if reads == "tokens":
                assert (hidden_TN == data.pad_id).all()
            elif len(hidden_TN):
                mean_N = whole_TN[:length].mean(dim=0)
                torch.testing.assert_close(hidden_TN, mean_N.expand_as(hidden_TN))
            assert not is_hidden_T[length:].any()
            shares.append(float(is_hidden_T.sum()) / length)
    assert 0.05 < np.mean(shares) < 0.2


@pytest.mark.parametrize("embedding", ["random", "centroids"])
@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("kind", ["linear", "lstm", "bert"])
def test_padding_is_nothing_to_models_of_tokens(
    kind: str, codebooks: int, embedding: Any, random_data: MakeData, make_fit: MakeFit
) -> None:
    """Before a training and after it, in the middle of a clip as beyond its end."""
    shape = {"kind": kind, "width": 8, "embedding": embedding}
    of_kind = {"lstm": {"hidden": 8}, "bert": {"layers": 1, "heads": 2, "max_positions": 32}}
    section: Any = TypeAdapter(Model).validate_python(shape | of_kind.get(kind, {}))
    data = random_data((9, 3, 0), codebooks=codebooks)
    one = make_fit(data, span_masks={"longest": 3}, lr=0.1)
    prepare(one.config)
    model: Any = build(section, data.seen, len(data.classes), data.longest)
    embed = model.embedded if kind == "bert" else model.embedding
    tokens_BTQ = torch.tensor([[[data.pad_id] * codebooks, [0] * codebooks]])
    for _ in range(2):
        with torch.no_grad():
            padding_D, token_D = embed(tokens_BTQ)[0]
        assert not padding_D.any()
        train(one, model, Stop())
    assert token_D.any()


# --- frames that are changed ---------------------------------------------------------------------


def augmented(data: TokenData, **amounts: float) -> Augmented:
    inputs = data.training_inputs(train_config(augment=amounts))
    assert isinstance(inputs, Augmented)
    return inputs


@with_reads
def test_amounts_of_zero_give_what_is_stored(reads: str, finished: Config) -> None:
    data = opened(finished, reads)
    rows = data.rows("train")
    assert augmented(data).source.num_rows == data.inputs.source.num_rows
    plain = seen(data.stream(rows, train_config()).steps())
    assert seen(data.stream(rows, train_config(augment={})).steps()) == plain
    tiny = {"gain_db": 1e-30, "equaliser_db": 1e-30, "stretch": 1e-30}
    assert seen(data.stream(rows, train_config(augment=tiny)).steps()) == plain


def test_tokens_are_the_quantisers_of_changed_frames(finished: Config) -> None:
    data = opened(finished)
    inputs, rows = augmented(data, **EVERYTHING), data.rows("train")
    quantiser, seeds_B = Quantiser(data.codebook), np.arange(len(rows), dtype=np.uint64)
    changed = inputs.changed(inputs.source.read(rows).clips(), seeds_B)
    expected = [quantiser.tokens(frames_TM) for frames_TM in changed]
    for found_TQ, alone_TQ in zip(inputs.made(changed), expected, strict=True):
        assert (found_TQ == alone_TQ).all()
    stored = data.source.read(rows).clips()
    pairs = zip(stored, expected, strict=True)
    shares = [(one[: len(two)] != two[: len(one)]).mean() for one, two in pairs]
    assert np.mean(shares) > 0.1


def changes(finished: Config, **amounts: float) -> list[tuple[Any, Any]]:
    """Stored and changed frames of some clips."""
    data = opened(finished)
    inputs, rows = augmented(data, **amounts), data.rows("train")
    clips = [clip_TM.astype(np.float32) for clip_TM in inputs.source.read(rows).clips()]
    seeds_B = example_seeds(0, 0 * rows, rows)
    return list(zip(clips, inputs.changed(clips, seeds_B), strict=True))


def test_gain_is_one_number_a_clip(finished: Config) -> None:
    gains = []
    for stored_TM, changed_TM in changes(finished, gain_db=9):
        differences = (changed_TM - stored_TM)[changed_TM > -99]
        assert np.ptp(differences) < 1e-4
        gains.append(differences[0])
    assert -9 <= min(gains) < -5
    assert 5 < max(gains) <= 9


def test_an_equaliser_is_a_smooth_curve(finished: Config) -> None:
    tilts = []
    for stored_TM, changed_TM in changes(finished, equaliser_db=6):
        loudest = stored_TM.min(axis=1).argmax()
        curve_M = (changed_TM - stored_TM)[loudest]
        assert np.abs(curve_M).max() <= 6
        assert np.abs(np.diff(curve_M)).max() <= 12 / ((len(curve_M) - 1) / 5) + 1e-3
        tilts.append(np.ptp(curve_M))
    assert np.mean(tilts) > 3


def test_a_stretched_clip_is_never_longer_than_the_longest(finished: Config) -> None:
    data = opened(finished)
    lengths = [len(changed_TM) for _, changed_TM in changes(finished, stretch=0.2)]
    assert max(lengths) == data.longest
    assert 0.8 * data.longest <= min(lengths) < 0.9 * data.longest


# --- who is changed, and who refuses -------------------------------------------------------------


def test_what_is_not_asked_for_is_not_there(finished: Config) -> None:
    assert type(opened(finished).training_inputs(train_config())) is Tokens


@with_settings
def test_only_clips_that_are_trained_on_are_changed(
    settings: dict[str, Any], copy_run: CopyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands: with any settings, `fit` validates and `eval` scores stored clips."""
    own = {"epochs": 1, "batch_size": 16, "device": "cpu", "threads": 1, **settings}
    config = copy_run(models={"made": {"kind": "linear"}}, model=("made",), train=own)
    source = opened(config).source
    stored = {c.astype(np.int64).tobytes() for c in source.read(source.all_rows).clips()}
    met: dict[bool, list[bytes]] = {True: [], False: []}
    usual = torch.nn.Module.__call__

    def note(module: torch.nn.Module, *args: Any, **named: Any) -> Any:
        if type(module).__name__ == "LinearClassifier":
            tokens_BTQ, lengths_B = args[:2]
            met[module.training] += [
                tokens_TQ[:length].numpy().tobytes()
                for tokens_TQ, length in zip(tokens_BTQ, lengths_B.tolist(), strict=True)
            ]
        return usual(module, *args, **named)

    monkeypatch.setattr(torch.nn.Module, "__call__", note)
    assert fit.run(config) == 0
    assert evaluate.run(config) == 0
    assert sum(clip in stored for clip in met[True]) < len(met[True]) / 4
    assert met[False]
    assert set(met[False]) <= stored
    audit = open_audit(Layout(config.run), "made")
    assert audit.counts(0) == {1: len(opened(config).rows("train"))}


def test_models_of_frames_are_audited(copy_run: CopyRun) -> None:
    model = {"kind": "cnn", "channels": [2], "hidden": 0, "epochs": 1}
    config = copy_run(models={"made": model}, model=("made",))
    assert fit.run(config) == 0
    audit = open_audit(Layout(config.run), "made")
    assert audit.counts(0) == {1: len(opened(config).rows("train"))}


def test_frames_of_a_run_that_are_no_logarithm_are_refused(finished: Config) -> None:
    data = opened(finished)
    cepstra = replace(data, codebook=replace(data.codebook, frames={"kind": "mfcc"}))
    with pytest.raises(ConfigError, match="are mfcc: leave it out"):
        cepstra.training_inputs(train_config(augment={}))
