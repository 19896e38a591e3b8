"""The codebook artefact: centroids and everything needed to use them rightly.

`codebooks/<name>/codebook-<sha12>.safetensors` holds the centroids, what the front end was fitted
to, and the frame that each token stands for; its JSON header, and the readable
`codebook-<sha12>.json` beside it, hold metric, front end, the settings of the frames and the
fingerprint of those that it was trained on. `metrics-<sha12>.json` holds what was measured. The
commit record says which files they are.

Legend: Q codebooks, K centroids in each, D numbers in a centroid, V tokens (K, and one for
silence where that is masked), M numbers in a frame.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from configs.codebook import MAX_K, CodebookConfig
from configs.errors import NotMadeYet, RecipeMismatch
from configs.schema import SplitConfig
from shards.commit import CURE, StageLog, canonical_json, differences, fingerprint
from shards.layout import Layout
from shards.seal import check_bytes

STAGE = "codebook"
FORMAT = 3
TENSORS, HEADER, METRICS = "codebook.safetensors", "codebook.json", "metrics.json"
STANDS_FOR = "token_frames"  # the tensor that decides no token
FRONT_END = "front_end."  # before the names of its tensors
SHOWN_CHARS = 12

Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Codebook:
    """A vocabulary of sound: Q codebooks of K centroids of D numbers, float32.

    Args:
        centroids_QKD: under metric `cosine` of unit length.
        metric: `l2` or `cosine`.
        front_end: what turns a clip's stored frames into the vectors to compare.
        frames, sample_rate_hz: what the stored frames are.
        frames_fingerprint: of those that it was trained on.
        combine: `product` (each codebook covers a part of the vector) or `residual` (each what
            those before left over).
        token_frames_QVM: the frame, in dB as stored, that tokens stand for: the sum over codebooks.
        front_end_tensors: what the front end was fitted to.
    """

    centroids_QKD: Floats
    metric: str
    front_end: Mapping[str, Any]
    frames: Mapping[str, Any]
    sample_rate_hz: int
    frames_fingerprint: str
    combine: str = "product"
    token_frames_QVM: Floats = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    front_end_tensors: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not np.isfinite(self.centroids_QKD).all():
            raise ValueError("a codebook's centroids must be finite")
        if not 2 <= self.k <= MAX_K:
            raise ValueError(f"a codebook has 2 to {MAX_K} centroids, not {self.k}")

    @property
    def k(self) -> int:
        """Centroids in each codebook."""
        return int(self.centroids_QKD.shape[1])

    @property
    def num_codebooks(self) -> int:
        """Tokens a frame."""
        return len(self.centroids_QKD)

    @property
    def terms_QKN(self) -> Floats:  # noqa: N802
        """The centroids as terms that add up to whole vectors of N numbers: under `product` each
        beside zeros for the parts that other codebooks cover."""
        if self.combine == "residual":
            return self.centroids_QKD
        num_codebooks, k, width = self.centroids_QKD.shape
        terms_QKQD = np.zeros((num_codebooks, k, num_codebooks, width), dtype=np.float32)
        for number, centroids_KD in enumerate(self.centroids_QKD):
            terms_QKQD[number, :, number] = centroids_KD
        return terms_QKQD.reshape(num_codebooks, k, num_codebooks * width)

    @property
    def silence_token(self) -> int | None:
        """What a masked frame has, in every codebook; None where silence is not masked."""
        return None if self.front_end.get("mask_below_db") is None else self.k

    @property
    def vocabulary(self) -> int:
        """Tokens that each codebook has, that of silence included."""
        return self.k + (self.silence_token is not None)

    def refuse_others(self, frames_fingerprint: str, what: str) -> None:
        """Raises RecipeMismatch unless it was trained on the frames of that fingerprint."""
        if self.frames_fingerprint != frames_fingerprint:
            there, here = self.frames_fingerprint[:SHOWN_CHARS], frames_fingerprint[:SHOWN_CHARS]
            raise RecipeMismatch(
                what,
                [f"trained on: frames {there} there, {here} now"],
                "It is of another store, or of this one before it was made anew: make it again, "
                "under another codebook.name.",
            )

    def header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "k": self.k,
            "codebooks": self.num_codebooks,
            "combine": self.combine,
            "metric": self.metric,
            "front_end": dict(self.front_end),
            "frames": dict(self.frames),
            "sample_rate_hz": self.sample_rate_hz,
            "trained_on": self.frames_fingerprint,
        }

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        fitted = {f"{FRONT_END}{name}": array for name, array in self.front_end_tensors.items()}
        tensors = {"centroids": self.centroids_QKD, STANDS_FOR: self.token_frames_QVM, **fitted}
        return {name: np.ascontiguousarray(array) for name, array in tensors.items()}

    def to_bytes(self) -> bytes:
        """The safetensors file."""
        header = {"codebook": json.dumps(self.header(), sort_keys=True)}
        return save(self.tensors(), header)


def codebook_names(config: CodebookConfig, split: SplitConfig) -> list[tuple[str, int | None]]:
    """The (name, fold) of every codebook of a job: one, or one a fold.

    Token sets and models carry the name on: `default`, `k5000`, `fold1`, `k5000-fold1`.
    """
    if not split.folds:
        return [(config.name, None)]
    prefix = "" if config.name == "default" else f"{config.name}-"
    return [(f"{prefix}fold{fold}", fold) for fold in split.folds]


def fold_of(name: str) -> tuple[str, int] | None:
    """What `codebook_names` made the name of a fold from; None for another name."""
    found = re.fullmatch(r"(?:(.+)-)?fold(\d+)", name)
    return None if found is None else (found[1] or "default", int(found[2]))


def load_codebook(path: Path) -> Codebook:
    """Read a codebook file; raises NotMadeYet for one of an earlier format."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["codebook"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if header.get("format") != FORMAT:
        raise NotMadeYet(_of_another_format(str(path)))
    return Codebook(
        centroids_QKD=tensors["centroids"],
        metric=header["metric"],
        front_end=header["front_end"],
        frames=header["frames"],
        sample_rate_hz=header["sample_rate_hz"],
        frames_fingerprint=header["trained_on"],
        combine=header["combine"],
        token_frames_QVM=tensors[STANDS_FOR],
        front_end_tensors={
            name.removeprefix(FRONT_END): array
            for name, array in tensors.items()
            if name.startswith(FRONT_END)
        },
    )


