"""A small data set in the layout of the Hub's AudioSet, and configs that read it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from configs.schema import Config
from shards.index import open_shards, read_index
from shards.layout import Layout

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


def write_hub(root: Path) -> None:
    """Three Parquet files of several row groups, three tars, and the lists beside them."""
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


def tar_config(hub: Path, root: Path, ids: list[str], **over: Any) -> Config:
    (root / "list.csv").write_text("".join(f'{i}, 0, 10, "/m/a"\n' for i in ids))
    config = config_of(hub, root / "run", "*.tar", **over)
    tree = config.model_dump(mode="json")
    tree["source"] |= {"root": str(root)}
    tree["source"]["sets"]["balanced"]["segments"] = str(root / "list.csv")
    return Config.model_validate(tree)
