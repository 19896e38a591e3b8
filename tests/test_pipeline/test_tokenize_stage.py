"""The tokenize stage: a clip has the tokens that it has alone, beside its own key and labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from configs.errors import NotMadeYet, RecipeMismatch
from configs.load import merge
from configs.schema import Config
from pipeline.audio.quantise import Quantiser
from pipeline.verbs import run_verb
from shards.codebook import open_codebook
from shards.frames import read_shard_frames
from shards.index import decoded, open_shards, read_shard_index
from shards.layout import Layout
from shards.seal import open_seal
from shards.stream.tokens import open_tokens
from tests.conftest import NUM_CLIPS, MakeConfig, tiny_tree

VARIANTS = [
    {"metric": "l2", "front_end": "none"},
    {"metric": "cosine", "front_end": "seed"},
    {"metric": "cosine", "front_end": "none"},
    {"metric": "l2", "front_end": "logmel"},
    {"front_end": "pcen", "codebooks": 4},
    {"front_end": "pcen", "codebooks": 3, "combine": "residual"},
    {"front_end": ["standardise", {"kind": "convolution", "kernels": 2}], "k": 5},
]


def clips_of(config: Config) -> Iterator[tuple[dict[str, Any], npt.NDArray]]:
    """Index row and frames of every decoded clip, in the order of the shards."""
    layout = Layout(config.run)
    for record in open_shards(layout).records:
        frames_TM = read_shard_frames(layout, record)
        for row in decoded(read_shard_index(layout, record)).to_pylist():
            yield row, frames_TM[row["row_start"] : row["row_start"] + row["num_frames"]]


def assert_each_clip_has_its_own_tokens(config: Config, name: str) -> None:
    source = open_tokens(Layout(config.run), name)
    book, _ = open_codebook(Layout(config.run), name)
    quantiser = Quantiser(book)
    clips = list(clips_of(config))
    stored = source.read(source.all_rows).clips()
    for (_, frames_TM), stored_TQ in zip(clips, stored, strict=True):
        assert stored_TQ.dtype == np.uint16
        assert stored_TQ.shape == (len(frames_TM), book.num_codebooks)
        np.testing.assert_array_equal(stored_TQ, quantiser.tokens(frames_TM))


def test_the_stage_gives_a_clip_the_tokens_it_has_alone(tokenized: Config) -> None:
    assert_each_clip_has_its_own_tokens(tokenized, "default")


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_under_every_metric_and_front_end(sharded_once: Config, variant: dict[str, Any]) -> None:
    name = f"variant{VARIANTS.index(variant)}"
    tree = sharded_once.model_dump(mode="json")
    del tree["codebook"]["front_end"]
    tree = merge(tree, {"model": ["bag"], "codebook": {"name": name, **variant}})
    config = Config.model_validate(tree)
    assert run_verb(config, "codebook") == 0
    assert run_verb(config, "tokenize") == 0
    assert_each_clip_has_its_own_tokens(config, name)


@pytest.fixture(scope="module")
def sharded_once(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    run = tmp_path_factory.mktemp("variants") / "run"
    config = Config.model_validate(tiny_tree(made_clips, run))
    assert run_verb(config, "shard") == 0
    return config


def test_keys_labels_and_lengths_are_those_of_the_index(tokenized: Config) -> None:
    source = open_tokens(Layout(tokenized.run), "default")
    rows = [row for row, _ in clips_of(tokenized)]
    flat, starts = source.labels(source.all_rows)
    assert source.num_rows == NUM_CLIPS == len(rows)
    assert source.keys(source.all_rows) == [row["key"] for row in rows]
    assert source.lengths(source.all_rows).tolist() == [row["num_frames"] for row in rows]
    assert [part.tolist() for part in np.split(flat, starts[1:-1])] == [r["labels"] for r in rows]


def test_tokens_are_below_k(tokenized: Config) -> None:
    source = open_tokens(Layout(tokenized.run), "default")
    tokens = source.read(source.all_rows).flat()
    assert set(np.unique(tokens).tolist()) <= set(range(17))  # 16 is silence
    assert len(np.unique(tokens)) > 4


def test_a_block_holds_its_most_clips_and_the_next_the_rest(
    made_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tokenize_stage.BLOCK_CLIPS", 7)
    tree = merge(tiny_tree(made_clips, tmp_path / "run"), {"shards": {"clips_per_shard": 20}})
    config = Config.model_validate(merge(tree, {"shards": {"min_shards": 1}}))
    assert run_verb(config, "all") == 0
    assert_each_clip_has_its_own_tokens(config, "default")
    seal = open_seal(Layout(config.run), "tokenize", "default")
    blocks = [sorted({array["block"] for array in r.detail["arrays"]}) for r in seal.records]
    assert blocks == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_before_codebook_it_says_what_to_run(make_config: MakeConfig) -> None:
    config = make_config()
    assert run_verb(config, "shard") == 0
    with pytest.raises(NotMadeYet, match="python -m pipeline codebook"):
        run_verb(config, "tokenize")


def test_a_codebook_of_another_store_is_refused_by_its_fingerprint(
    make_config: MakeConfig, tokenized: Config
) -> None:
    """As where somebody copies one: its centroids would be those of other frames."""
    config = make_config(frames={"hop_length": 256})
    assert run_verb(config, "shard") == 0
    for made in ("codebooks", "commits/codebook"):
        shutil.copytree(tokenized.run / made, config.run / made)
    with pytest.raises(RecipeMismatch, match=r"trained on: frames \w{12} there, \w{12} now"):
        run_verb(config, "tokenize")
    assert not (config.run / "tokens").exists()


def test_a_second_run_changes_no_token_file(
    own_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((own_run.run / "tokens").rglob("*.*")) + sorted(
        (own_run.run / "seals").iterdir()
    )
    before = [file.read_bytes() for file in files]
    assert run_verb(own_run, "tokenize") == 0
    assert "all 8 shards are committed, nothing to do" in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == before
    tars = [file for file in files if file.suffix == ".tar"]
    assert len(tars) == 8
