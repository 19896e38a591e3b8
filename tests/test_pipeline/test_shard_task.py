"""One shard: each clip of it, and what is stored of it, lines up."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from configs.errors import ConfigError
from configs.schema import Config
from pipeline.audio.frames import frames_of
from pipeline.audio.mel import log_mel
from pipeline.audio.refusal import ClipRefused
from pipeline.reading import ClipReader
from pipeline.shard_task import COPIED
from pipeline.verbs import run_verb
from shards.layout import Layout
from shards.plan import CLIP_SCHEMA
from tests.broken import good
from tests.conftest import NUM_CLIPS, MakeConfig
from tests.spoiled import (
    FAULTS,
    config_of,
    decode,
    index_of,
    noise,
    stored_clips,
    wav,
)

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
        "wav24": ("wav", "libsndfile", 22_050),
        "vorbis": ("ogg", "libsndfile", 22_050),
        "mp3": ("mp3", "libsndfile", 22_050),
        "alac": ("mp4", "FFmpeg", 44_100),
        "opus": ("ogg", "FFmpeg", 48_000),
        "webm": ("matroska", "FFmpeg", 48_000),
        "aiff": ("aiff", "FFmpeg", 22_050),
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
            assert (row["container"], row["decoder"]) == ("flac", "libFLAC")
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
