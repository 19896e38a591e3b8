"""The tokenize stage: every decoded clip becomes its sequence of tokens, in block shards.

Shard k of the tokens holds the clips of shard k of the frames, in the same order. A clip's tokens
depend on its own frames and the codebook only: alone, in a batch and in the stage they are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.launch import OpenClient
from configs.schema import Config
from pipeline.audio.choose import choose_engine
from pipeline.audio.quantise import Quantiser, TokensTQ
from pipeline.stage import Stage, run_shards
from shards.atomic import Attempt
from shards.codebook import codebook_names, open_codebook
from shards.commit import CommitRecord, FileRecord, StageLog, Written, ids_sha256
from shards.frames import FramesTM, read_shard_frames
from shards.index import check_settings, decoded, open_shards, read_shard_index
from shards.layout import Layout
from shards.seal import Seal, write_seal
from shards.tokens import (
    BLOCK_CLIPS,
    STAGE,
    Block,
    index_table,
    recipe,
    write_index,
    write_token_tar,
)


@dataclass(frozen=True)
class TokenizeTask:
    """All that a worker needs to tokenise one shard."""

    root: Path
    name: str
    source: CommitRecord  # of the shard's frames
    fingerprint: str
    first_block: int
    device: str

    @property
    def shard(self) -> int:
        return self.source.shard

    @property
    def title(self) -> str:
        return f"{STAGE} {self.name} {self.shard:06d}"


def run(config: Config, layout: Layout, client: OpenClient) -> None:
    """Tokenise and seal the clips under every codebook of the job."""
    seal = open_shards(layout)
    check_settings(seal, config)
    for name, _ in codebook_names(config.codebook, config.split):
        codebook, codebook_fingerprint = open_codebook(layout, name)
        codebook.refuse_others(seal.fingerprint, f"{layout.root}: codebook {name}")
        log = StageLog(layout, STAGE, name)
        fingerprint = log.open(recipe(seal.fingerprint, codebook_fingerprint))
        tasks = _tasks(seal, name, fingerprint, config.codebook.device)
        stage = Stage(log, fingerprint, tokenize_shard)
        records = run_shards(stage, tasks, config.cluster, client)
        write_seal(log, records, {"index": _write_index(log, records)})


def _tasks(seal: Seal, name: str, fingerprint: str, device: str) -> list[TokenizeTask]:
    """One task a shard; block numbers count through, as if every shard were full."""
    most_clips = max(record.counts["clips"] for record in seal.records)
    blocks_per_shard = -(-most_clips // BLOCK_CLIPS)
    root = seal.layout.root.absolute()  # a worker may stand in another directory
    return [
        TokenizeTask(root, name, record, fingerprint, record.shard * blocks_per_shard, device)
        for record in seal.records
    ]


def tokenize_shard(task: TokenizeTask) -> CommitRecord:
    """Tokenise and commit one shard, or return its record if it is committed. Runs on workers."""
    layout = Layout(task.root)
    log = StageLog(layout, STAGE, task.name)
    existing = log.made(task.shard, task.fingerprint)
    if existing is not None:
        return existing
    codebook, _ = open_codebook(layout, task.name)
    width = codebook.centroids_QKD.shape[2]
    quantiser = Quantiser(codebook, choose_engine(codebook.k, width, task.device).build)
    source = task.source
    rows = decoded(read_shard_index(layout, source)).to_pylist()
    frames_TM = read_shard_frames(layout, source)
    tokens = quantiser.tokens_of([_frames_of(row, frames_TM) for row in rows])
    with Attempt(layout.partial, f"{STAGE}-{task.name}-{task.shard:06d}") as attempt:
        blocks = _blocks(rows, tokens, task.first_block)
        arrays = write_token_tar(attempt.path("tokens.tar"), blocks)
        tar = Written.of(attempt, "tokens.tar")
        file = tar.publish(layout.root, layout.token_tar(task.name, task.shard, tar.sha256))
    return log.commit(_record(task, rows, tokens, file, arrays))


def _frames_of(row: dict[str, Any], frames_TM: FramesTM) -> FramesTM:
    return frames_TM[row["row_start"] : row["row_start"] + row["num_frames"]]


def _blocks(
    rows: Sequence[dict[str, Any]], tokens: Sequence[TokensTQ], first_block: int
) -> list[Block]:
    starts = range(0, len(rows), BLOCK_CLIPS)
    return [
        _block(
            first_block + number,
            rows[start : start + BLOCK_CLIPS],
            tokens[start : start + BLOCK_CLIPS],
        )
        for number, start in enumerate(starts)
    ]


def _block(number: int, rows: Sequence[dict[str, Any]], tokens: Sequence[TokensTQ]) -> Block:
    return Block(
        number=number,
        tokens_SQ=np.concatenate(tokens),
        keys=[row["key"] for row in rows],
        lengths=np.array([len(clip) for clip in tokens], dtype=np.int32),
        labels=[row["labels"] for row in rows],
    )


def _record(
    task: TokenizeTask,
    rows: Sequence[dict[str, Any]],
    tokens: Sequence[TokensTQ],
    file: FileRecord,
    arrays: list[dict[str, Any]],
) -> CommitRecord:
    return CommitRecord(
        stage=STAGE,
        name=task.name,
        shard=task.shard,
        fingerprint=task.fingerprint,
        counts={"clips": len(rows), "tokens": sum(clip.size for clip in tokens)},
        ids_sha256=ids_sha256(row["id"] for row in rows),
        files=(file,),
        detail={"arrays": arrays},
    )


def _write_index(log: StageLog, records: Sequence[CommitRecord]) -> FileRecord:
    """Publish the memory-mapped index of the whole set."""
    with Attempt(log.layout.partial, f"index-{log.name}") as attempt:
        write_index(attempt.path("index.arrow"), index_table(records))
        index = Written.of(attempt, "index.arrow")
        return index.publish(log.layout.root, log.layout.token_index(log.name, index.sha256))
