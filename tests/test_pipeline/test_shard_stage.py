"""The shard stage: every clip ends once, and what is stored of it lines up."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from configs.errors import ConfigError, InputError, RecipeMismatch, RunLocked
from configs.load import merge
from configs.schema import Config
from pipeline import status
from pipeline.audio import decode as decoding
from pipeline.audio.decode import AudioFile, Decoded
from pipeline.audio.frames import frames_of
from pipeline.audio.mel import log_mel
from pipeline.audio.refusal import REASONS, ClipRefused
from pipeline.reading import ClipReader
from pipeline.shard_task import COPIED
from pipeline.verbs import run_verb
from shards.frames import read_shard_frames
from shards.index import decoded, open_shards, read_index, read_shard_index
from shards.layout import Layout
from shards.plan import CLIP_SCHEMA
from shards.seal import Seal, open_seal
from tests.broken import good
from tests.conftest import NUM_CLIPS, MakeConfig, tiny_tree

MAX_CLIP_S = 2.0


def wav(samples: npt.NDArray, subtype: str = "FLOAT", rate_hz: int = 22_050) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="WAV", subtype=subtype)
    return buffer.getvalue()


def noise(num_samples: int) -> npt.NDArray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, num_samples)


def delete(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def writes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1_000])


FAULTS: list[tuple[str, Callable[[Path], None]]] = [
    ("missing", delete),
    ("not_a_file", make_directory),
    ("empty", writes(b"")),
    ("unreadable", truncate),
    ("unknown_format", writes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")),
    ("silent", writes(wav(np.zeros(22_050)))),
    ("not_finite", writes(wav(np.where(np.arange(22_050) == 99, np.nan, 0.1)))),
    ("too_short", writes(wav(noise(300)))),
    ("too_long", writes(wav(noise(3 * 22_050)))),
]


def plant(clips: Path) -> dict[str, str]:
    """Spoil one clip for each fault; returns the reason that each should be refused for."""
    rows = (clips / "train_segments.csv").read_text(encoding="utf-8").splitlines()[3:]
    ids = [row.split(",")[0] for row in rows[::5]]
    reasons = {}
    for clip_id, (reason, spoil) in zip(ids, FAULTS, strict=False):
        spoil(clips / "audio" / f"{clip_id}.flac")
        reasons[clip_id] = reason
    assert len(reasons) == len(FAULTS)
    return reasons


def config_of(clips: Path, run: Path, **over: Any) -> Config:
    source = {"source": {"max_clip_s": MAX_CLIP_S}}
    return Config.model_validate(merge(merge(tiny_tree(clips, run), source), over))


def decode(data: bytes, config: Config) -> Decoded:
    return decoding.decode(AudioFile(data), config.audio)


@pytest.fixture(scope="module")
def spoiled(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A copy of the made clips with broken files, and their reasons."""
    clips = tmp_path_factory.mktemp("spoiled") / "clips"
    shutil.copytree(made_clips, clips)
    return clips, plant(clips)


@pytest.fixture(scope="module")
def spoiled_run(spoiled: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = config_of(spoiled[0], tmp_path_factory.mktemp("run") / "run")
    assert run_verb(config, "shard") == 3
    return config


def seal_of(config: Config) -> Seal:
    return open_shards(Layout(config.run))


def index_of(config: Config) -> list[dict[str, Any]]:
    seal = seal_of(config)
    return read_index(seal.layout, seal.records).to_pylist()


def stored_clips(config: Config) -> Iterator[tuple[dict[str, Any], npt.NDArray, dict[str, bytes]]]:
    """Every decoded clip: its index row, its frames, and its tar members by suffix."""
    seal = seal_of(config)
    for record in seal.records:
        frames_TM = read_shard_frames(seal.layout, record)
        members = {}
        for file in (file for file in record.files if file.path.startswith("audio/")):
            with tarfile.open(seal.layout.root / file.path) as tar:
                members = {info.name: tar.extractfile(info).read() for info in tar}
        rows = decoded(read_shard_index(seal.layout, record)).to_pylist()
        for row in rows:
            own = {n.split(".")[1]: d for n, d in members.items() if n.split(".")[0] == row["key"]}
            end = row["row_start"] + row["num_frames"]
            yield row, frames_TM[row["row_start"] : end], own
        assert len(frames_TM) == sum(row["num_frames"] for row in rows)
        assert list(members) in ([], tar_names(rows, False), tar_names(rows, True))


def tar_names(rows: list[dict[str, Any]], is_source: bool) -> list[str]:
    return [
        f"{row['key']}.{suffix}"
        for row in rows
        for suffix in (row["container"] if is_source else "flac", "json")
    ]


def stamps(run: Path) -> dict[Path, tuple[int, int]]:
    """What a file is and when it changed, but for the log, the lock and the last config."""
    changing = {"events.jsonl", "pipeline.lock", "config.yaml"}
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in run.rglob("*")
        if path.is_file() and path.name not in changing
    }


