"""Audio files of any length as windows that a model can hear, each decoded as the stages do it.

Legend: T frames of a window, M bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from configs.errors import InputError
from configs.frames import FramesConfig
from configs.schema import AudioConfig
from pipeline.audio.clip import FramesTM
from pipeline.audio.limits import Window
from pipeline.audio.refusal import ClipRefused
from pipeline.audio.sandbox import Given, Sandbox
from pipeline.reading import ClipReader

SPARE_MS = 2  # what rounding to samples, twice, may add to a window
SPARE_S = 1e-6  # less than a sample of any file
SHORTEST_S, LONGEST_S = 0.001, 1e9
A_FILE = {"row_group": None, "offset": None, "member": None, "start_s": 0.0}
DEATHS = "decoder_"  # how reasons begin that cost a decoder, and seconds


@dataclass(frozen=True)
class Cut:
    """Files of up to `whole_s` are one window; longer ones have windows of `length_ms` every
    `hop_ms`, the last of which ends where the file does. None decodes to more than `limit_s`."""

    whole_s: float
    limit_s: float
    length_ms: int
    hop_ms: int

    @classmethod
    def of(
        cls, most_s: float, has_positions: bool, window_s: float | None, hop_s: float | None
    ) -> Self:
        """For a model whose longest clip could have had `most_s`, and which has no positions for
        more, or does not care; None: windows of that length, side by side.

        Raises InputError for lengths that are none, and windows that the model cannot hear.
        """
        for name, value in (("window", window_s), ("hop", hop_s)):
            if value is not None and not SHORTEST_S <= value <= LONGEST_S:
                raise InputError(f"a {name} of {value:g} s: give {SHORTEST_S:g} to {LONGEST_S:g}")
        whole_s = most_s if window_s is None else window_s
        if whole_s > most_s and has_positions:
            raise InputError(
                f"a window of {whole_s:g} s: the model has positions for {most_s:.3f} s, its "
                "longest training clip; give that or less: longer files are cut into windows"
            )
        length_ms = round(1000 * whole_s)
        if whole_s <= most_s:
            length_ms = max(1, min(length_ms, int(1000 * most_s) - SPARE_MS))
        limit_s = max(most_s, whole_s + SPARE_MS / 1000 if whole_s > most_s else 0.0)
        hop_ms = length_ms if hop_s is None else round(1000 * hop_s)
        return cls(whole_s, limit_s + SPARE_S, length_ms, hop_ms)

    def windows(self, duration_s: float | None) -> Iterator[tuple[float, float | None]]:
        """Where windows start and stop (None: at the file's end), in seconds. A file that does not
        say how long it is, is one window."""
        if duration_s is None or duration_s <= self.whole_s + SPARE_S:
            yield 0.0, None
            return
        last_ms = max(1, round(1000 * duration_s) - self.length_ms)
        for start_ms in range(0, last_ms, self.hop_ms):
            yield start_ms / 1000, (start_ms + self.length_ms) / 1000
        yield last_ms / 1000, None


@dataclass(frozen=True, eq=False)
class Heard:
    """A window of a file: its frames as stored, or why there are none."""

    file: str
    duration_s: float  # of the file
    start_s: float
    stop_s: float
    is_last: bool  # of the file
    frames_TM: FramesTM | None = None
    refusal: ClipRefused | None = None

    @property
    def is_deadly(self) -> bool:
        """Whether a decoder died of it: the rest of the file is not tried."""
        return self.refusal is not None and self.refusal.reason.startswith(DEATHS)


class Listener:
    """Decodes files, window by window, in a sandbox. Not for several threads at once."""

    def __init__(self, audio: AudioConfig, frames: FramesConfig) -> None:
        self.sandbox = Sandbox()
        self._audio, self._frames = audio, frames
        self._turn: object = None  # whose file the sandbox holds, of several that are heard

    def hear(self, file: str, cut: Cut) -> Iterator[Heard]:
        """The windows of a file, at least one."""
        path = Path(file)
        reader, turn = self._reader(path), object()
        self._turn = turn
        try:
            found = reader.read(_row(path), hashes=False)
            duration_s = self.sandbox.seconds(found.given)
        except ClipRefused as refusal:
            yield Heard(file, 0.0, 0.0, 0.0, is_last=True, refusal=refusal)
            return
        for start_s, stop_s in cut.windows(duration_s):
            if self._turn is not turn:  # another file was heard between two windows of this one
                reader, self._turn = self._reader(path), turn
            given = reader.read(_row(path), hashes=False).given
            heard = self._window(file, given, Window(start_s, stop_s, cut.limit_s), duration_s)
            yield heard
            if heard.is_deadly:
                return

    def _window(self, file: str, given: Given, window: Window, duration_s: float | None) -> Heard:
        start_s, is_last = window.start_s, window.end_s is None
        try:
            clip = self.sandbox.clip(given, window, self._audio, self._frames)
        except ClipRefused as refusal:
            stop_s = duration_s or 0.0 if window.end_s is None else window.end_s
            refusal = _explained(refusal, duration_s, window)
            heard = Heard(file, duration_s or 0.0, start_s, stop_s, is_last, None, refusal)
            return replace(heard, is_last=True) if heard.is_deadly else heard
        stop_s = start_s + clip.facts.source_samples / clip.facts.source_rate_hz
        whole_s = stop_s if is_last else (duration_s or 0.0)
        return Heard(file, whole_s, start_s, stop_s, is_last, clip.frames_TM)

    def _reader(self, path: Path) -> ClipReader:
        return ClipReader(str(path.parent.absolute()), self.sandbox.buffer)


def _row(path: Path) -> dict[str, Any]:
    """A file as its reader wants to be asked for it: for windows, of which it keeps the bytes."""
    return {**A_FILE, "path": path.name}


def _explained(refusal: ClipRefused, duration_s: float | None, window: Window) -> ClipRefused:
    """With what to do, where windows are what makes it hard."""
    reason, detail = refusal.reason, refusal.detail
    if reason == "too_long" and duration_s is None:
        detail = (
            f"over {window.max_clip_s:.3f} s, and it does not say how long it is, so that it "
            "cannot be cut into windows: convert it, as to FLAC"
        )
    elif reason == "decoder_hung" and window.start_s:
        detail += (
            f", {window.start_s:.0f} s from its start; formats as AAC and Opus are decoded from "
            "there for every window: convert it, as to FLAC"
        )
    return ClipRefused(reason, detail)
