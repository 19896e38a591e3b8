"""Real frames for the benchmarks of K-means: log-mel of ESC-10 at hop 128, in dB as stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from configs.frames import MelFrames
from pipeline.audio.frames import frames_of
from pipeline.synth import write_set

ROOT = Path(__file__).resolve().parent.parent
ESC10 = ROOT / "../shared/data/esc10"
RATE_HZ, HOP = 22_050, 128
HELD_OUT = 10  # every tenth clip

FramesNM = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frames:
    """Frames of training clips, shuffled, and of held-out clips, [N, 64] float32 dB."""

    train_NM: FramesNM
    holdout_NM: FramesNM


def esc_frames(directory: Path) -> Frames:
    """345,331 frames of 400 clips, a tenth of them digital silence; kept in a directory. Where
    ESC-10 is absent, generated clips stand in."""
    path = directory / "esc_frames.npz"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        clips = [_log_mel(file) for file in _files(directory)]
        numbers = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
        np.savez(path, frames=np.concatenate(clips), clips=numbers)
    with np.load(path) as kept:
        frames_NM, held_N = kept["frames"].astype(np.float32), kept["clips"] % HELD_OUT == 0
    order = np.random.default_rng(0).permutation(int((~held_N).sum()))
    return Frames(frames_NM[~held_N][order], frames_NM[held_N])


def _files(directory: Path) -> list[Path]:
    files = sorted(ESC10.rglob("*.ogg"))
    if not files:
        write_set(directory / "synth", 400, seed=3, seconds=5.0)
        files = sorted((directory / "synth").rglob("*.flac"))
    return files


def _log_mel(path: Path) -> npt.NDArray[np.float16]:
    audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    waveform_N = soxr.resample(audio.mean(axis=1), rate_hz, RATE_HZ)
    frames_TM = frames_of(waveform_N, RATE_HZ, MelFrames(hop_length=HOP))
    return np.asarray(frames_TM, dtype=np.float16)
