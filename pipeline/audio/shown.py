"""Clips on a page: their sound, their picture, and data that a page's script can hold."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.audio.sniff import sniff

LOWEST_DB, HIGHEST_DB = -60.0, 60.0  # of what pictures tell apart


def picture(frames_TM: npt.NDArray[np.floating]) -> dict[str, Any]:
    """Frames in dB as a byte a cell, base64: 0 at LOWEST_DB and below, 255 at HIGHEST_DB."""
    span_db = HIGHEST_DB - LOWEST_DB
    levels_TM = np.clip((frames_TM.astype(np.float64) - LOWEST_DB) * 255 / span_db, 0, 255)
    grid = b64encode(levels_TM.astype(np.uint8).tobytes()).decode()
    return {"frames": len(frames_TM), "grid": grid}


def data_url(audio: bytes) -> str:
    """An audio file as an address that holds it."""
    kind = sniff(audio)
    name = "flac" if kind is None else {"mp3": "mpeg"}.get(kind.name, kind.name)
    return f"data:audio/{name};base64,{b64encode(audio).decode()}"


def script_safe(data: dict[str, Any]) -> str:
    """JSON that nothing in it can end the script with."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
