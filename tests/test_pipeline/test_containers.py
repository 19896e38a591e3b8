"""Audio inside tars and Parquet files, laid out as the Hub's AudioSet: read in place."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from configs.errors import InputError, StageFailed
from configs.schema import Config
from pipeline import reading, storage
from pipeline.planning import catalogue
from pipeline.verbs import run_verb
from shards import plan as plans
from shards.index import open_shards, read_index
from shards.layout import Layout
from tests.commands import ROOT, command, data_files, write_config
from tests.hub_server import REPO, serving

NUM_CLIPS = 30
RATE_HZ = 48_000
CLASSES = "index,mid,display_name\n0,/m/a,Cat\n1,/m/b,Dog\n"
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def clip_id(number: int) -> str:
    """Ids as YouTube makes them: some start with a hyphen, some differ only in case."""
    return ("-Ab", "-aB", "x_y")[number % 3] + f"{number:08d}"


def flac(number: int) -> bytes:
    """Half a second of a tone of its own, 48 kHz, 24 bit, stereo."""
    time_s = np.arange(RATE_HZ // 2) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * (300 + 20 * number) * time_s)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([tone, tone], 1), RATE_HZ, "PCM_24", format="FLAC")
    return buffer.getvalue()


def labels(number: int) -> list[str]:
    return ["/m/a", "/m/b"][: 1 + number % 2]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three Parquet files of several row groups, three tars, and the lists beside them."""
    root = tmp_path_factory.mktemp("hub")
    (root / "classes.csv").write_text(CLASSES)
    rows = [f'{clip_id(n)}, 0, 10, "{",".join(labels(n))}"\n' for n in range(NUM_CLIPS)]
    (root / "segments.csv").write_text("# one\n# two\n# three\n" + "".join(rows))
    (root / "bal_train").mkdir()
    for part in range(3):
        numbers = range(part * 10, part * 10 + 10)
        table = pa.table(
            {
                "video_id": [clip_id(n) for n in numbers],
                "audio": pa.array(
                    [
                        {"bytes": flac(n), "path": f"audio/bal_train/{clip_id(n)}.flac"}
                        for n in numbers
                    ],
                    AUDIO,
                ),
                "labels": [labels(n) for n in numbers],
                "human_labels": [["Cat", "Dog"][: 1 + n % 2] for n in numbers],
            }
        )
        pq.write_table(table, root / f"bal_train/{part:02d}.parquet", row_group_size=4)
        with tarfile.open(root / f"bal_train{part:02d}.tar", "w") as tar:
            for number in numbers:
                add(tar, f"audio/bal_train/{clip_id(number)}.flac", flac(number))
    return root


