"""The codebook artefact: centroids and everything needed to use them rightly.

`codebooks/<name>/codebook.safetensors` holds the centroids; its JSON header, and the readable
`codebook.json` beside it, hold metric, front end, the settings of the frames and the fingerprint
of those that it was trained on. `metrics.json` holds what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from configs.errors import NotMadeYet
from configs.schema import MAX_K, CodebookConfig, SplitConfig
from shards.commit import StageLog, fingerprint
from shards.layout import Layout
from shards.seal import check_bytes

STAGE = "codebook"
FILE_NAME = "codebook.safetensors"


@dataclass(frozen=True)
class Codebook:
    """A vocabulary of sound: K centroids of D dimensions, float32.

    `metric` is `l2` or `cosine` (then centroids have unit length); `front_end` names what turns a
    clip's stored frames into the vectors to compare; `frames` and `sample_rate_hz` say what those
    frames are.
    """

    centroids_KD: npt.NDArray[np.float32]
    metric: str
    front_end: str
    frames: Mapping[str, Any]
    sample_rate_hz: int
    frames_fingerprint: str

    def __post_init__(self) -> None:
        if not np.isfinite(self.centroids_KD).all():
            raise ValueError("a codebook's centroids must be finite")
        if not 2 <= self.k <= MAX_K:
            raise ValueError(f"a codebook has 2 to {MAX_K} centroids, not {self.k}")

    @property
    def k(self) -> int:
        return len(self.centroids_KD)

    def header(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "metric": self.metric,
            "front_end": self.front_end,
            "frames": dict(self.frames),
            "sample_rate_hz": self.sample_rate_hz,
            "trained_on": self.frames_fingerprint,
        }

    def to_bytes(self) -> bytes:
        """The safetensors file."""
        header = {"codebook": json.dumps(self.header(), sort_keys=True)}
        return save({"centroids": np.ascontiguousarray(self.centroids_KD)}, header)


def codebook_names(config: CodebookConfig, split: SplitConfig) -> list[tuple[str, int | None]]:
    """The (name, fold) of every codebook of a job: one, or one a fold.

    Token sets and models carry the name on: `default`, `k5000`, `fold1`, `k5000-fold1`.
    """
    if not split.folds:
        return [(config.name, None)]
    prefix = "" if config.name == "default" else f"{config.name}-"
    return [(f"{prefix}fold{fold}", fold) for fold in split.folds]


def load_codebook(path: Path) -> Codebook:
    """Read a codebook file."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["codebook"])
        centroids_KD = file.get_tensor("centroids")
    return Codebook(
        centroids_KD=centroids_KD,
        metric=header["metric"],
        front_end=header["front_end"],
        frames=header["frames"],
        sample_rate_hz=header["sample_rate_hz"],
        frames_fingerprint=header["trained_on"],
    )


def open_codebook(layout: Layout, name: str) -> tuple[Codebook, str]:
    """A run's committed codebook and its fingerprint.

    Raises NotMadeYet before `codebook` has finished, IntegrityError where the file changed.
    """
    record = StageLog(layout, STAGE, name).record(0)
    if record is None:
        raise NotMadeYet(
            f"{layout.root}: no codebook {name}; run `python -m pipeline codebook` first"
        )
    for file in record.files:
        check_bytes(layout.root, file)
    codebook = load_codebook(layout.codebook(name) / FILE_NAME)
    return codebook, fingerprint_of(codebook)


def fingerprint_of(codebook: Codebook) -> str:
    """Hash of the centroids and of all that decides how they are used."""
    centroids = fingerprint(codebook.centroids_KD.astype("<f4").tobytes().hex())
    return fingerprint({**codebook.header(), "centroids": centroids})