def names(run: Path) -> set[str]:
    """Names of all files made; data files carry their hashes in them."""
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


# --- the account of clips --------------------------------------------------------------------


def test_every_clip_ends_once_with_the_right_reason(
    spoiled: tuple[Path, dict], spoiled_run: Config
) -> None:
    rows = {row["id"]: row for row in index_of(spoiled_run)}
    assert len(rows) == len(index_of(spoiled_run)) == NUM_CLIPS
    assert {i: row["reason"] for i, row in rows.items() if row["status"] != "ok"} == spoiled[1]
    for row in rows.values():
        is_ok = row["status"] == "ok"
        assert (
            is_ok == (row["num_frames"] > 0) == (row["reason"] is None) == (row["detail"] is None)
        )
        assert is_ok == (row["decoder"] is not None) == (row["row_start"] is not None)


def test_counts_add_up(spoiled: tuple[Path, dict], spoiled_run: Config) -> None:
    seal = seal_of(spoiled_run)
    assert seal.total("clips") == seal.total("ok") + seal.total("quarantined") == NUM_CLIPS
    assert seal.total("quarantined") == len(FAULTS)
    assert seal.total("frames") == sum(row["num_frames"] for row in index_of(spoiled_run))
    counted: Counter[str] = Counter()
    for record in seal.records:
        counted.update(record.detail["reasons"])
    assert counted == Counter(spoiled[1].values())


