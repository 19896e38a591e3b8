"""Path names of a run, in one place. docs/design.md draws the tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHA_CHARS = 12  # of a sha256, in file names


@dataclass(frozen=True)
class Layout:
    """Where everything lies under one run directory. Names only; nothing is read or made."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def partial(self) -> Path:
        """Files in the making, one directory an attempt; on the same file system as the rest."""
        return self.root / "partial"

    @property
    def damaged(self) -> Path:
        """What a repair moved out of the way, under the paths that it had."""
        return self.root / "damaged"

    @property
    def lock(self) -> Path:
        return self.root / "pipeline.lock"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def cluster(self) -> Path:
        """Keys, logs and reports of the cluster that works on the run."""
        return self.root / "cluster"

    @property
    def plan_table(self) -> Path:
        return self.root / "plan.parquet"

    @property
    def plan_json(self) -> Path:
        return self.root / "plan.json"

    @property
    def frames(self) -> Path:
        """The Zarr group that holds one array a shard."""
        return self.root / "frames.zarr"

    def statistics(self, sha256: str) -> Path:
        return self.root / f"statistics-{sha256[:SHA_CHARS]}.json"

    @property
    def seals(self) -> Path:
        return self.root / "seals"

    def commits(self, stage: str, name: str) -> Path:
        return self.root / "commits" / stage / name

    def audio_tar(self, shard: int, sha256: str) -> Path:
        return self.root / "audio" / f"audio-{shard:06d}-{sha256[:SHA_CHARS]}.tar"

    def frames_array(self, shard: int, sha256: str) -> Path:
        return self.frames / f"{shard:06d}-{sha256[:SHA_CHARS]}"

    def index_part(self, shard: int, sha256: str) -> Path:
        return self.root / "index" / f"part-{shard:06d}-{sha256[:SHA_CHARS]}.parquet"

    def codebook(self, name: str) -> Path:
        return self.root / "codebooks" / name

    def codebook_file(self, name: str, title: str, sha256: str) -> Path:
        """`title` is `codebook.safetensors`, `codebook.json` or `metrics.json`."""
        stem, _, kind = title.partition(".")
        return self.codebook(name) / f"{stem}-{sha256[:SHA_CHARS]}.{kind}"

    def codebook_work(self, name: str) -> Path:
        """What an unfinished one keeps."""
        return self.codebook(name) / "work"

    def token_tar(self, name: str, shard: int, sha256: str) -> Path:
        return self.root / "tokens" / name / f"tokens-{shard:06d}-{sha256[:SHA_CHARS]}.tar"

    def token_index(self, name: str, sha256: str) -> Path:
        return self.root / "tokens" / name / f"index-{sha256[:SHA_CHARS]}.arrow"

    def model(self, name: str) -> Path:
        return self.root / "models" / name

    def fit_lock(self, name: str) -> Path:
        """Who trains a model; of its own, because a driver may hold the run beside it."""
        return self.model(name) / "fit.lock"
