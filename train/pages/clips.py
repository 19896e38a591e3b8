"""Clips on a page: what they are, how they sound and look, their tokens, and what is said of them.

Legend: N clips, T places, Q codebooks, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.errors import InputError
from configs.frames import FRAMES, FramesConfig, MfccFrames
from pipeline.audio.half import to_float32
from pipeline.audio.shown import data_url, picture
from shards.codebook import Codebook
from shards.layout import Layout
from shards.stream.audio import open_audio
from shards.stream.frames import open_frames
from train.batches import Rows
from train.data import TokenData
from train.ranking import Doubles

Json = dict[str, Any]
MOST_BYTES = 4 << 20  # of a clip's audio: a page must stay one that opens
TOP = 6  # classes that are said of a clip


def hop_s(codebook: Codebook) -> float:
    """Seconds from one token to the next."""
    rate_hz = codebook.sample_rate_hz
    return _frames_of(codebook).hop_samples(rate_hz) / rate_hz


def _bounds(codebook: Codebook) -> list[str]:
    """What the first and the last number of a frame are of."""
    frames = _frames_of(codebook)
    if isinstance(frames, MfccFrames):
        return ["coefficient 1", f"coefficient {frames.num_bins}"]
    high_hz = frames.f_max_hz or codebook.sample_rate_hz / 2
    return [f"{hz / 1000:.3g} kHz" for hz in (frames.f_min_hz, high_hz)]


def _frames_of(codebook: Codebook) -> FramesConfig:
    return FRAMES.validate_python(dict(codebook.frames))


def cards(layout: Layout, data: TokenData, rows: Rows, probabilities_NC: Doubles) -> list[Json]:
    """Of some clips, in their order: id, labels, the most probable classes, tokens [Q, T], and
    where the run has them frames and sound."""
    frames, sounds = _frames(layout, data, rows), _sounds(layout, data, rows)
    tokens = data.source.read(rows).clips()
    targets_NC = data.targets(rows)
    return [
        {
            "id": data.ids[row],
            "seconds": round(len(tokens[n]) * hop_s(data.codebook), 2),
            "labels": np.flatnonzero(targets_NC[n]).tolist(),
            "said": _said(probabilities_NC[n]),
            "tokens": tokens[n].T.tolist(),
            **frames[n],
            **sounds[n],
        }
        for n, row in enumerate(rows.tolist())
    ]


def _said(probabilities_C: Doubles) -> list[list[float]]:
    """The most probable classes, each with its probability."""
    top = np.argsort(-probabilities_C, kind="stable")[:TOP]
    return [[int(c), round(float(probabilities_C[c]), 4)] for c in top]


def _frames(layout: Layout, data: TokenData, rows: Rows) -> list[Json]:
    if data.config.remote is not None:  # where tokens alone are here
        return [{}] * len(rows)
    clips = open_frames(layout).read(rows).clips()
    between = _bounds(data.codebook)
    return [
        {**picture(to_float32(clip_TM)), "bands": clip_TM.shape[1], "bounds": between}
        for clip_TM in clips
    ]


def _sounds(layout: Layout, data: TokenData, rows: Rows) -> list[Json]:
    try:
        source = None if data.config.remote is not None else open_audio(layout)
    except InputError:  # the run kept none
        source = None
    if source is None:
        return [{}] * len(rows)
    items = source.read(rows).items
    return [{"audio": data_url(item)} if len(item) <= MOST_BYTES else {} for item in items]
