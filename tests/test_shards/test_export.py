"""Exports read back by webdataset, pyarrow and datasets, and whole after any kill."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from configs.errors import InputError, IntegrityError, RecipeMismatch
from configs.schema import Config
from shards import plan as plans
from shards.atomic import sha256_file
from shards.export import export, open_token_set
from shards.export_formats import METADATA_KEY, labelled_first
from shards.layout import Layout
from tests.commands import ROOT, run
from tests.export_sets import CLASSES, exported_set
from tests.token_sets import Clip, clips_of

# webdataset leaves its last tar to the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FORMATS = ("webdataset", "parquet")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def tree_hash(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(directory.rglob("*"))}


def samples(out: Path) -> list[dict[str, Any]]:
    urls = sorted(str(path) for path in out.glob("*.tar"))
    return list(webdataset.WebDataset(urls, shardshuffle=False).decode())


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_webdataset_reads_every_example(num_codebooks: int, tmp_path: Path) -> None:
    shards = [clips_of(seed, 6, num_codebooks, shortest=1) for seed in range(3)]
    done = export(
        exported_set(tmp_path / "run", shards, num_codebooks), tmp_path / "out", FORMATS[0]
    )
    assert (done.num_made, done.num_files, done.num_clips) == (3, 3, 18)
    clips = [clip for shard in shards for clip in shard]
    for sample, clip in zip(samples(tmp_path / "out"), clips, strict=True):
        assert sample["__key__"] == clip.key
        assert sample["npy"].dtype == np.uint16
        np.testing.assert_array_equal(sample["npy"], clip.tokens_TQ)
        assert sample["json"] == {
            "id": f"{clip.key}.wav",
            "key": clip.key,
            "split": "test",
            "fold": 3,
            "num_tokens": len(clip.tokens_TQ),
            "labels": [CLASSES[label].id for label in clip.labels],
            "label_ids": list(clip.labels),
        }


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_pyarrow_reads_every_row(num_codebooks: int, tmp_path: Path) -> None:
    shards = [clips_of(seed, 6, num_codebooks, shortest=1) for seed in range(3)]
    tokens = exported_set(tmp_path / "run", shards, num_codebooks)
    export(tokens, tmp_path / "out", "parquet")
    for shard, clips in enumerate(shards):
        table = pq.read_table(tmp_path / f"out/tokens-{shard:06d}.parquet")
        assert json.loads(table.schema.metadata[METADATA_KEY]) == tokens.card.to_json()
        assert str(table.schema.field("tokens").type.value_type) == "uint16"
        for row, clip in zip(table.to_pylist(), clips, strict=True):
            flat = np.array(row["tokens"]).reshape(-1, num_codebooks)
            np.testing.assert_array_equal(flat, clip.tokens_TQ)
            assert row["num_tokens"] == len(clip.tokens_TQ)
            assert row["labels"] == [CLASSES[label].id for label in clip.labels]
            assert row["label_ids"] == list(clip.labels)
            assert (row["id"], row["key"], row["fold"]) == (f"{clip.key}.wav", clip.key, 3)


def test_clips_with_numbers_in_place_of_labels(tmp_path: Path) -> None:
    tokens = exported_set(tmp_path / "run", [clips_of(1, 2, 1, shortest=1)], 1, task="regression")
    export(tokens, tmp_path / "out", "webdataset")
    for sample in samples(tmp_path / "out"):
        assert sample["json"]["targets"] == [0.5]
        assert "labels" not in sample["json"]


def test_the_manifest_says_what_the_files_are(tmp_path: Path) -> None:
    tokens = exported_set(
        tmp_path / "run", [clips_of(1, 3, 2, shortest=1), [], clips_of(2, 4, 2, shortest=1)], 2
    )
    export(tokens, tmp_path / "out", "parquet")
    tree = json.loads((tmp_path / "out/manifest.json").read_text())
    files = tree.pop("files")
    assert tree == {"version": 1, "format": "parquet", **tokens.card.to_json()}
    assert tree["classes"][0] == {"id": "/m/one", "name": "one, and more"}
    assert [(file["path"], file["clips"]) for file in files] == [
        ("tokens-000000.parquet", 3),
        ("tokens-000002.parquet", 4),
    ]
    for file in files:
        path = tmp_path / "out" / file["path"]
        assert (file["bytes"], file["sha256"]) == (path.stat().st_size, sha256_file(path))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("manifest.json", "tokens-000000.parquet", "tokens-000002.parquet")
    }


# --- datasets ------------------------------------------------------------------------------------

LOAD = """
import json, sys
import datasets
datasets.disable_progress_bars()
found = datasets.load_dataset(sys.argv[1], data_files=sys.argv[2], split="train")
print(json.dumps([str(found.features), *found.to_list()]))
"""
DATASETS = "datasets==5.2.0"


@pytest.fixture(scope="module")
def beside(registry: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """datasets in a place of its own: it brings pandas, which Arrow imports wherever it finds it,
    and every command of these tests would take a second longer."""
    place = tmp_path_factory.mktemp("datasets")
    words = ["-m", "uv", "pip", "install", "--quiet", "--target", str(place)]
    subprocess.run([sys.executable, *words, DATASETS, "numpy<2.5"], check=True, timeout=300)
    return place


def loaded(format_name: str, out: Path, beside: Path) -> tuple[str, list[dict[str, Any]]]:
    """Features and rows, as Hugging Face's datasets sees them."""
    words = [sys.executable, "-c", LOAD, format_name, f"{out}/tokens-*"]
    paths = {"HF_HOME": str(out.parent / "cache"), "PYTHONPATH": str(beside)}
    done = subprocess.run(
        words,
        env=os.environ | paths | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    features, *rows = json.loads(done.stdout.splitlines()[-1])
    return features, rows


@pytest.mark.slow
def test_datasets_reads_an_export_that_begins_with_clips_without_labels(
    beside: Path, tmp_path: Path
) -> None:
    """It takes the types from the first five examples of the first tar."""
    bare = [Clip(f"bare{n}", np.array([[n]], dtype=np.uint16), []) for n in range(6)]
    shards = [
        [*bare[:3], *clips_of(1, 3, 1, shortest=1)],
        [*bare[3:], *clips_of(2, 2, 1, shortest=1)],
    ]
    tokens = exported_set(tmp_path / "run", shards, 1)
    for name in FORMATS:
        export(tokens, tmp_path / name, name)
        features, rows = loaded(name, tmp_path / name, beside)
        assert "uint16" in features
        assert "Value('null')" not in features
        about = [row["json"] if name == "webdataset" else row for row in rows]
        assert [row["key"] for row in about] == [clip.key for shard in shards for clip in shard]
        assert about[0]["labels"] == []
        assert about[5]["labels"] == ["/m/one", "/m/two"]
        tokens_TQ = np.array(rows[5]["npy" if name == "webdataset" else "tokens"]).reshape(-1, 1)
        np.testing.assert_array_equal(tokens_TQ, shards[0][5].tokens_TQ)


def test_of_many_without_labels_one_that_has_some_comes_first() -> None:
    no, yes = {"labels": []}, {"labels": ["/m/one"]}
    nothing = np.zeros((1, 1), dtype=np.uint16)

    def ordered(abouts: list[dict[str, Any]]) -> list[int]:
        numbered = [({**about, "n": n}, nothing) for n, about in enumerate(abouts)]
        return [about["n"] for about, _ in labelled_first(numbered)]

    assert ordered([no, no, yes, no]) == [0, 1, 2, 3]
    assert ordered([no, no, no, no, yes, no, yes]) == [0, 1, 2, 3, 4, 5, 6]
    assert ordered([no] * 6 + [yes, no, yes]) == [6, 0, 1, 2, 3, 4, 5, 7, 8]
    assert ordered([no] * 7) == [0, 1, 2, 3, 4, 5, 6]
    assert ordered([]) == []


# --- kills, repetition, refusals -----------------------------------------------------------------

KILLED = """
import os, signal, sys
from configs.cli import main
from shards.__main__ import VERBS
left, usual = int(sys.argv[1]), os.fsync
def fsync(descriptor):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    usual(descriptor)
os.fsync = fsync
sys.exit(main("shards", VERBS, ["export", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("name", FORMATS)
def test_killed_at_any_sync_and_run_again_it_is_the_same_tree(
    name: str, finished: Config, tmp_path: Path
) -> None:
    """One export is killed again and again, at another of its steps each time."""
    export(open_token_set(Layout(finished.run), "default"), tmp_path / "whole", name)
    out, kills, seen = tmp_path / "out", 0, dict[str, int]()
    for sync in (2, 5, 6, 7, 8, 1000):
        words = [sys.executable, "-c", KILLED, str(sync), str(finished.run), str(out)]
        done = subprocess.run([*words, "--format", name], cwd=ROOT, check=False, timeout=120)
        kills += done.returncode == -signal.SIGKILL
        unfinished = out / "unfinished.jsonl"
        on_line = unfinished.read_text() if unfinished.exists() else ""
        stands = {path.name: path.stat().st_ino for path in out.glob("tokens-*")}
        assert all(stands[path] == inode for path, inode in seen.items()), "made again"
        seen = {path: inode for path, inode in stands.items() if path in on_line}
    assert kills == 5
    assert done.returncode == 0
    assert tree_hash(out) == tree_hash(tmp_path / "whole")


def test_a_second_export_has_nothing_to_do_and_a_damaged_file_is_made_again(
    tmp_path: Path,
) -> None:
    tokens, out = (
        exported_set(tmp_path / "run", [clips_of(s, 4, 1, shortest=1) for s in range(3)], 1),
        tmp_path / "o",
    )
    export(tokens, out, "webdataset")
    before = tree_hash(out)
    assert export(tokens, out, "webdataset").num_made == 0
    first, second = out / "tokens-000000.tar", out / "tokens-000001.tar"
    first.write_bytes(first.read_bytes().replace(b"/m/one", b"/m/ten"))
    second.unlink()
    assert export(tokens, out, "webdataset").num_made == 2
    assert tree_hash(out) == before


def test_what_is_refused(tmp_path: Path) -> None:
    tokens = exported_set(tmp_path / "run", [clips_of(1, 4, 1, shortest=1)], 1)
    other = exported_set(tmp_path / "other", [clips_of(2, 4, 1, shortest=1)], 1)
    out = tmp_path / "out"
    export(tokens, out, "webdataset")
    with pytest.raises(
        RecipeMismatch, match=r'format: "webdataset" there, "parquet" now(.|\n)*Give'
    ):
        export(tokens, out, "parquet")
    with pytest.raises(RecipeMismatch, match="fingerprint: "):
        export(other, out, "webdataset")
    (out / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json is damaged: remove"):
        export(tokens, out, "webdataset")
    with pytest.raises(InputError, match="holds .* that no export made"):
        export(tokens, tmp_path / "run", "webdataset")
    with pytest.raises(InputError, match="is a file: give a directory"):
        export(tokens, out / "tokens-000000.tar", "webdataset")


def test_tokens_of_other_clips_than_the_index_holds(tmp_path: Path) -> None:
    tokens = exported_set(
        tmp_path / "run", [clips_of(1, 4, 1, shortest=1), clips_of(2, 4, 1, shortest=1)], 1
    )
    swapped = replace(tokens, indexed={0: tokens.indexed[1]})
    with pytest.raises(IntegrityError, match="not of the clips in the index of shard 0"):
        export(swapped, tmp_path / "out", "webdataset")
    assert not (tmp_path / "out/manifest.json").exists()


def test_the_command(finished: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("shards", "export", finished.run, str(out))
    assert done.returncode == 0
    assert "64 clips in 8 files" in done.stdout
    assert "nothing to do" in run("shards", "export", finished.run, str(out)).stdout
    plan = plans.load(Layout(finished.run))
    labels = dict(
        zip(plan.column("id").to_pylist(), plan.column("labels").to_pylist(), strict=True)
    )
    for sample in samples(out):
        assert sample["json"]["label_ids"] == labels[sample["json"]["id"]]
        assert sample["npy"].shape == (sample["json"]["num_tokens"], 1)
    wrong = run("shards", "export", finished.run, str(tmp_path / "new"), "--name", "k5000")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.endswith("has no tokens k5000: say --name default\n")
    assert not (tmp_path / "new").exists()


def test_a_run_without_tokens_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    done = run("shards", "export", tmp_path, str(tmp_path / "out"))
    assert done.returncode == 2
    assert "run `python -m pipeline tokenize` first" in done.stderr
