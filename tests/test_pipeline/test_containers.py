"""Audio inside tars and Parquet files, laid out as the Hub's AudioSet: read in place."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from configs.errors import InputError, StageFailed
from configs.schema import Config
from pipeline import reading, storage
from pipeline.planning import catalogue
from pipeline.verbs import run_verb
from shards import plan as plans
from shards.layout import Layout
from tests.commands import ROOT, command, data_files, write_config
from tests.hub import NUM_CLIPS, RATE_HZ, clip_id, config_of, flac, labels, rows_of
from tests.hub_server import REPO, environment, serving

CONTAINERS = [
    ("bal_train*.tar", True),
    ("bal_train/*.parquet", True),
    ("bal_train/*.parquet", False),
]


@pytest.mark.parametrize(("files", "listed"), CONTAINERS)
def test_every_clip_is_found_with_its_labels(
    hub: Path, tmp_path: Path, files: str, listed: bool
) -> None:
    config = config_of(hub, tmp_path / "run", files, listed=listed)
    assert run_verb(config, "shard") == 0
    rows = rows_of(config)
    assert {i: row["labels"] for i, row in rows.items()} == {
        clip_id(n): list(range(len(labels(n)))) for n in range(NUM_CLIPS)
    }
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {(row["source_rate_hz"], row["source_channels"]) for row in rows.values()} == {
        (RATE_HZ, 2)
    }


def test_tars_and_parquet_files_give_the_frames_of_plain_files(hub: Path, tmp_path: Path) -> None:
    hashes = {}
    for name, files in (("tar", "bal_train*.tar"), ("parquet", "bal_train/*.parquet")):
        config = config_of(hub, tmp_path / name, files)
        assert run_verb(config, "shard") == 0
        hashes[name] = {i: row["source_sha256"] for i, row in rows_of(config).items()}
    assert hashes["tar"] == hashes["parquet"]


def test_without_a_list_tars_are_refused(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only Parquet files hold labels"):
        config_of(hub, tmp_path / "run", "bal_train*.tar", listed=False)


def test_listed_clips_that_no_container_holds_are_missing(hub: Path, tmp_path: Path) -> None:
    config = config_of(hub, tmp_path / "run", "bal_train00.tar")
    assert run_verb(config, "shard") == 0
    reasons = {i: row["reason"] for i, row in rows_of(config).items()}
    assert list(reasons.values()).count(None) == 10
    assert list(reasons.values()).count("missing") == 20


def test_a_glob_without_files_is_refused(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing at .*eval\*\.tar"):
        catalogue(config_of(hub, tmp_path / "run", "eval*.tar"))


# --- a task reads its own, and no more ------------------------------------------------------------


class Counting(io.FileIO):
    """A file that counts what is read of it."""

    counted = 0

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        type(self).counted += count
        return count

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        type(self).counted += len(data)
        return data


@pytest.mark.parametrize("files", ["bal_train*.tar", "bal_train/*.parquet"])
def test_a_task_reads_its_own_rows_and_members_only(
    hub: Path, tmp_path: Path, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(hub, tmp_path / "run", files)
    assert run_verb(config, "shard") == 0
    plan = plans.load(Layout(config.run))
    monkeypatch.setattr(reading, "open_binary", opens_counting(storage.open_binary))
    sizes = {clip_id(n): len(flac(n)) for n in range(NUM_CLIPS)}
    footer = max(footer_bytes(path) for path in hub.glob("bal_train/*.parquet"))
    total = 0
    for shard in range(plan.num_shards):
        rows = plan.rows(shard).to_pylist()
        Counting.counted = 0
        buffer = memoryview(bytearray(1 << 22))
        with reading.ClipReader(str(hub), buffer) as reader:
            for row in rows:
                reader.read(row, hashes=False)
        own = sum(sizes[row["id"]] for row in rows)
        headers = 512 * len(rows)
        overhead = headers if files.endswith(".tar") else 3 * footer + 2000 * len(rows)
        assert own <= Counting.counted <= own + overhead
        total += own
    assert total == sum(sizes.values())


def opens_counting(plain: Callable[[str, str], IO[bytes]]) -> Callable[[str, str], IO[bytes]]:
    def opened(root: str, path: str) -> IO[bytes]:
        plain(root, path).close()
        return Counting(Path(root, path), "rb")  # type: ignore[return-value]

    return opened


def footer_bytes(path: Path) -> int:
    data = path.read_bytes()
    return int.from_bytes(data[-8:-4], "little") + 65_536  # Arrow reads the end in one piece


def test_row_groups_are_not_torn_apart_by_shards(hub: Path, tmp_path: Path) -> None:
    shards = {"clips_per_shard": 9, "min_shards": 1}
    config = config_of(hub, tmp_path / "run", "bal_train/*.parquet", shards=shards)
    assert run_verb(config, "shard") == 0
    plan = plans.load(Layout(config.run))
    home: dict[tuple[str, int], set[int]] = {}
    for shard in range(plan.num_shards):
        for row in plan.rows(shard).to_pylist():
            home.setdefault((row["path"], row["row_group"]), set()).add(shard)
    assert len(home) == 9
    assert all(len(shards) == 1 for shards in home.values())


@pytest.mark.parametrize("files", ["bal_train*.tar", "bal_train/*.parquet"])
def test_a_container_that_changed_after_the_plan_stops_the_job(
    hub: Path, tmp_path: Path, files: str
) -> None:
    config = config_of(hub, tmp_path / "run", files)
    assert run_verb(config, "shard") == 0
    first, second = sorted(hub.glob(files))[:2]
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in hub.glob(files):
        target = moved / path.relative_to(hub)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((second if path == first else path).read_bytes())
    for record in Layout(config.run).commits("shard", "default").glob("0*.json"):
        record.unlink()
    source = config.source.model_copy(update={"root": str(moved)})
    with pytest.raises((InputError, StageFailed), match="changed since the plan was frozen"):
        resume(config.model_copy(update={"source": source}))


def resume(config: Config) -> None:
    from pipeline.shard import task_of
    from pipeline.shard_task import make_shard

    layout = Layout(config.run)
    for shard in range(plans.load(layout).num_shards):
        make_shard(task_of(config, layout, shard, "", {}))


def test_tar_and_parquet_may_take_turns(hub: Path) -> None:
    """Two sets, stored otherwise, whose clips the hash mixes."""
    buffer = memoryview(bytearray(reading.MAX_FILE_BYTES))
    rows = {}
    for files in ("bal_train/*.parquet", "bal_train*.tar"):
        for row in catalogue(config_of(hub, hub, files)).clips.to_pylist():
            rows.setdefault(row["id"], []).append(row)
    with reading.ClipReader(str(hub), buffer) as reader:
        for parquet, tar in rows.values():
            found = [reader.read(row) for row in (tar, parquet, tar)]
            assert len({each.sha256 for each in found}) == 1
            assert found[0].given.num_bytes > 1000


def test_a_row_of_a_parquet_file_may_be_read_again(hub: Path) -> None:
    """As for two windows of one recording, or for a list in another order."""
    buffer = memoryview(bytearray(reading.MAX_FILE_BYTES))
    clips = catalogue(config_of(hub, hub, "bal_train/*.parquet")).clips.to_pylist()
    with reading.ClipReader(str(hub), buffer) as reader:
        wanted = {row["id"]: reader.read(row).sha256 for row in clips}
        again = [*clips[:5], clips[4], *reversed(clips)]
        assert [reader.read(row).sha256 for row in again] == [wanted[row["id"]] for row in again]


@pytest.mark.parametrize("files", ["bal_train/*.parquet", "bal_train*.tar"])
def test_recordings_in_containers_are_cut_into_windows(
    hub: Path, tmp_path: Path, files: str
) -> None:
    config = config_of(hub, tmp_path / "run", files)
    windows = {"length_s": 0.2, "min_s": 0.1}
    source = {**config.source.model_dump(mode="json"), "windows": windows}
    cut = Config.model_validate({**config.model_dump(mode="json"), "source": source})
    assert run_verb(cut, "shard") == 0
    rows = rows_of(cut)
    assert len(rows) == 3 * NUM_CLIPS
    assert {row["status"] for row in rows.values()} == {"ok"}
    lengths = [rows[f"{clip_id(4)}_{start}"]["source_samples"] for start in (0, 200, 400)]
    assert lengths == [9600, 9600, 4800]


def test_a_tar_whose_headers_are_gone_has_changed(hub: Path, tmp_path: Path) -> None:
    path = tmp_path / "bal_train00.tar"
    path.write_bytes((hub / "bal_train00.tar").read_bytes())
    row = catalogue(config_of(hub, hub, "bal_train00.tar")).clips.to_pylist()[0]
    assert row["offset"] is not None
    data = bytearray(path.read_bytes())
    data[row["offset"] - 512 : row["offset"]] = bytes(512)
    path.write_bytes(data)
    buffer = memoryview(bytearray(reading.MAX_FILE_BYTES))
    with (
        reading.ClipReader(str(tmp_path), buffer) as reader,
        pytest.raises(InputError, match="is no longer at byte"),
    ):
        reader.read(row)


# --- over the network -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("files", ["bal_train/*.parquet", "bal_train*.tar"])
def test_the_hub_is_read_in_place(hub: Path, tmp_path: Path, files: str) -> None:
    local = config_of(hub, tmp_path / "local", files)
    assert run_verb(local, "shard") == 0
    tree = local.model_dump(mode="json")
    tree["run"], tree["source"]["root"] = str(tmp_path / "remote"), f"hf://datasets/{REPO}"
    config = write_config(tmp_path / "config.yaml", tree)
    with serving(hub) as (address, counted):
        done = subprocess.run(
            command("pipeline", "shard", config),
            cwd=ROOT,
            env=environment(address, tmp_path / "cache"),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    audio = sum(len(flac(number)) for number in range(NUM_CLIPS))
    footers = 9 * 3 * max(footer_bytes(path) for path in hub.glob("bal_train/*.parquet"))
    assert audio < counted.bytes_sent < audio + footers
    assert data_files(tmp_path / "remote") == data_files(tmp_path / "local")