def codebook_file(layout: Layout, name: str, title: str) -> Path:
    """A committed codebook's file: TENSORS, HEADER or METRICS.

    Raises NotMadeYet before `codebook` has finished, IntegrityError where the file changed.
    """
    record = StageLog(layout, STAGE, name).record(0)
    if record is None:
        raise NotMadeYet(
            f"{layout.root}: no codebook {name}; run `python -m pipeline codebook` first"
        )
    for file in record.files:
        if layout.root / file.path == layout.codebook_file(name, title, file.sha256):
            check_bytes(layout.root, file)
            return layout.root / file.path
    raise NotMadeYet(_of_another_format(f"{layout.root}: codebook {name}"))


def _of_another_format(what: str) -> str:
    return (
        f"{what}: is of another format than {FORMAT}, this version's: make it again, in another "
        "run=DIR or under another codebook.name"
    )


def open_codebook(layout: Layout, name: str) -> tuple[Codebook, str]:
    """A run's committed codebook and its fingerprint; raises what `codebook_file` does."""
    codebook = load_codebook(codebook_file(layout, name, TENSORS))
    return codebook, fingerprint_of(codebook)


def asked_for(config: CodebookConfig) -> dict[str, Any]:
    """What of a config's section decides a codebook."""
    return config.model_dump(mode="json", exclude={"device", "name"})


def refuse_another(layout: Layout, name: str, config: CodebookConfig) -> None:
    """Raises RecipeMismatch where a run's codebook was made with other settings than a config's:
    what is made or said of its tokens would pass for another one's."""
    recipe = StageLog(layout, STAGE, name).recipe()
    asked = json.loads(canonical_json(asked_for(config)))
    if recipe is not None and recipe.get("codebook") != asked:
        found = differences(recipe.get("codebook"), asked, "codebook")
        raise RecipeMismatch(f"{layout.root}: codebook {name}", found, CURE)


def fingerprint_of(codebook: Codebook) -> str:
    """Hash of all that decides tokens."""
    tensors = {
        name: [array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
        for name, array in codebook.tensors().items()
        if name != STANDS_FOR
    }
    return fingerprint({**codebook.header(), "tensors": tensors})
