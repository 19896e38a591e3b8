"""The draw for K-means: a few frames of every training clip, and of no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import InputError
from configs.schema import CodebookConfig, Config, SplitConfig
from pipeline.audio.front_end import minmax
from pipeline.draw import Draw, choose, draw_frames, training_clips
from pipeline.verbs import run_verb
from shards.frames import read_shard_frames
from shards.index import decoded, open_shards, read_shard_index
from shards.layout import Layout
from shards.seal import Seal
from shards.splits import TRAIN, SplitInputs, split_codes, unit_hash
from tests.conftest import MakeConfig

SPLIT = SplitConfig()


def config_of(**over: Any) -> CodebookConfig:
    return CodebookConfig.model_validate({"k": 16, "frames_per_centroid": 32, **over})


@pytest.fixture(scope="module")
def seal(tokenized: Config) -> Seal:
    return open_shards(Layout(tokenized.run))


@pytest.fixture(scope="module")
def clips(seal: Seal) -> dict[str, dict[str, Any]]:
    """Index row of every clip, with its frames."""
    found = {}
    for record in seal.records:
        stored_TM = read_shard_frames(seal.layout, record)
        for row in decoded(read_shard_index(seal.layout, record)).to_pylist():
            end = row["row_start"] + row["num_frames"]
            found[row["id"]] = {**row, "frames": stored_TM[row["row_start"] : end]}
    return found


def owners(vectors_ND: npt.NDArray, clips: dict[str, dict[str, Any]]) -> list[str]:
    """The clip that each vector was drawn from (no two clips here share a frame)."""
    owner_of = {
        frame_M.tobytes(): clip_id
        for clip_id, row in clips.items()
        for frame_M in row["frames"].astype(np.float32)
    }
    return [owner_of[vector_D.tobytes()] for vector_D in vectors_ND]


def trains(clips: dict[str, dict[str, Any]]) -> set[str]:
    ids = sorted(clips)
    declared = [clips[i]["split"] for i in ids]
    count = len(ids)
    inputs = SplitInputs(ids, declared, [0] * count, [None] * count, [[0]] * count)
    codes = split_codes(inputs, SPLIT)
    return {clip_id for clip_id, code in zip(ids, codes, strict=True) if code == TRAIN}


def test_training_clips_follow_the_split(seal: Seal, clips: dict[str, dict[str, Any]]) -> None:
    ids = training_clips(seal, SPLIT, None)
    assert ids == trains(clips)
    assert 30 < len(ids) < 51


def test_every_training_clip_gives_a_few_frames_and_no_other_clip_any(
    seal: Seal, clips: dict[str, dict[str, Any]]
) -> None:
    draw = draw_frames(seal, config_of(), SPLIT, None)
    train, holdout = owners(draw.train_ND, clips), owners(draw.holdout_ND, clips)
    assert set(train) | set(holdout) == trains(clips)
    per_clip = -(-16 * 32 // len(trains(clips)))
    assert {train.count(clip_id) for clip_id in set(train)} == {per_clip}
    assert draw.train_ND.dtype == np.float32


def test_held_out_vectors_are_of_clips_that_do_not_train(
    seal: Seal, clips: dict[str, dict[str, Any]]
) -> None:
    draw = draw_frames(seal, config_of(holdout_share=0.3), SPLIT, None)
    train, holdout = set(owners(draw.train_ND, clips)), set(owners(draw.holdout_ND, clips))
    assert holdout == {clip_id for clip_id in trains(clips) if unit_hash(clip_id, "holdout") < 0.3}
    assert not train & holdout
    assert holdout


def test_without_a_share_held_out_there_is_nothing_to_measure_on(seal: Seal) -> None:
    draw = draw_frames(seal, config_of(holdout_share=0), SPLIT, None)
    assert draw.holdout_ND.shape == (0, draw.train_ND.shape[1])


def test_asking_for_more_than_there_is_gives_every_frame_once(
    seal: Seal, clips: dict[str, dict[str, Any]]
) -> None:
    draw = draw_frames(seal, config_of(frames_per_centroid=10_000), SPLIT, None)
    ids = trains(clips)
    assert len(draw.train_ND) + len(draw.holdout_ND) == sum(clips[i]["num_frames"] for i in ids)


def as_set(draw: Draw) -> set[bytes]:
    return {vector_D.tobytes() for vector_D in np.concatenate([draw.train_ND, draw.holdout_ND])}


def test_the_order_of_the_shards_does_not_choose(seal: Seal) -> None:
    turned = dataclasses.replace(seal, commits=seal.commits[::-1])
    draw, other = (draw_frames(each, config_of(), SPLIT, None) for each in (seal, turned))
    assert as_set(draw) == as_set(other)


def test_the_size_of_the_shards_does_not_choose(seal: Seal, make_config: MakeConfig) -> None:
    config = make_config(shards={"clips_per_shard": 5, "min_shards": 1})
    assert run_verb(config, "shard") == 0
    other = open_shards(Layout(config.run))
    assert len(other.records) == 13
    draws = [draw_frames(each, config_of(), SPLIT, None) for each in (seal, other)]
    assert draws[0].train_ND.tobytes() == draws[1].train_ND.tobytes()
    assert draws[0].holdout_ND.tobytes() == draws[1].holdout_ND.tobytes()


def test_the_seed_chooses(seal: Seal) -> None:
    draws = [draw_frames(seal, config_of(seed=seed), SPLIT, None).train_ND for seed in (0, 0, 1)]
    assert draws[0].tobytes() == draws[1].tobytes()
    assert draws[0].tobytes() != draws[2].tobytes()


def test_a_front_end_sees_the_whole_clip(seal: Seal, clips: dict[str, dict[str, Any]]) -> None:
    draw = draw_frames(seal, config_of(front_end="minmax"), SPLIT, None)
    possible = {vector_D.tobytes() for row in clips.values() for vector_D in minmax(row["frames"])}
    assert as_set(draw) <= possible


def test_too_few_frames_is_an_input_error_with_numbers(seal: Seal) -> None:
    with pytest.raises(InputError, match=r"codebook\.k=5000 .* gave \d+"):
        draw_frames(seal, config_of(k=5_000), SPLIT, None)


@given(
    clip_id=st.text(max_size=12),
    num_frames=st.integers(0, 200),
    most=st.integers(0, 200),
    seed=st.integers(-5, 2**40),
)
def test_chosen_frames_rise_without_repeats(
    clip_id: str, num_frames: int, most: int, seed: int
) -> None:
    frames = choose(clip_id, num_frames, most, seed).tolist()
    assert frames == sorted(set(frames))
    assert len(frames) == min(num_frames, most)
    assert set(frames) <= set(range(num_frames))


def test_every_frame_of_a_clip_may_be_chosen() -> None:
    chosen = np.concatenate([choose(f"clip{number}", 20, 3, 0) for number in range(400)])
    counts = np.bincount(chosen, minlength=20)
    assert counts.min() > 30
    assert counts.max() < 90


def test_draws_of_a_run_over_folds_leave_the_fold_out(esc10: Path, tmp_path: Path) -> None:
    """Real audio: fold f of ESC-10 begins with the digit f in its file names."""
    tree = {
        "run": str(tmp_path / "run"),
        "source": {"kind": "esc", "root": str(_some_of(esc10, tmp_path / "esc"))},
        "split": {"folds": [1, 2, 3, 4, 5], "valid_share": 0},
        "cluster": {"kind": "inline"},
    }
    config = Config.model_validate(tree)
    assert run_verb(config, "shard") == 0
    seal = open_shards(Layout(config.run))
    for fold in (1, 4):
        ids = training_clips(seal, config.split, fold)
        assert {clip_id[0] for clip_id in ids} == set("12345") - {str(fold)}
        assert len(ids) == 8


def _some_of(esc10: Path, directory: Path) -> Path:
    """Two clips of each fold, by links."""
    directory.mkdir()
    head, *rows = (esc10 / "esc10.csv").read_text(encoding="utf-8").splitlines()
    chosen = [row for fold in "12345" for row in [r for r in rows if f"/{fold}-" in r][:2]]
    for row in chosen:
        name = row.rsplit(",", 3)[0]
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).symlink_to(esc10 / name)
    (directory / "esc10.csv").write_text("\n".join([head, *chosen]) + "\n", encoding="utf-8")
    return directory
