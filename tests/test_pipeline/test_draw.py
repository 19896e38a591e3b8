"""The draw for K-means: a few frames of every training clip, and of no other."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.codebook import CodebookConfig
from configs.errors import InputError, IntegrityError
from configs.schema import Config, SplitConfig
from pipeline import draw as module
from pipeline.draw import (
    FRONT_END,
    Clips,
    DrawTask,
    choose,
    draw_shard,
    fit_front_end,
    fitted,
    training_clips,
)
from pipeline.drawn import DrawnRows, gather
from pipeline.verbs import run_verb
from pipeline.workplace import Workplace
from shards.frames import read_shard_frames
from shards.index import decoded, open_shards, read_shard_index
from shards.layout import Layout
from shards.seal import Seal
from shards.splits import TRAIN, SplitInputs, split_codes, unit_hash
from tests.conftest import MakeConfig

SPLIT = SplitConfig()
SILENT_M = np.full(64, -100, dtype=np.float16)


def config_of(**over: Any) -> CodebookConfig:
    small = {"k": 16, "frames_per_centroid": 32, "front_end": "none"}
    return CodebookConfig.model_validate({**small, **over})


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


def place_in(directory: Path) -> Workplace:
    return Workplace(directory, "default", "of these tests")


def drawn(seal: Seal, directory: Path, config: CodebookConfig) -> tuple[DrawnRows, DrawnRows]:
    """What is drawn to train on, and what is held out."""
    place = place_in(directory)
    of_shards = training_clips(seal, config, SPLIT, None)
    front_end = fit_front_end(seal, of_shards, config)
    place.write(FRONT_END, front_end.tensors())
    num_clips = sum(len(of_shard.train) for of_shard in of_shards)
    frames_a_clip = config.k * config.frames_per_centroid / num_clips
    for shard, (record, of_shard) in enumerate(zip(seal.records, of_shards, strict=True)):
        there = dataclasses.replace(record, shard=shard)  # reads by path: tests turn the order
        task = DrawTask(place, there, of_shard, config, frames_a_clip, SILENT_M)
        draw_shard(_reading(task, seal))
    gathered = gather(place, len(seal.records))
    return gathered.train, gathered.holdout


def _reading(task: DrawTask, seal: Seal) -> DrawTask:
    """The task, with files below the run of `seal` found from where the draw is kept."""
    for name in ("frames.zarr", "index"):
        link = task.place.root / name
        if not link.exists():
            link.symlink_to(seal.layout.root.absolute() / name)
    return task


def all_of(rows: DrawnRows) -> tuple[npt.NDArray, npt.NDArray]:
    """Vectors, as many times as they count, and what each row counts."""
    vectors_ND, weights_N = rows.read(slice(0, len(rows)))
    return np.repeat(vectors_ND, weights_N.astype(int), axis=0), weights_N


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


def held_out(clips: dict[str, dict[str, Any]], share: float) -> set[str]:
    return {clip_id for clip_id in trains(clips) if unit_hash(clip_id, "holdout") < share}


# --- which clips, which frames -----------------------------------------------------------------


def test_training_clips_follow_the_split(seal: Seal, clips: dict[str, dict[str, Any]]) -> None:
    of_shards = training_clips(seal, config_of(holdout_share=0.3), SPLIT, None)
    ids = [set(read_shard_index(seal.layout, r)["id"].to_pylist()) for r in seal.records]
    assert all(c.train | c.holdout <= of_shard for c, of_shard in zip(of_shards, ids, strict=True))
    held = held_out(clips, 0.3)
    assert set().union(*(of_shard.holdout for of_shard in of_shards)) == held
    assert set().union(*(of_shard.train for of_shard in of_shards)) == trains(clips) - held
    assert held


def test_every_training_clip_gives_a_few_frames_and_no_other_clip_any(
    seal: Seal, clips: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    train, holdout = drawn(seal, tmp_path, config_of(holdout_share=0.1))
    held = held_out(clips, 0.1)
    found = owners(all_of(train)[0], clips)
    assert set(found) == trains(clips) - held
    assert set(owners(all_of(holdout)[0], clips)) == held
    per_clip = 16 * 32 / len(trains(clips) - held)
    counts = {found.count(clip_id) for clip_id in set(found)}
    assert counts == {math.floor(per_clip), math.ceil(per_clip)}


def test_without_a_share_held_out_there_is_nothing_to_measure_on(
    seal: Seal, tmp_path: Path
) -> None:
    train, holdout = drawn(seal, tmp_path, config_of(holdout_share=0))
    assert len(train) > len(holdout) == 0
    vectors_ND, weights_N = holdout.read(slice(0, 10))
    assert (vectors_ND.shape, weights_N.shape) == ((0, 64), (0,))


def test_asking_for_more_than_there_is_gives_every_frame_once(
    seal: Seal, clips: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    parts = drawn(seal, tmp_path, config_of(frames_per_centroid=10_000))
    found = np.concatenate([all_of(part)[0] for part in parts])
    assert len(found) == sum(clips[clip_id]["num_frames"] for clip_id in trains(clips))


def test_a_layer_has_frames_of_every_clip_and_rows_are_read_alike_in_any_parts(
    seal: Seal, clips: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = config_of(frames_per_centroid=64, holdout_share=0)  # four layers
    train, _ = drawn(seal, tmp_path, config)
    vectors_ND, weights_N = train.read(slice(0, len(train)))
    frames_NM = train.frames(slice(0, len(train)))
    assert (vectors_ND == frames_NM).all(), "front end none: vectors are the frames"
    for layer in range(4):
        part = slice(len(train) * layer // 4, len(train) * (layer + 1) // 4)
        assert len(set(owners(vectors_ND[part], clips))) > 0.9 * len(trains(clips))
    for step in (1, 7, 100):
        parts = [train.read(slice(at, at + step)) for at in range(0, len(train), step)]
        assert np.concatenate([part[0] for part in parts]).tobytes() == vectors_ND.tobytes()
        assert np.concatenate([part[1] for part in parts]).tobytes() == weights_N.tobytes()


def as_set(*parts: DrawnRows) -> set[bytes]:
    return {vector_D.tobytes() for part in parts for vector_D in all_of(part)[0]}


def test_the_size_and_order_of_the_shards_do_not_choose(
    seal: Seal, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(shards={"clips_per_shard": 5, "min_shards": 1})
    assert run_verb(config, "shard") == 0
    other = open_shards(Layout(config.run))
    assert len(other.records) == 13
    turned = dataclasses.replace(seal, commits=seal.commits[::-1])
    found = []
    for number, each in enumerate((seal, other, turned)):
        (tmp_path / str(number)).mkdir()
        found.append(as_set(*drawn(each, tmp_path / str(number), config_of())))
    assert found[0] == found[1] == found[2]


def test_the_seed_chooses(seal: Seal, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        (tmp_path / str(number)).mkdir()
        found.append(as_set(*drawn(seal, tmp_path / str(number), config_of(seed=seed))))
    assert found[0] == found[1] != found[2]


def test_a_front_end_sees_the_whole_clip(
    seal: Seal, clips: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = config_of(front_end="pcen")
    parts = drawn(seal, tmp_path, config)
    front_end = fit_front_end(seal, training_clips(seal, config, SPLIT, None), config)
    possible = {
        vector_D.tobytes()
        for row in clips.values()
        for vector_D in front_end.vectors(row["frames"])[~front_end.silent(row["frames"])]
    }
    assert as_set(*parts) <= possible


@given(
    clip_id=st.text(max_size=12),
    allowed=st.lists(st.booleans(), max_size=200),
    most=st.integers(0, 200),
    seed=st.integers(-5, 2**40),
)
def test_chosen_frames_are_allowed_and_none_is_chosen_twice(
    clip_id: str, allowed: list[bool], most: int, seed: int
) -> None:
    found, layer_C = choose(clip_id, np.array(allowed, dtype=bool), most, 5, seed)
    chosen = found.tolist()
    assert len(chosen) == len(set(chosen)) == len(layer_C) == min(sum(allowed), most)
    assert all(allowed[frame] for frame in chosen)
    assert all(0 <= layer < 5 for layer in layer_C)
    if chosen:
        fewest, most_of_a_layer = len(chosen) // 5, -(-len(chosen) // 5)
        assert set(np.bincount(layer_C, minlength=5)) <= {fewest, most_of_a_layer}


def test_every_frame_of_a_clip_may_be_chosen() -> None:
    every = np.ones(20, dtype=bool)
    chosen = np.concatenate([choose(f"clip{n}", every, 3, 1, 0)[0] for n in range(400)])
    counts = np.bincount(chosen, minlength=20)
    assert counts.min() > 30
    assert counts.max() < 90


@pytest.mark.parametrize("wanted", [0.1, 1.0, 1.5, 2.0, 40.0])
def test_however_few_are_wanted_their_number_is_kept_and_every_layer_has_its_share(
    wanted: float,
) -> None:
    """Of AudioSet's clips one frame in ten is enough for k=500; the first layers must not be some
    clips, and the last ones empty."""
    every = np.ones(50, dtype=bool)
    layers = np.concatenate([choose(f"clip{n}", every, wanted, 16, 0)[1] for n in range(2_000)])
    assert len(layers) == pytest.approx(2_000 * wanted, rel=0.2)
    share_L = np.bincount(layers, minlength=16) / len(layers)
    assert share_L == pytest.approx(np.full(16, 1 / 16), abs=0.04)


# --- silence, damage ---------------------------------------------------------------------------


@pytest.fixture
def half_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DrawnRows:
    """4 frames of sound, 12 of digital silence, drawn from one made-up shard."""
    sound_TM = np.arange(4 * 64).reshape(4, 64).astype(np.float16)
    frames_TM = np.concatenate([sound_TM, np.tile(SILENT_M, (12, 1))])
    monkeypatch.setattr(module, "_frames", lambda *_: iter([("a", frames_TM)]))
    place = Workplace(tmp_path, "default", "of these tests")
    record = type("Record", (), {"shard": 0})()
    ids = Clips(frozenset("a"), frozenset())
    place.write(FRONT_END, {})
    draw_shard(DrawTask(place, record, ids, config_of(), 16, SILENT_M))
    return gather(place, 1).train


def test_equal_frames_of_a_layer_are_one_that_counts_for_all(half_silent: DrawnRows) -> None:
    vectors_ND, weights_N = half_silent.read(slice(0, 16))
    assert len(half_silent) < 16 == weights_N.sum()
    assert half_silent.total_weights() == (16, 12)
    is_silent_N = (vectors_ND == -100).all(axis=1)
    assert weights_N[~is_silent_N].tolist() == [1] * 4


@pytest.mark.parametrize("most", [0.0, 0.2, 0.5])
def test_the_share_of_digital_silence_is_capped(half_silent: DrawnRows, most: float) -> None:
    vectors_ND, weights_N = half_silent.capped(most).read(slice(0, 16))
    is_silent_N = (vectors_ND == -100).all(axis=1)
    assert weights_N[is_silent_N].sum() / weights_N.sum() == pytest.approx(most)
    assert weights_N[~is_silent_N].tolist() == [1] * 4


def test_where_there_is_only_silence_it_is_what_there_is_to_learn(half_silent: DrawnRows) -> None:
    is_silence = dataclasses.replace(
        half_silent, columns={**half_silent.columns, "is_digital_silence": _Ones()}
    )
    _, weights_N = is_silence.capped(0.05).read(slice(0, 16))
    assert weights_N.sum() == 16


class _Ones:
    def read(self, start: int, stop: int) -> npt.NDArray:
        return np.ones(stop - start, dtype=bool)


@pytest.mark.parametrize("most", [0.75, 0.9, 1.0])
def test_less_silence_than_the_cap_is_left_as_it_is(half_silent: DrawnRows, most: float) -> None:
    assert half_silent.capped(most) is half_silent


def test_frames_that_are_no_numbers_are_an_input_error_with_the_clip(
    seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(*args: Any) -> npt.NDArray:
        frames_TM = read_shard_frames(*args).copy()
        frames_TM[:, 3] = np.nan
        return frames_TM

    monkeypatch.setattr(module, "read_shard_frames", spoiled)
    of_shards = training_clips(seal, config_of(), SPLIT, None)
    with pytest.raises(InputError, match=r"clip \S+ of shard 000000: its frames hold NaN"):
        fit_front_end(seal, of_shards, config_of())


def test_clips_that_are_all_masked_are_an_input_error(seal: Seal) -> None:
    config = config_of(front_end={"steps": ["standardise"], "mask_below_db": 100.0})
    of_shards = training_clips(seal, config, SPLIT, None)
    with pytest.raises(InputError, match=r"mask_below_db=100\.0: lower it"):
        fit_front_end(seal, of_shards, config)


# --- the workplace -----------------------------------------------------------------------------


def test_what_was_drawn_under_the_recipe_is_not_drawn_again(seal: Seal, tmp_path: Path) -> None:
    place = place_in(tmp_path)
    drawn(seal, tmp_path, config_of())
    before = [place.drawn(shard).stat().st_mtime_ns for shard in range(8)]
    drawn(seal, tmp_path, config_of())
    assert [place.drawn(shard).stat().st_mtime_ns for shard in range(8)] == before
    other = dataclasses.replace(place, fingerprint="another")
    assert place.has_drawn(3)
    assert not other.has_drawn(3)
    assert not place.has_drawn(99)
    data = bytearray(place.drawn(3).read_bytes())
    data[-5] ^= 1
    place.drawn(3).write_bytes(data)
    assert not place.has_drawn(3), "a flipped bit"


def test_another_file_of_the_workplace_does_not_pass_for_this_one(
    seal: Seal, tmp_path: Path
) -> None:
    place = place_in(tmp_path)
    drawn(seal, tmp_path, config_of())
    shutil.copy(place.drawn(1), place.drawn(0))
    assert not place.has_drawn(0)
    shutil.copy(place.path(FRONT_END), place.path("step"))
    assert place.read("step") is None


def test_a_changed_shape_of_nothing_is_damage(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.write_drawn(0, {"holdout.vectors": np.empty((0, 64), np.float32)})
    assert place.has_drawn(0)
    data = place.drawn(0).read_bytes()
    assert b"[0,64]" in data
    place.drawn(0).write_bytes(data.replace(b"[0,64]", b"[0,74]"))
    assert not place.has_drawn(0)


@pytest.mark.parametrize("gain", [1e30, 1e38])
def test_a_front_end_that_makes_huge_numbers_is_refused_with_a_clip(
    seal: Seal, tmp_path: Path, gain: float
) -> None:
    steps = [{"kind": "pcen", "alpha": 0, "root": 1, "gain": gain}]
    makes_nan = pytest.raises(InputError, match=r"clip \w+: codebook.front_end makes NaN of it")
    with np.errstate(all="ignore"), makes_nan:
        drawn(seal, tmp_path, config_of(front_end=steps))


def test_a_damaged_front_end_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.write(FRONT_END, {"0.mean": np.zeros(3)})
    place.path(FRONT_END).write_bytes(place.path(FRONT_END).read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="run the same command again"):
        fitted(place, config_of())


def test_where_every_clip_is_held_out_the_share_is_named(seal: Seal) -> None:
    with pytest.raises(InputError, match="holdout_share=0.999 leaves no clip to train on"):
        training_clips(seal, config_of(holdout_share=0.999), SPLIT, None)


def test_clips_of_a_group_are_held_out_together(
    seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of a file on both sides would flatter the error that ends the training."""
    ids = [
        clip_id
        for of_shard in training_clips(seal, config_of(), SPLIT, None)
        for clip_id in (of_shard.train | of_shard.holdout)
    ]
    groups = {clip_id: clip_id[-1] for clip_id in ids}

    def grouped(table: Any) -> SplitInputs:
        inputs = of_index(table)
        return dataclasses.replace(inputs, groups=[groups.get(i, i) for i in inputs.ids])

    of_index = SplitInputs.of_index
    monkeypatch.setattr(SplitInputs, "of_index", grouped)
    cut = training_clips(seal, config_of(holdout_share=0.3), SplitConfig(rule="hash"), None)
    train = {groups[clip_id] for of_shard in cut for clip_id in of_shard.train if clip_id in groups}
    held = {
        groups[clip_id] for of_shard in cut for clip_id in of_shard.holdout if clip_id in groups
    }
    assert held
    assert not train & held


def test_what_is_gathered_leaves_no_file(seal: Seal, tmp_path: Path) -> None:
    drawn(seal, tmp_path, config_of())
    names = {path.name for path in place_in(tmp_path).directory.iterdir()}
    assert names == {FRONT_END, *(f"draw-{shard:06d}" for shard in range(8))}


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
        of_shards = training_clips(seal, config_of(), config.split, fold)
        ids = set().union(*(of_shard.train | of_shard.holdout for of_shard in of_shards))
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
