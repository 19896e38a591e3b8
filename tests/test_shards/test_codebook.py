"""The codebook artefact: it holds all that its use needs, and refuses to be anything else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from configs.errors import DifferentBytes, IntegrityError, NotMadeYet
from configs.schema import CodebookConfig, SplitConfig
from shards.codebook import (
    STAGE,
    TENSORS,
    Codebook,
    codebook_names,
    fingerprint_of,
    fold_of,
    load_codebook,
    open_codebook,
)
from shards.commit import CommitRecord, StageLog, publish_bytes
from shards.layout import Layout


def made(k: int = 5, dim: int = 4, seed: int = 0) -> Codebook:
    random = np.random.default_rng(seed)
    return Codebook(
        centroids_QKD=random.normal(size=(2, k, dim)).astype(np.float32),
        metric="l2",
        front_end={"steps": [{"kind": "standardise"}], "mask_below_db": None},
        frames={"n_mels": dim, "f_max_hz": None},
        sample_rate_hz=22_050,
        frames_fingerprint="f" * 64,
        token_frames_QVM=random.normal(size=(2, k, 3)).astype(np.float32),
        front_end_tensors={"0.mean": random.normal(size=dim), "0.std": np.ones(dim)},
    )


def commit(layout: Layout, codebook: Codebook) -> Path:
    """Commit a codebook; returns its file."""
    data = codebook.to_bytes()
    final = layout.codebook_file("default", TENSORS, hashlib.sha256(data).hexdigest())
    file = publish_bytes(layout.partial, layout.root, final, data)
    record = CommitRecord(STAGE, "default", 0, "f", {}, "", (file,))
    StageLog(layout, STAGE, "default").commit(record)
    return final


@given(k=st.integers(2, 40), dim=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_a_codebook_round_trips(
    k: int, dim: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / TENSORS
    codebook = made(k, dim, seed)
    path.write_bytes(codebook.to_bytes())
    again = load_codebook(path)
    for name, array in codebook.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], array)
        assert again.tensors()[name].dtype == array.dtype
    assert set(again.tensors()) == {
        "centroids",
        "token_frames",
        "front_end.0.mean",
        "front_end.0.std",
    }
    assert again.header() == codebook.header()
    assert again.k == k
    assert fingerprint_of(again) == fingerprint_of(codebook)


def test_the_same_codebook_gives_the_same_bytes() -> None:
    assert made().to_bytes() == made().to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"centroids_QKD": made(seed=1).centroids_QKD},
        {"front_end_tensors": {"0.mean": np.zeros(4), "0.std": np.ones(4)}},
        {"combine": "residual"},
        {"metric": "cosine"},
        {"front_end": {"steps": []}},
        {"frames": {"n_mels": 4, "f_max_hz": 8000.0}},
        {"sample_rate_hz": 44_100},
        {"frames_fingerprint": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_decides_tokens_is_in_the_fingerprint(change: dict[str, object]) -> None:
    assert fingerprint_of(dataclasses.replace(made(), **change)) != fingerprint_of(made())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_centroids_are_finite(value: float) -> None:
    centroids_QKD = made().centroids_QKD.copy()
    centroids_QKD[0, 1, 2] = value
    with pytest.raises(ValueError, match="finite"):
        dataclasses.replace(made(), centroids_QKD=centroids_QKD)


@pytest.mark.parametrize("k", [0, 1, 65_537])
def test_k_fits_uint16_and_is_a_choice(k: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 65536 centroids, not {k}"):
        made(k, dim=1)


def test_k_may_be_all_of_uint16() -> None:
    assert made(65_536, dim=1).k == 65_536


@pytest.mark.parametrize(("mask", "token", "vocabulary"), [(None, None, 5), (-30.0, 5, 6)])
def test_masked_silence_has_a_token_of_its_own(
    mask: float | None, token: int | None, vocabulary: int
) -> None:
    codebook = dataclasses.replace(made(), front_end={"steps": [], "mask_below_db": mask})
    assert (codebook.silence_token, codebook.vocabulary) == (token, vocabulary)
    assert (codebook.k, codebook.num_codebooks) == (5, 2)


def test_a_codebook_of_an_earlier_format_says_what_to_do(tmp_path: Path) -> None:
    header = {"codebook": json.dumps({"k": 2, "metric": "l2", "front_end": "none"})}
    (tmp_path / TENSORS).write_bytes(save({"centroids": np.eye(2, dtype=np.float32)}, header))
    with pytest.raises(NotMadeYet, match="of another format than 3, this version's: make it again"):
        load_codebook(tmp_path / TENSORS)


def test_a_committed_codebook_opens_with_its_fingerprint(layout: Layout) -> None:
    commit(layout, made())
    codebook, fingerprint = open_codebook(layout, "default")
    np.testing.assert_array_equal(codebook.centroids_QKD, made().centroids_QKD)
    assert fingerprint == fingerprint_of(made())


def test_a_codebook_before_its_stage_is_not_made_yet(layout: Layout) -> None:
    with pytest.raises(NotMadeYet, match=r"no codebook fold1; run `python -m pipeline codebook`"):
        open_codebook(layout, "fold1")


def test_a_flipped_byte_anywhere_is_refused(layout: Layout) -> None:
    path = commit(layout, made())
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), 11):
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"codebook-\w+\.safetensors"):
            open_codebook(layout, "default")
        data[position] ^= 1


def test_another_sound_codebook_in_its_place_is_refused(layout: Layout) -> None:
    commit(layout, made()).write_bytes(made(seed=1).to_bytes())
    with pytest.raises(IntegrityError, match=r"codebook-\w+\.safetensors is damaged"):
        open_codebook(layout, "default")


def test_a_second_attempt_with_other_bytes_leaves_the_first_as_it_was(layout: Layout) -> None:
    commit(layout, made())
    with pytest.raises(DifferentBytes):
        commit(layout, made(seed=1))
    np.testing.assert_array_equal(
        open_codebook(layout, "default")[0].centroids_QKD, made().centroids_QKD
    )


def test_what_tokens_sound_like_is_no_part_of_what_they_are() -> None:
    other = dataclasses.replace(made(), token_frames_QVM=made().token_frames_QVM + 1)
    assert fingerprint_of(other) == fingerprint_of(made())


@pytest.mark.parametrize(
    ("name", "fold"),
    [
        ("default", None),
        ("fold3", ("default", 3)),
        ("k5000-fold12", ("k5000", 12)),
        ("foldback", None),
        ("my-fold", None),
    ],
)
def test_the_name_of_a_fold_says_which(name: str, fold: tuple[str, int] | None) -> None:
    assert fold_of(name) == fold


@pytest.mark.parametrize(
    ("name", "folds", "expected"),
    [
        ("default", (), [("default", None)]),
        ("k5000", (), [("k5000", None)]),
        ("default", (1, 3), [("fold1", 1), ("fold3", 3)]),
        ("k5000", (2,), [("k5000-fold2", 2)]),
    ],
)
def test_a_job_has_one_codebook_or_one_a_fold(
    name: str, folds: tuple[int, ...], expected: list[tuple[str, int | None]]
) -> None:
    names = codebook_names(CodebookConfig(name=name), SplitConfig(folds=folds))
    assert names == expected


@pytest.mark.parametrize("combine", ["product", "residual"])
def test_terms_add_up_to_the_vectors_that_tokens_stand_for(combine: str) -> None:
    codebook = dataclasses.replace(made(), combine=combine)
    first_D, second_D = codebook.centroids_QKD[0, 3], codebook.centroids_QKD[1, 1]
    whole_N = codebook.terms_QKN[0, 3] + codebook.terms_QKN[1, 1]
    if combine == "product":
        np.testing.assert_array_equal(whole_N, np.concatenate([first_D, second_D]))
    else:
        np.testing.assert_array_equal(whole_N, first_D + second_D)
