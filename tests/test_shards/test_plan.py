"""The plan: the same for any listing, every clip in one shard once, frozen once."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import InputError, IntegrityError, RecipeMismatch
from configs.schema import ShardsConfig
from shards import plan as plans
from shards.layout import Layout
from shards.plan import (
    CLIP_SCHEMA,
    Catalogue,
    ClassName,
    Plan,
    clip_table,
    clips_per_shard,
    in_hash_order,
    shard_bounds,
)

RECIPE = {"source": {"kind": "esc"}, "shards": {"clips_per_shard": 4}}
CLASSES = (ClassName("/m/1", "Dog"), ClassName("/m/2", "Rain"))
IDS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40, unique=True)


def clips_of(ids: list[str], source_set: str = "train", **columns: list[Any]) -> pa.Table:
    return clip_table(
        len(ids),
        {
            "id": ids,
            "path": [f"{clip_id}.wav" for clip_id in ids],
            "labels": [[number % 2] for number in range(len(ids))],
            "set": [source_set] * len(ids),
            **columns,
        },
    )


def freeze(layout: Layout, ids: list[str], shards: ShardsConfig) -> Plan:
    return plans.freeze(layout, Catalogue(clips_of(ids), CLASSES, "multilabel"), RECIPE, shards)


@given(ids=IDS, seed=st.integers(0, 99))
def test_the_order_does_not_depend_on_the_listing(ids: list[str], seed: int) -> None:
    shuffled = random.Random(seed).sample(ids, len(ids))
    ordered = in_hash_order(clips_of(ids))[0].column("id").to_pylist()
    assert in_hash_order(clips_of(shuffled))[0].column("id").to_pylist() == ordered
    assert sorted(ordered) == sorted(ids)


@given(IDS)
def test_the_order_of_a_part_is_the_order_of_the_whole(ids: list[str]) -> None:
    ordered = in_hash_order(clips_of(ids))[0].column("id").to_pylist()
    part = set(ids[::2])
    assert in_hash_order(clips_of(ids[::2]))[0].column("id").to_pylist() == [
        clip_id for clip_id in ordered if clip_id in part
    ]


def test_rows_stay_whole_when_they_move() -> None:
    table, _ = in_hash_order(clips_of(["a", "b", "c", "d"]))
    assert {row["id"]: (row["path"], row["labels"]) for row in table.to_pylist()} == {
        "a": ("a.wav", [0]),
        "b": ("b.wav", [1]),
        "c": ("c.wav", [0]),
        "d": ("d.wav", [1]),
    }


def test_an_id_listed_twice_is_refused_by_name() -> None:
    table = pa.concat_tables([clips_of(["a", "b"], "balanced"), clips_of(["c", "b"], "eval")])
    with pytest.raises(
        InputError, match=r"1 clip ids are listed twice, first 'b' .*balanced, eval"
    ):
        in_hash_order(table)


def test_a_source_without_clips_is_refused() -> None:
    with pytest.raises(InputError, match="no clips"):
        in_hash_order(clips_of([]))


@given(
    num_clips=st.integers(1, 300_000),
    per_shard=st.integers(1, 2000),
    min_shards=st.integers(1, 40),
)
def test_shards_are_full_enough_and_many_enough(
    num_clips: int, per_shard: int, min_shards: int
) -> None:
    config = ShardsConfig(clips_per_shard=per_shard, min_shards=min_shards)
    made = clips_per_shard(num_clips, config)
    num_shards = -(-num_clips // made)
    assert 1 <= made <= per_shard
    assert num_shards >= min(min_shards, num_clips)
    if num_clips >= per_shard * min_shards:
        assert made == per_shard


@pytest.mark.parametrize(("num_clips", "num_shards"), [(65, 13), (61, 13), (3, 3), (1, 1)])
def test_a_shard_is_a_row_group_and_all_clips_are_in_one(
    num_clips: int, num_shards: int, layout: Layout
) -> None:
    ids = [f"clip{number}" for number in range(num_clips)]
    plan = freeze(layout, ids, ShardsConfig(clips_per_shard=5))
    assert (plan.num_clips, plan.num_shards) == (num_clips, num_shards)
    assert pq.ParquetFile(plan.table_path).num_row_groups == num_shards
    shards = [plan.rows(shard) for shard in range(num_shards)]
    assert {len(shard) for shard in shards[:-1]} <= {min(5, max(1, num_clips // 8))}
    assert pa.concat_tables(shards).column("id").to_pylist() == plan.column("id").to_pylist()
    assert sorted(plan.column("id").to_pylist()) == sorted(ids)
    assert shards[0].schema.equals(CLIP_SCHEMA)


def test_a_frozen_plan_is_read_back_and_stays(layout: Layout) -> None:
    ids = [f"clip{number}" for number in range(20)]
    plan = freeze(layout, ids, ShardsConfig())
    assert plan.classes == CLASSES
    assert plan.task == "multilabel"
    assert plans.load(layout) == plan
    assert not list(layout.partial.iterdir())


def test_the_plans_bytes_depend_on_the_clips_only(tmp_path: Path) -> None:
    ids = [f"clip{number}" for number in range(20)]
    made = [freeze(Layout(tmp_path / name), ids, ShardsConfig()) for name in "ab"]
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].table_path.read_bytes() == made[1].table_path.read_bytes()
    other = freeze(Layout(tmp_path / "c"), ids[1:], ShardsConfig())
    assert other.fingerprint != made[0].fingerprint


def test_another_recipe_is_refused_with_the_keys_that_differ(layout: Layout) -> None:
    freeze(layout, ["a", "b"], ShardsConfig())
    plans.check_recipe(layout, RECIPE)
    asked = {**RECIPE, "shards": {"clips_per_shard": 8}}
    with pytest.raises(RecipeMismatch, match=r"shards\.clips_per_shard: 4 there, 8 now"):
        plans.check_recipe(layout, asked)


def test_a_damaged_plan_is_named(layout: Layout) -> None:
    freeze(layout, ["a", "b"], ShardsConfig())
    layout.plan_json.write_bytes(layout.plan_json.read_bytes()[:40])
    with pytest.raises(IntegrityError, match=r"plan\.json is damaged"):
        plans.load(layout)


# --- what has to be read together -----------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=60), per_shard=st.integers(1, 20))
def test_shards_hold_whole_units_unless_one_is_larger(sizes: list[int], per_shard: int) -> None:
    units = np.repeat(np.arange(len(sizes)), sizes)
    bounds = shard_bounds(units, per_shard)
    assert bounds[0] == 0
    assert bounds[-1] == len(units)
    ends = np.cumsum(sizes).tolist()
    for start, stop in pairwise(bounds):
        assert 0 < stop - start <= per_shard
        unit = units[stop - 1]
        assert stop in ends or sizes[unit] > per_shard


def test_units_of_one_clip_fill_every_shard() -> None:
    assert shard_bounds(np.arange(10), 4) == [0, 4, 8, 10]


@given(st.randoms())
def test_rows_of_a_row_group_stand_together_in_their_order(rng: random.Random) -> None:
    ids = [f"clip{number}" for number in range(30)]
    rows = list(enumerate(ids))
    rng.shuffle(rows)
    table = clips_of(
        [clip_id for _, clip_id in rows],
        path=[f"file{number % 2}.parquet" for number, _ in rows],
        row_group=[number // 10 for number, _ in rows],
        row=[number % 10 for number, _ in rows],
    )
    ordered, units = in_hash_order(table)
    places = [(row["path"], row["row_group"], row["row"]) for row in ordered.to_pylist()]
    for unit in set(units.tolist()):
        of_unit = [place for place, own in zip(places, units, strict=True) if own == unit]
        assert len({place[:2] for place in of_unit}) == 1
        assert of_unit == sorted(of_unit)
    assert len(set(units.tolist())) == 6


def test_stretches_of_a_file_stand_together() -> None:
    ids = [f"{name}_{start}" for name in "abc" for start in (0, 1000, 2000)]
    table = clips_of(
        ids,
        path=[clip_id[0] for clip_id in ids],
        start_s=[float(clip_id[2:]) / 1000 for clip_id in ids],
    )
    paths = in_hash_order(table)[0].column("path").to_pylist()
    assert sorted(paths[::3]) == ["a", "b", "c"]
    assert paths == [path for path in paths[::3] for _ in range(3)]
