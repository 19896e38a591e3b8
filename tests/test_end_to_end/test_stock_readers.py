"""Everything on disk opens with the public tools of its format, without a line of ours."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset
import zarr
from safetensors.numpy import load_file

from configs.schema import Config

# webdataset leaves its last tar to the garbage collector to close.
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def tars(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.glob("*.tar"))


@leaves_files_open
def test_webdataset_reads_the_audio_tars(finished: Config) -> None:
    samples = list(webdataset.WebDataset(tars(finished.run / "audio"), shardshuffle=False))
    assert len(samples) == 64
    for sample in samples:
        info = json.loads(sample["json"])
        wave, rate_hz = soundfile.read(io.BytesIO(sample["flac"]))
        assert (len(wave), rate_hz) == (info["num_samples"], 22_050)


@leaves_files_open
def test_webdataset_reads_the_token_tars(finished: Config) -> None:
    urls = tars(finished.run / "tokens/default")
    blocks = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert sum(len(block["lengths.npy"]) for block in blocks) == 64
    for block in blocks:
        assert block["tokens.npy"].dtype == np.uint16
        assert block["tokens.npy"].shape == (block["lengths.npy"].sum(), 1)
        assert block["labels.npy"].shape == (block["counts.npy"].sum(),)
        assert len(block["keys.npy"]) == len(block["counts.npy"])


def test_zarr_reads_the_frames(finished: Config) -> None:
    group = zarr.open_group(finished.run / "frames.zarr", mode="r")
    arrays = [array for _, array in group.arrays()]
    assert len(arrays) == 8
    assert all(array.dtype == np.float16 and array.shape[1] == 64 for array in arrays)
    assert group.attrs["frames"]["n_fft"] == 1024


def test_parquet_and_arrow_read_the_rest(finished: Config) -> None:
    assert pq.read_table(finished.run / "plan.parquet").num_rows == 64
    parts = [pq.read_table(path) for path in sorted((finished.run / "index").iterdir())]
    assert pa.concat_tables(parts).num_rows == 64
    (index,) = (finished.run / "tokens/default").glob("index-*.arrow")
    with pa.memory_map(str(index)) as source:
        assert pa.ipc.open_file(source).read_all().num_rows == 8 * 5
    (codebook,) = (finished.run / "codebooks/default").glob("codebook-*.safetensors")
    centroids = load_file(codebook)["centroids"]
    assert centroids.shape == (1, 16, 64)
    assert pq.read_table(finished.run / "models/bag/scores.parquet").num_rows == 13