def add(tar: tarfile.TarFile, name: str, data: bytes, **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def config_of(hub: Path, run: Path, files: str, *, listed: bool = True, **over: Any) -> Config:
    part: dict[str, Any] = {"files": files}
    if listed:
        part["segments"] = str(hub / "segments.csv")
    source = {
        "kind": "audioset",
        "root": str(hub),
        "classes": str(hub / "classes.csv"),
        "sets": {"balanced": part},
    }
    tree = {
        "run": str(run),
        "source": source,
        "shards": {"clips_per_shard": 4},
        "cluster": {"kind": "inline"},
        "quarantine": {"max_share": 1.0},
    }
    return Config.model_validate({**tree, **over})


def rows_of(config: Config) -> dict[str, dict[str, Any]]:
    layout = Layout(config.run)
    table = read_index(layout, open_shards(layout).records)
    return {row["id"]: row for row in table.to_pylist()}


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


# --- strange members ------------------------------------------------------------------------------


def test_links_directories_and_giants_are_no_clips(tmp_path: Path, hub: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    names = [clip_id(n) for n in range(6)]
    with tarfile.open(root / "odd.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, f"{names[0]}.flac", flac(0))
        add(tar, f"{names[1]}.flac", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, f"{names[2]}.flac", b"", type=tarfile.LNKTYPE, linkname=f"{names[0]}.flac")
        add(tar, f"../../{names[3]}.flac", flac(3))
        add(tar, f"/abs/{'d' * 120}/{names[4]}.flac", flac(4))
        info = tarfile.TarInfo(f"{names[5]}.flac")
        info.size = 0
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    config = config_of(hub, tmp_path / "run", "*.tar")
    source = config.source.model_copy(update={"root": str(root)})
    assert run_verb(config.model_copy(update={"source": source}), "shard") == 0
    rows = rows_of(config)
    reasons = [rows[name]["reason"] for name in names]
    assert reasons == [None, "missing", "missing", None, None, "missing"]
    assert not list(tmp_path.glob("*.flac"))


def test_what_is_no_tar_or_parquet_file_is_named(tmp_path: Path, hub: Path) -> None:
    for name, said in (("bad.tar", "is no tar file"), ("bad.parquet", "is no Parquet file")):
        (tmp_path / name).write_bytes(b"hello" * 400)
        config = config_of(hub, tmp_path / "run", name)
        source = config.source.model_copy(update={"root": str(tmp_path)})
        with pytest.raises(InputError, match=rf"{name} {said}"):
            catalogue(config.model_copy(update={"source": source}))


def test_a_parquet_file_without_the_columns_is_refused_by_name(tmp_path: Path, hub: Path) -> None:
    pq.write_table(pa.table({"video_id": ["a"], "sound": ["b"]}), tmp_path / "other.parquet")
    config = config_of(hub, tmp_path / "run", "other.parquet", listed=False)
    source = config.source.model_copy(update={"root": str(tmp_path)})
    with pytest.raises(InputError, match=r"other\.parquet: it needs the columns .*audio\.bytes"):
        catalogue(config.model_copy(update={"source": source}))


AUDIO_VALUES = pa.array([{"bytes": b"x", "path": "x"}] * 2, AUDIO)


@pytest.mark.parametrize(
    "columns",
    [
        {"video_id": ["a", None], "labels": [["/m/a"]] * 2},
        {"video_id": [1, 2], "labels": [["/m/a"]] * 2},
        {"video_id": ["a", "b"], "labels": [["/m/a"], None]},
        {"video_id": ["a", "b"], "labels": [["/m/a"], [None]]},
        {"video_id": ["a", "b"], "labels": ["/m/a", "/m/b"]},
        {"video_id": ["a", "b"]},
    ],
)
def test_a_parquet_list_with_gaps_or_other_types_is_refused_by_name(
    tmp_path: Path, hub: Path, columns: dict[str, Any]
) -> None:
    pq.write_table(pa.table({**columns, "audio": AUDIO_VALUES}), tmp_path / "odd.parquet")
    config = config_of(hub, tmp_path / "run", "odd.parquet", listed=False)
    source = config.source.model_copy(update={"root": str(tmp_path)})
    with pytest.raises(InputError, match=r"odd\.parquet: it needs the columns .*without gaps"):
        catalogue(config.model_copy(update={"source": source}))


def tar_config(hub: Path, root: Path, ids: list[str], **over: Any) -> Config:
    (root / "list.csv").write_text("".join(f'{i}, 0, 10, "/m/a"\n' for i in ids))
    config = config_of(hub, root / "run", "*.tar", **over)
    tree = config.model_dump(mode="json")
    tree["source"] |= {"root": str(root)}
    tree["source"]["sets"]["balanced"]["segments"] = str(root / "list.csv")
    return Config.model_validate(tree)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_are_no_ascii_are_found_again(hub: Path, tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        add(tar, "données/été.flac", flac(1))
        add(tar, f"données/{'x' * 120}.flac", flac(2))
    config = tar_config(hub, tmp_path, ["été", "x" * 120])
    assert run_verb(config, "shard") == 0
    assert {row["status"] for row in rows_of(config).values()} == {"ok"}


def test_audio_counts_more_than_what_lies_beside_it_and_the_last_of_a_name(
    hub: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("a.json", b"{}"), ("a.flac", flac(1)), ("a.txt", b"a cat")):
            add(tar, name, data)
        for number in (2, 3):
            add(tar, "b.flac", flac(number))
    config = tar_config(hub, tmp_path, ["a", "b"])
    assert run_verb(config, "shard") == 0
    hashes = {key: row["source_sha256"] for key, row in rows_of(config).items()}
    wanted = {"a": flac(1), "b": flac(3)}
    assert hashes == {key: hashlib.sha256(data).hexdigest() for key, data in wanted.items()}


def test_a_damaged_header_is_no_end_of_the_tar(hub: Path, tmp_path: Path) -> None:
    """The members behind it would be missing without a word."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            add(tar, f"{number}.flac", flac(number))
    data = bytearray((tmp_path / "a.tar").read_bytes())
    at = data.index(b"2.flac\0")
    data[at] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.tar: the header at byte {at} is damaged"):
        catalogue(tar_config(hub, tmp_path, ["0", "3"]))


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
        environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            command("pipeline", "shard", config),
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    audio = sum(len(flac(number)) for number in range(NUM_CLIPS))
    footers = 9 * 3 * max(footer_bytes(path) for path in hub.glob("bal_train/*.parquet"))
    assert audio < counted.bytes_sent < audio + footers
    assert data_files(tmp_path / "remote") == data_files(tmp_path / "local")
