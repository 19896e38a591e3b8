"""Where a model comes from: its training, its codebook, the clips that there were, the versions."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from configs.load import dump_config
from configs.schema import Config
from pipeline.audio.refusal import REASONS
from shards.audit import JOURNAL_NAME
from shards.codebook import METRICS, codebook_file
from shards.commit import fingerprint, ids_sha256
from shards.index import open_shards, refusals
from shards.layout import Layout
from shards.stream.remote import without_secrets
from train.data import TokenData
from train.jobs import Job
from train.journal import Journal
from train.pages.scores import rounded

Json = dict[str, Any]
PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "pyarrow", "zarr", "faiss")
OTHER_NAMES = {"faiss": ("faiss-gpu", "faiss-cpu")}

MOST_STEPS = 2_000  # shown of a training


def training(job: Job) -> Json:
    """What was logged: steps, validations, and the gradients of the first and the last epoch."""
    records = Journal(job.directory / JOURNAL_NAME, job.partial).read()
    steps = [record for record in records if "loss" in record]
    flows = [record for record in records if "gradient_flow" in record]
    names = ("step", "loss", "lr", "grad_norm", "seconds", "waited_s", "padding_share")
    return {
        "steps": [
            [record[name] for name in names] for record in steps[:: 1 + len(steps) // MOST_STEPS]
        ],
        "valid": [
            [record["step"], record["valid_loss"], record["valid_map"]]
            for record in records
            if "valid_loss" in record
        ],
        "flows": _flows(flows),
    }


def _flows(records: list[Json]) -> list[Json]:
    """Mean size of a gradient's numbers, of every weight matrix in the order of the model."""
    chosen = records[:1] + records[-1:] if len(records) > 1 else records
    return [
        {
            "step": record["step"],
            "means": {
                name: mean
                for name, (mean, _) in record["gradient_flow"].items()
                if name.endswith("weight")
            },
        }
        for record in chosen
    ]


def codebook_use(job: Job, data: TokenData) -> Json:
    """How often tokens occur among the frames that the codebook was trained on, and where its
    centroids lie."""
    metrics = json.loads(codebook_file(job.layout, job.tokens, METRICS).read_bytes())
    books = [
        {name: use[name] for name in ("used", "dead", "perplexity", "top10_share", "counts")}
        for use in metrics["train"]["tokens"]
    ]
    return {
        "name": job.tokens,
        "k": data.codebook.k,
        "tokens_per_s": metrics["tokens_per_s"],
        "bits_per_s": metrics["bits_per_s"],
        "books": books,
        "map": [rounded(np.array(place)) for place in metrics["map"]],
    }


def quarantine(layout: Layout) -> Json:
    """How many clips there were, and which could not be used."""
    seal = open_shards(layout)
    return {
        "clips": seal.total("clips"),
        "decoded": seal.total("ok"),
        "reasons": [
            [group.reason, REASONS.get(group.reason, ""), group.count, list(group.examples)]
            for group in refusals(layout, seal.records)
        ],
    }


def origin(config: Config, job: Job, data: TokenData, ids: tuple[str, ...]) -> Json:
    """What would have to be the same for the same scores."""
    record = job.record()
    assert record is not None, "only committed models are reported"
    return {
        "config": without_secrets(dump_config(config)),
        "versions": {"Python": platform.python_version()} | _versions(),
        "fingerprints": {
            "clips (shards)": open_shards(job.layout).fingerprint,
            "tokens": data.source.fingerprint,
            "codebook": data.codebook_fingerprint,
            "model": fingerprint([vars(file) for file in record.files]),
            "ids of the clips scored": ids_sha256(sorted(ids)),
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        for package in OTHER_NAMES.get(name, (name,)):
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
    return found
