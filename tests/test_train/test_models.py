"""Models: padding is nothing, the LSTM is torch's, sizes are the published ones, ids stay apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from configs.errors import ConfigError
from configs.models import BertModel, LstmModel, Model
from train.logits import logits_of
from train.loop import prepare, train
from train.metrics import evaluate
from train.models import build
from train.models.bert import BertClassifier
from train.models.classifier import BagPath
from train.models.embedding import TokenEmbedding, Vocabulary
from train.models.lstm import BidirectionalLstm
from train.models.pooling import AttentionPooling, masked_mean, real_tokens
from train.stop import Stop

K, NUM_CLASSES, LONGEST = 11, 5, 40

SMALL_BERT = {
    "kind": "bert",
    "layers": 2,
    "width": 16,
    "heads": 2,
    "max_positions": 64,
    "dropout": 0,
    "embedding": "random",
}
SMALL_LSTM = {"kind": "lstm", "width": 8, "hidden": 12, "dropout": 0, "embedding": "random"}
SMALL_LINEAR = {"kind": "linear", "width": 8, "dropout": 0, "embedding": "random"}
SECTIONS: dict[str, dict[str, Any]] = {
    "bert-cls": {**SMALL_BERT, "pooling": "cls"},
    "bert-mean": {**SMALL_BERT, "pooling": "mean"},
    "bert-attention": {**SMALL_BERT, "pooling": "attention"},
    "bert-centroids": {**SMALL_BERT, "pooling": "mean", "embedding": "centroids"},
    "bert-strided": {**SMALL_BERT, "pooling": "mean", "stride": 4},
    "lstm-last": {**SMALL_LSTM, "pooling": "last"},
    "lstm-last-2": {**SMALL_LSTM, "pooling": "last", "layers": 2},
    "lstm-mean": {**SMALL_LSTM, "pooling": "mean"},
    "lstm-mean-2": {**SMALL_LSTM, "pooling": "mean", "layers": 2},
    "lstm-attention": {**SMALL_LSTM, "pooling": "attention"},
    "lstm-centroids": {**SMALL_LSTM, "pooling": "mean", "embedding": "centroids"},
    "linear-centroids": {**SMALL_LINEAR, "embedding": "centroids"},
    "linear": SMALL_LINEAR,
    "linear-bag": {**SMALL_LINEAR, "bag_path": True},
    "lstm-bag": {**SMALL_LSTM, "bag_path": True},
    "bert-bag": {**SMALL_BERT, "bag_path": True},
}


def vocabulary_of(codebooks: int, k: int = K) -> Vocabulary:
    """All of its tokens stand for something, but the last one: silence."""
    centroids_QKN = np.random.default_rng(0).normal(3, 5, (codebooks, k - 1, 6))
    return Vocabulary(k, codebooks, centroids_QKN.astype(np.float32))


def make_model(name: str, *, codebooks: int = 1, num_classes: int = NUM_CLASSES) -> nn.Module:
    section: Any = TypeAdapter(Model).validate_python(SECTIONS[name])
    torch.manual_seed(0)
    return build(section, vocabulary_of(codebooks), num_classes, LONGEST)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


with_codebooks = pytest.mark.parametrize("codebooks", [1, 3])


@with_codebooks
@pytest.mark.parametrize("name", SECTIONS)
def test_padding_changes_no_logits(name: str, codebooks: int) -> None:
    model = make_model(name, codebooks=codebooks).eval()
    clips = [torch.randint(K, (length, codebooks)) for length in (7, 1, 40, 12, 39, 2)]
    lengths_B = torch.tensor([len(clip) for clip in clips])
    padded_BTQ = pad_sequence(clips, batch_first=True, padding_value=K)
    wider_BTQ = nn.functional.pad(padded_BTQ, (0, 0, 0, 5), value=K)
    with torch.no_grad():
        alone_BC = torch.cat([model(c[None], torch.tensor([len(c)])) for c in clips])
        torch.testing.assert_close(model(padded_BTQ, lengths_B), alone_BC, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(wider_BTQ, lengths_B), alone_BC, rtol=1e-5, atol=1e-5)
    assert alone_BC.std(dim=0).min() > 1e-4, "clips must differ, or nothing is tested"


@with_codebooks
@pytest.mark.parametrize("name", SECTIONS)
def test_padding_gets_no_gradient(name: str, codebooks: int) -> None:
    model = make_model(name, codebooks=codebooks)
    tokens_BTQ = torch.tensor([[1, 2, K], [3, K, K]])[:, :, None].expand(-1, -1, codebooks)
    model(tokens_BTQ, torch.tensor([2, 1])).square().sum().backward()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.padding_idx == K]
    assert len(tables) == codebooks
    for table in tables:
        assert table.weight.grad is not None
        assert not table.weight.grad[K].any()
        assert table.weight.grad[1:4].any(dim=1).all()


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("codebook", [0, 1, 2])
def test_the_tokens_of_every_codebook_are_heard(name: str, codebook: int) -> None:
    model, lengths_B = make_model(name, codebooks=3).eval(), torch.tensor([9])
    tokens_BTQ = torch.randint(K, (1, 9, 3))
    other_BTQ = tokens_BTQ.clone()
    other_BTQ[0, 4, codebook] = (other_BTQ[0, 4, codebook] + 1) % K
    with torch.no_grad():
        difference_BC = model(tokens_BTQ, lengths_B) - model(other_BTQ, lengths_B)
    assert difference_BC.abs().max() > 1e-6


def test_embeddings_of_several_codebooks_are_summed_and_kept_apart() -> None:
    embedding = TokenEmbedding(Vocabulary(K, 2), 4)
    first, second = (table.weight for table in embedding.tables)
    found_D = embedding(torch.tensor([[[3, 5]]]))[0, 0]
    torch.testing.assert_close(found_D, first[3] + second[5])
    assert not embedding(torch.tensor([[[K, K]]])).any()
    assert num_parameters(embedding) == 2 * (K + 1) * 4


@pytest.mark.parametrize("layers", [1, 2])
def test_the_lstm_is_torchs_over_packed_sequences(layers: int) -> None:
    torch.manual_seed(1)
    ours = BidirectionalLstm(width=6, hidden=5, layers=layers)
    theirs = nn.LSTM(6, 5, num_layers=layers, bidirectional=True, batch_first=True)
    with torch.no_grad():
        for layer in range(layers):
            for suffix, lstm in (("", ours.forwards[layer]), ("_reverse", ours.backwards[layer])):
                for name, value in lstm.named_parameters():
                    theirs.get_parameter(name.replace("l0", f"l{layer}{suffix}")).copy_(value)
    inputs_BTD, lengths_B = torch.randn(4, 9, 6), torch.tensor([3, 9, 1, 6])
    packed = pack_padded_sequence(inputs_BTD, lengths_B, batch_first=True, enforce_sorted=False)
    expected_BTH, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    states_BTH = ours(inputs_BTD, lengths_B)
    for states_TH, expected_TH, length in zip(states_BTH, expected_BTH, lengths_B, strict=True):
        torch.testing.assert_close(states_TH[:length], expected_TH[:length])


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        bert = BertClassifier(
            BertModel(kind="bert", embedding="random"), Vocabulary(1024), 527, LONGEST
        )
        lstm = build(LstmModel(kind="lstm", embedding="random"), Vocabulary(500), 543, LONGEST)
    assert num_parameters(bert.encoder) == pytest.approx(86.6e6, abs=0.1e6)
    assert num_parameters(lstm) == pytest.approx(3.84e6, abs=0.005e6)


def test_berts_own_ids_stay_apart_from_tokens() -> None:
    model = make_model("bert-cls").eval()
    table = model.get_submodule("encoder.embeddings.word_embeddings")
    assert isinstance(table, nn.Embedding)
    seen: list[torch.Tensor] = []
    table.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(torch.tensor([[0, K - 1, 3], [5, K, K]])[:, :, None], torch.tensor([3, 1]))
    assert [ids.tolist() for ids in seen] == [[[0, K - 1, 3], [5, K, K]], K + 1]
    assert table.padding_idx == K
    assert table.num_embeddings == K + 3


@pytest.mark.parametrize("name", SECTIONS)
def test_every_token_id_is_ordinary(name: str) -> None:
    """Ids 0 and k - 1 are tokens as all others: each gives logits of its own."""
    model = make_model(name).eval()
    with torch.no_grad():
        logits_KC = model(torch.arange(K)[:, None, None], torch.ones(K, dtype=torch.int64))
    distances_KK = torch.cdist(logits_KC, logits_KC) + torch.eye(K)
    assert distances_KK.min() > 1e-5


def test_a_clip_too_long_for_bert_is_an_error_with_a_cure() -> None:
    section = BertModel.model_validate({**SMALL_BERT, "max_positions": 40})
    with pytest.raises(ConfigError, match="max_positions=41 or more"):
        build(section, Vocabulary(K), NUM_CLASSES, 40)
    model = build(section, Vocabulary(K), NUM_CLASSES, 39)
    assert model(torch.zeros(1, 39, 1, dtype=torch.int64), torch.tensor([39])).isfinite().all()


@pytest.mark.parametrize(
    ("name", "codebooks"), [*((name, 1) for name in SECTIONS), ("bert-mean", 2), ("lstm-mean", 2)]
)
def test_it_learns_a_few_clips_by_heart(
    name: str, codebooks: int, make_data: Callable[..., Any], make_fit: Callable[..., Any]
) -> None:
    random = np.random.default_rng(0)
    labels = [[int(c) for c in np.flatnonzero(random.random(3) < 0.4)] for _ in range(24)]
    clips = [[*own, *random.integers(3, K, size=random.integers(2, 9)).tolist()] for own in labels]
    # what is to be learnt is said by the last codebook
    clips = [[(*[0] * (codebooks - 1), token) for token in clip] for clip in clips]
    data = make_data(clips, labels, (24, 0, 0), k=K, num_classes=3)
    fit = make_fit(data, epochs=100, batch_size=24, lr=0.02, weight_decay=0.0)
    prepare(fit.config)
    model = make_model(name, codebooks=codebooks, num_classes=3)
    train(fit, model, Stop())
    logits_NC = logits_of(model, data, fit.rows, 24, fit.ranks.device)
    assert evaluate(logits_NC, data.targets(fit.rows), data.task)["map"] > 0.98


def test_embeddings_start_from_what_tokens_stand_for() -> None:
    vocabulary = vocabulary_of(2, k=400)
    embedding = TokenEmbedding(vocabulary, 64, "centroids", std=0.5)
    tokens_BTQ = torch.arange(400)[None, :, None].expand(1, -1, 2)
    found_VD = embedding(tokens_BTQ)[0].detach()
    assert not found_VD[399].any(), "silence stands for no centroid"
    assert not embedding(torch.full((1, 1, 2), 400)).any()
    assert found_VD[:399].std() == pytest.approx(0.5, rel=0.2)
    assert vocabulary.centroids_QKN is not None
    points_VN = torch.from_numpy(vocabulary.centroids_QKN.sum(axis=0))
    apart, wanted = (torch.pdist(rows) for rows in (found_VD[:399], points_VN))
    assert torch.corrcoef(torch.stack([apart, wanted]))[0, 1] > 0.9, "distances are kept, about"
    embedding(tokens_BTQ).square().sum().backward()
    for name, parameter in embedding.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_bag_path_counts_the_tokens_of_each_codebook() -> None:
    path = BagPath(Vocabulary(3, 2), 2).eval()
    assert num_parameters(path) == 2 * 3 * 2
    tokens_BTQ = torch.tensor([[[0, 2], [0, 1], [2, 1], [3, 3], [5, 3]]])  # 3 and more: no tokens
    assert not path(tokens_BTQ).any(), "it begins at zero"
    with torch.no_grad():
        path.head.weight.copy_(torch.randn(2, 6))
    expected_C = path.head.weight @ torch.tensor([2.0, 0, 1, 0, 2, 1]).log1p()
    torch.testing.assert_close(path(tokens_BTQ)[0], expected_C)


@pytest.mark.parametrize(("lengths", "is_masked"), [((9, 9), False), ((9, 8), True)])
def test_attention_takes_a_mask_only_where_something_is_padding(
    lengths: tuple[int, int], is_masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[torch.Tensor | None] = []
    attend = nn.functional.scaled_dot_product_attention

    def seen(*args: Any, **kwargs: Any) -> torch.Tensor:
        masks.append(kwargs.get("attn_mask"))
        return attend(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", seen)
    make_model("bert-mean")(torch.randint(K, (2, 9, 1)), torch.tensor(lengths))
    assert [mask is not None for mask in masks] == [is_masked] * SMALL_BERT["layers"]


@pytest.mark.parametrize("kind", ["linear", "lstm", "bert"])
def test_the_bag_path_adds_to_a_models_logits(kind: str) -> None:
    model = make_model(f"{kind}-bag").eval()
    path = model.get_submodule("bag")
    tokens_BTQ, lengths_B = torch.randint(K, (3, 9, 1)), torch.tensor([9, 9, 9])
    with torch.no_grad():
        before_BC = model(tokens_BTQ, lengths_B)
        path.get_parameter("head.weight").normal_()
        difference_BC = model(tokens_BTQ, lengths_B) - before_BC
    torch.testing.assert_close(difference_BC, path(tokens_BTQ))
    assert difference_BC.abs().min() > 1e-3


def test_attention_pools_a_clips_own_tokens_by_their_scores() -> None:
    pool, values_BTD = AttentionPooling(4), torch.randn(2, 5, 4)
    lengths_B = torch.tensor([3, 5])
    found_BD = pool(values_BTD, real_tokens(lengths_B, values_BTD))
    for found_D, values_TD, length in zip(found_BD, values_BTD, lengths_B, strict=True):
        own_TD = values_TD[:length]
        scores_T = pool.score(torch.tanh(pool.hidden(own_TD)))[:, 0]
        torch.testing.assert_close(found_D, scores_T.softmax(0) @ own_TD)
    assert num_parameters(pool) == 4**2 + 2 * 4
    with torch.no_grad():
        pool.score.weight.zero_()  # all say as much: the mean
    expected_BD = masked_mean(values_BTD, real_tokens(lengths_B, values_BTD))
    torch.testing.assert_close(pool(values_BTD, real_tokens(lengths_B, values_BTD)), expected_BD)


def test_an_lstm_goes_back_without_onednn() -> None:
    """Whose backward pass tears the heap in torch 2.11."""
    states_BTD = BidirectionalLstm(8, 8, 1)(torch.zeros(2, 5, 8), torch.tensor([5, 3]))
    seen, waiting = set(), [states_BTD.grad_fn]
    while waiting:
        if (node := waiting.pop()) is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    assert len(seen) > 10
    assert not [node.name() for node in seen if "Mkldnn" in node.name()]