def test_the_exit_code_follows_the_threshold(
    spoiled: tuple[Path, dict], spoiled_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    share = len(FAULTS) / NUM_CLIPS
    for max_share, code in ((share - 0.001, 3), (share, 0), (0.5, 0), (0, 3)):
        over = {"quarantine": {"max_share": max_share}}
        assert run_verb(config_of(spoiled[0], spoiled_run.run, **over), "shard") == code
        printed = capsys.readouterr().out
        assert ("9 of 64 clips (14.1%) are in quarantine" in printed) == (code == 3)


def test_status_prints_every_reason_with_an_example(
    spoiled: tuple[Path, dict], spoiled_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.run(spoiled_run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "shard: 8 of 8 committed, sealed" in lines[1]
    for reason, count in Counter(spoiled[1].values()).items():
        (place,) = [n for n, line in enumerate(lines) if f": {count} {reason}: " in line]
        assert REASONS[reason] in lines[place]
        assert any(i in lines[place + 1] for i, why in spoiled[1].items() if why == reason)
    assert "0 of 1 committed" in "\n".join(lines)


def test_status_of_a_run_that_is_not_begun(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    assert status.run(config) == 0
    assert "nothing made yet" in capsys.readouterr().out
    assert not config.run.exists()


def test_the_bytes_of_a_quarantine_do_not_depend_on_the_run(
    spoiled: tuple[Path, dict], spoiled_run: Config, tmp_path: Path
) -> None:
    assert run_verb(config_of(spoiled[0], tmp_path / "run"), "shard") == 3
    assert names(tmp_path / "run") == names(spoiled_run.run)


def test_the_bytes_of_a_quarantine_do_not_depend_on_where_the_audio_lies(
    spoiled: tuple[Path, dict], tmp_path: Path
) -> None:
    """The recipe leaves the root out, so a run goes on after its audio has moved."""
    runs = []
    for name in ("here", "there"):
        clips = tmp_path / name
        shutil.copytree(spoiled[0], clips)
        for reason in ("unreadable", "silent", "not_finite", "empty"):
            for clip_id in (i for i, why in spoiled[1].items() if why == reason):
                (clips / "audio" / f"{clip_id}.flac").unlink()
        source = {"source": {"root": str(clips)}}
        config = config_of(spoiled[0], tmp_path / f"run-{name}", **source)
        assert run_verb(config, "shard") == 3
        runs.append(names(config.run))
    assert runs[0] == runs[1]


def test_a_shard_of_nothing_but_missing_clips_is_a_shard(made_clips: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    first = config_of(clips, tmp_path / "whole")
    assert run_verb(first, "shard") == 0
    seal = seal_of(first)
    for row in read_shard_index(seal.layout, seal.records[3]).to_pylist():
        (clips / row["source"]).unlink()
    config = config_of(clips, tmp_path / "run", quarantine={"max_share": 0.2})
    assert run_verb(config, "all") == 0
    record = seal_of(config).records[3]
    assert record.counts == {"clips": 8, "ok": 0, "quarantined": 8, "frames": 0}
    tokens = open_seal(Layout(config.run), "tokenize", "default")
    assert [record.counts["clips"] for record in tokens.records] == [8, 8, 8, 0, 8, 8, 8, 8]


def test_all_goes_on_past_a_full_quarantine_and_says_so_at_the_end(
    spoiled: tuple[Path, dict], spoiled_run: Config
) -> None:
    assert run_verb(spoiled_run, "all") == 3
    tokens = open_seal(Layout(spoiled_run.run), "tokenize", "default")
    assert tokens.total("clips") == NUM_CLIPS - len(FAULTS)


# --- one clip --------------------------------------------------------------------------------


def read_refused(root: Path, name: str) -> ClipRefused:
    row = dict.fromkeys(CLIP_SCHEMA.names) | {"path": name}
    buffer = memoryview(bytearray(1 << 16))
    with ClipReader(str(root), buffer) as reader, pytest.raises(ClipRefused) as caught:
        reader.read(row)
    return caught.value


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.flac", "missing"), ("folder", "not_a_file"), ("file.txt/below.flac", "missing")],
)
def test_a_clip_that_is_no_file_is_refused_by_its_path(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    refused = read_refused(tmp_path, name)
    assert refused.reason == reason
    assert name in refused.detail
    assert str(tmp_path) not in refused.detail


def test_a_name_that_the_file_system_refuses_costs_its_clip_only(tmp_path: Path) -> None:
    assert read_refused(tmp_path, f"{'x' * 300}.flac").reason == "missing"


@pytest.mark.parametrize("level", [1e5, 1e17, 1e30, 2e38])
def test_a_clip_far_too_loud_is_refused_or_has_finite_frames(
    make_config: MakeConfig, level: float
) -> None:
    """One infinite frame would end the codebook stage of the whole run."""
    config = make_config()
    data = wav(np.stack([level * noise(22_050)] * 2, axis=1))
    if level > 1e6:
        with pytest.raises(ClipRefused, match="not_finite"):
            decode(data, config)
    else:
        frames_TM = frames_of(decode(data, config).waveform_N, 22_050, config.frames)
        assert np.isfinite(frames_TM.astype(np.float16)).all()


# --- what is stored --------------------------------------------------------------------------


def test_frames_of_a_row_are_those_of_its_source(
    spoiled: tuple[Path, dict], spoiled_run: Config
) -> None:
    rows = list(stored_clips(spoiled_run))
    assert len(rows) == NUM_CLIPS - len(FAULTS)
    for row, frames_TM, _ in rows:
        source = decode((spoiled[0] / row["source"]).read_bytes(), spoiled_run)
        exact_TM = log_mel(source.waveform_N, 22_050, spoiled_run.frames)
        assert (frames_TM == exact_TM.astype(np.float16)).all()
        assert (row["source_rate_hz"], row["source_samples"]) == (32_000, 48_000)


def test_the_tar_holds_the_audio_that_was_framed(
    spoiled: tuple[Path, dict], spoiled_run: Config
) -> None:
    """But for the noise of 16 bits, which is far below what is compared, and clipped peaks."""
    for row, frames_TM, members in stored_clips(spoiled_run):
        source = decode((spoiled[0] / row["source"]).read_bytes(), spoiled_run)
        stored = decode(members["flac"], spoiled_run)
        assert np.abs(stored.waveform_N - source.waveform_N.clip(-1, 1)).max() < 2.0**-14
        again_TM = log_mel(stored.waveform_N, 22_050, spoiled_run.frames)
        difference_TM = np.abs(frames_TM - again_TM)[frames_TM > -30]
        assert difference_TM.mean() < 0.03
        if np.abs(source.waveform_N).max() <= 1:
            assert difference_TM.max() < 0.3


def test_the_json_beside_the_audio_describes_it(tokenized: Config) -> None:
    for row, _, members in stored_clips(tokenized):
        described = json.loads(members["json"])
        assert described == {
            **{name: row[name] for name in COPIED},
            "sample_rate_hz": 22_050,
            "num_samples": soundfile.info(io.BytesIO(members["flac"])).frames,
        }


def test_rows_are_those_of_the_plan_in_its_order(tokenized: Config) -> None:
    from shards import plan

    frozen = plan.load(Layout(tokenized.run))
    assert [row["id"] for row in index_of(tokenized)] == frozen.column("id").to_pylist()
    assert [row["labels"] for row in index_of(tokenized)] == frozen.column("labels").to_pylist()


@pytest.mark.parametrize("store", ["source", "none"])
def test_other_stores_keep_the_same_frames(
    made_clips: Path, tokenized: Config, tmp_path: Path, store: str
) -> None:
    config = config_of(made_clips, tmp_path / "run", audio={"store": store})
    assert run_verb(config, "shard") == 0
    pairs = zip(stored_clips(config), stored_clips(tokenized), strict=True)
    for (row, frames_TM, members), (other, other_TM, _) in pairs:
        assert row == other
        assert frames_TM.tobytes() == other_TM.tobytes()
        if store == "none":
            assert members == {}
        else:
            assert members["flac"] == (made_clips / row["source"]).read_bytes()
    assert (config.run / "audio").exists() == (store == "source")


KINDS: dict[str, dict[str, Any]] = {
    "mel": {"scale": "slaney", "norm": "slaney", "n_mels": 40},
    "linear": {"scale": "linear", "n_mels": 32, "power": 1, "top_db": 80.0},
    "mfcc": {"kind": "mfcc", "n_mels": 64, "n_mfcc": 20},
    "fbank": {"kind": "fbank", "n_mels": 64},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_frames_is_stored_as_it_is_computed(
    made_clips: Path, tmp_path: Path, kind: str
) -> None:
    over = {"frames": KINDS[kind], "audio": {"store": "none", "sample_rate_hz": 16_000}}
    config = config_of(made_clips, tmp_path / "run", **over)
    assert run_verb(config, "shard") == 0
    clips = list(stored_clips(config))
    assert len(clips) == NUM_CLIPS
    for row, frames_TM, _ in clips[::7]:
        waveform_N = decode((made_clips / row["source"]).read_bytes(), config).waveform_N
        exact_TM = frames_of(waveform_N, 16_000, config.frames).astype(np.float16)
        assert frames_TM.tobytes() == exact_TM.tobytes()
        assert frames_TM.shape[1] == config.frames.num_bins


def test_a_config_with_empty_filters_makes_nothing(made_clips: Path, tmp_path: Path) -> None:
    frames = {"n_fft": 512, "n_mels": 128}
    config = config_of(made_clips, tmp_path / "run", frames=frames)
    with pytest.raises(ConfigError, match="3 of 128 filters catch no bin"):
        run_verb(config, "shard")
    assert not Layout(config.run).plan_json.exists()
    allowed = config_of(
        made_clips, tmp_path / "run", frames={**frames, "allow_empty_filters": True}
    )
    assert run_verb(allowed, "shard") == 0


# --- other formats and long files ------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(made_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A copy of the made clips where some files are of another format than their name says, and
    what each of these is."""
    clips = tmp_path_factory.mktemp("mixed") / "clips"
    shutil.copytree(made_clips, clips)
    whole = good()
    formats = {
        "wav24": ("wav", "soundfile", 22_050),
        "vorbis": ("ogg", "soundfile", 22_050),
        "mp3": ("mp3", "soundfile", 22_050),
        "alac": ("mp4", "ffmpeg", 44_100),
        "opus": ("ogg", "ffmpeg", 48_000),
        "webm": ("matroska", "ffmpeg", 48_000),
        "aiff": ("aiff", "ffmpeg", 22_050),
    }
    files = sorted((clips / "audio").iterdir())
    for path, name in zip(files, formats, strict=False):
        path.write_bytes(whole[name])
    return clips, {path.stem: formats[n] for path, n in zip(files, formats, strict=False)}


@pytest.mark.parametrize("store", ["flac", "source", "none"])
def test_the_index_says_what_each_file_was(
    mixed: tuple[Path, dict], tmp_path: Path, store: str
) -> None:
    clips, formats = mixed
    config = config_of(clips, tmp_path / "run", audio={"store": store})
    assert run_verb(config, "shard") == 0
    seen = {}
    for row, frames_TM, members in stored_clips(config):
        data = (clips / row["source"]).read_bytes()
        assert row["source_sha256"] == hashlib.sha256(data).hexdigest()
        assert len(frames_TM) == row["num_frames"] > 0
        if row["id"] in formats:
            seen[row["id"]] = (row["container"], row["decoder"], row["source_rate_hz"])
            assert row["source_channels"] == 1
            assert row["source_samples"] == row["source_rate_hz"]
        else:
            assert (row["container"], row["decoder"]) == ("flac", "soundfile")
            assert (row["source_channels"], row["source_samples"]) == (2, 48_000)
        if store == "source":
            assert members[row["container"]] == data
        elif store == "flac":
            assert soundfile.info(io.BytesIO(members["flac"])).samplerate == 22_050
    assert seen == formats


def test_a_refused_file_keeps_the_hash_of_its_bytes(
    spoiled: tuple[Path, dict], spoiled_run: Config
) -> None:
    """Unless there were no bytes to read: the same broken file is known again by it."""
    for row in index_of(spoiled_run):
        if row["status"] == "ok" or row["reason"] in ("missing", "not_a_file"):
            continue
        data = (spoiled[0] / row["source"]).read_bytes()
        assert row["source_sha256"] == hashlib.sha256(data).hexdigest()
    hashes = {r["reason"]: r["source_sha256"] for r in index_of(spoiled_run)}
    assert (hashes["missing"], hashes["not_a_file"]) == (None, None)


# --- again, otherwise, at once ---------------------------------------------------------------


def test_a_second_run_changes_no_file(
    spoiled: tuple[Path, dict], spoiled_run: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(spoiled_run.run)
    settings = (spoiled_run.run / "config.yaml").read_bytes()
    assert run_verb(spoiled_run, "shard") == 3
    assert "all 8 shards are committed, nothing to do" in capsys.readouterr().out
    assert stamps(spoiled_run.run) == before
    assert (spoiled_run.run / "config.yaml").read_bytes() == settings


def test_a_finished_run_needs_no_audio(made_clips: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(made_clips, clips)
    config = config_of(clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    shutil.rmtree(clips)
    assert run_verb(config, "shard") == 0


def test_a_shard_that_is_lost_is_made_again_as_it_was(made_clips: Path, tmp_path: Path) -> None:
    config = config_of(made_clips, tmp_path / "run")
    assert run_verb(config, "shard") == 0
    before, names_before = stamps(config.run), names(config.run)
    lost = Layout(config.run).commits("shard", "default") / "000005.json"
    lost.unlink()
    assert run_verb(config, "shard") == 0
    assert names(config.run) == names_before
    changed = {path for path, stamp in stamps(config.run).items() if before[path] != stamp}
    assert lost in changed
    assert all("000005" in path.as_posix() for path in changed)


@pytest.mark.parametrize(
    ("over", "line"),
    [
        ({"frames": {"n_mels": 32}}, "frames.n_mels: 64 there, 32 now"),
        ({"frames": {"f_max_hz": 8_000}}, "frames.f_max_hz: null there, 8000.0 now"),
        ({"audio": {"store": "none"}}, 'audio.store: "flac" there, "none" now'),
        ({"frames": {"kind": "mfcc"}}, 'frames.kind: "mel" there, "mfcc" now'),
        ({"source": {"max_clip_s": 9}}, "source.max_clip_s: 60.0 there, 9.0 now"),
        ({"shards": {"clips_per_shard": 4}}, "shards.clips_per_shard: 1024 there, 4 now"),
        ({"source": {"sets": {"eval": {"split": "valid"}}}}, "source.sets.eval.split"),
    ],
)
def test_another_config_is_refused_by_its_keys(
    tokenized: Config, over: dict[str, Any], line: str
) -> None:
    before = stamps(tokenized.run)
    settings = (tokenized.run / "config.yaml").read_bytes()
    tree = merge(tokenized.model_dump(mode="json"), over)
    with pytest.raises(RecipeMismatch) as caught:
        run_verb(Config.model_validate(tree), "shard")
    assert f"  {line}" in str(caught.value)
    assert str(tokenized.run) in str(caught.value)
    assert stamps(tokenized.run) == before
    assert (tokenized.run / "config.yaml").read_bytes() == settings


def test_audio_that_is_not_there_is_an_input_error(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"source\.root: .*nowhere is no directory"):
        run_verb(make_config(source={"root": str(tmp_path / "nowhere")}), "shard")


HOLD = """
import sys
from pathlib import Path
from shards.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_holds_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    command = [sys.executable, "-c", HOLD, str(Layout(config.run).lock)]
    root = str(Path(__file__).parents[2])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"pid {holder.pid} on .* is at work here"):
            run_verb(config, "shard")
        assert not Layout(config.run).plan_json.exists()
        holder.stdin.close()
        holder.wait(timeout=20)
    assert run_verb(config, "shard") == 0
