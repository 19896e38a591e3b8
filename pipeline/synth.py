"""Generated clips with true labels: sounds that need no download and no licence.

`python -m pipeline.synth DIR` writes FLAC files and the lists that describe them in AudioSet's
own format, so that they go through the same source as AudioSet itself. Each clip layers one to
three sounds of different classes over faint noise, at random times, pitches and levels. The same
seed gives the same samples.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from configs.console import say

SAMPLE_RATE_HZ = 32_000
NOISE_FLOOR = 1e-3  # of full scale
FADE_S = 0.01

Wave = npt.NDArray[np.float64]
Random = np.random.Generator


def _time(seconds: float) -> Wave:
    return np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _log_uniform(random: Random, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _sine(phase_turns: Wave) -> Wave:
    return np.sin(2 * np.pi * phase_turns)


def _sweep(start_hz: float, stop_hz: float, seconds: float) -> Wave:
    """A sine whose frequency moves exponentially from start to stop."""
    frequency_hz = start_hz * (stop_hz / start_hz) ** (_time(seconds) / seconds)
    return _sine(np.cumsum(frequency_hz) / SAMPLE_RATE_HZ)


def _note(midi: float, seconds: float) -> Wave:
    """A plucked note: four harmonics, an exponential decay."""
    t = _time(seconds)
    frequency_hz = 440.0 * 2 ** ((midi - 69) / 12)
    harmonics = sum(_sine(n * frequency_hz * t) / n for n in range(1, 5))
    return np.asarray(harmonics) * np.exp(-4 * t / seconds)


def low_tone(random: Random, seconds: float) -> Wave:
    return _sine(_log_uniform(random, 120, 350) * _time(seconds))


def high_tone(random: Random, seconds: float) -> Wave:
    return _sine(_log_uniform(random, 2500, 6000) * _time(seconds))


def rising_chirp(random: Random, seconds: float) -> Wave:
    start_hz = _log_uniform(random, 200, 600)
    return _sweep(start_hz, start_hz * random.uniform(6, 12), seconds)


def falling_chirp(random: Random, seconds: float) -> Wave:
    return rising_chirp(random, seconds)[::-1]


def noise_burst(random: Random, seconds: float) -> Wave:
    return random.standard_normal(len(_time(seconds))) / 3


def rumble(random: Random, seconds: float) -> Wave:
    """Noise through a one-pole low-pass, done in the frequency domain."""
    spectrum = np.fft.rfft(random.standard_normal(len(_time(seconds))))
    frequency_hz = np.fft.rfftfreq(len(_time(seconds)), 1 / SAMPLE_RATE_HZ)
    wave = np.fft.irfft(spectrum / (1 + (frequency_hz / 120) ** 2), len(_time(seconds)))
    return np.asarray(wave / np.abs(wave).max())


def clicks(random: Random, seconds: float) -> Wave:
    wave = np.zeros(len(_time(seconds)))
    wave[:: int(SAMPLE_RATE_HZ / random.uniform(6, 14))] = 1.0
    return np.convolve(wave, np.exp(-np.arange(200) / 30), mode="same")


def tremolo(random: Random, seconds: float) -> Wave:
    """Amplitude modulation of a middle tone."""
    t = _time(seconds)
    envelope = 0.5 + 0.5 * _sine(random.uniform(4, 9) * t)
    return _sine(_log_uniform(random, 600, 1500) * t) * envelope


def siren(random: Random, seconds: float) -> Wave:
    """Frequency modulation of a middle tone."""
    t = _time(seconds)
    centre_hz, rate_hz = _log_uniform(random, 700, 1400), random.uniform(2, 5)
    return _sine(
        centre_hz * t - 0.3 * centre_hz * np.cos(2 * np.pi * rate_hz * t) / 2 / np.pi / rate_hz
    )


def melody(random: Random, seconds: float) -> Wave:
    """Notes of a pentatonic scale, one after another."""
    pitches = 60 + random.choice([0, 2, 4, 7, 9, 12], size=8)
    return np.concatenate([_note(midi, seconds / 8) for midi in pitches])


def chord(random: Random, seconds: float) -> Wave:
    root = int(random.integers(48, 60))
    return np.asarray(np.mean([_note(root + step, seconds) for step in (0, 4, 7)], axis=0))


def beeps(random: Random, seconds: float) -> Wave:
    """A pulsed tone."""
    t = _time(seconds)
    gate = (t * random.uniform(2, 4)) % 1 < 0.4
    return _sine(_log_uniform(random, 900, 2000) * t) * gate


SOUNDS: dict[str, Callable[[Random, float], Wave]] = {
    "Low tone": low_tone,
    "High tone": high_tone,
    "Rising chirp": rising_chirp,
    "Falling chirp": falling_chirp,
    "Noise burst": noise_burst,
    "Rumble": rumble,
    "Clicks": clicks,
    "Tremolo": tremolo,
    "Siren": siren,
    "Melody": melody,
    "Chord": chord,
    "Beeps": beeps,
}


@dataclass(frozen=True)
class MadeClip:
    """One generated clip: float64 [N, 2] in [-1, 1], and the numbers of its classes."""

    id: str
    samples_N2: Wave
    classes: tuple[int, ...]


def clip_id(seed: int, number: int) -> str:
    """Eleven characters, as a YouTube id."""
    return hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:11]


def make_clip(seed: int, number: int, seconds: float) -> MadeClip:
    """Clip `number` of a seed: one to three sounds, panned, over faint noise."""
    random = np.random.default_rng([seed, number])
    chosen = random.choice(len(SOUNDS), size=random.integers(1, 4), replace=False)
    samples_N2 = NOISE_FLOOR * random.standard_normal((len(_time(seconds)), 2))
    for number_of_class in chosen:
        wave = _placed(list(SOUNDS.values())[number_of_class], random, seconds)
        samples_N2[:, 0] += wave
        samples_N2[:, 1] += wave * random.uniform(0.3, 1.0)
    loudest = max(1.0, float(np.abs(samples_N2).max()))
    return MadeClip(clip_id(seed, number), samples_N2 / loudest, tuple(sorted(chosen.tolist())))


def _placed(sound: Callable[[Random, float], Wave], random: Random, seconds: float) -> Wave:
    """A sound at a random level (-20 to -3 dB), faded, somewhere in a silent clip."""
    wave = sound(random, random.uniform(0.4, 0.8) * seconds)
    ramp = np.minimum(1.0, np.arange(len(wave)) / (FADE_S * SAMPLE_RATE_HZ))
    wave = wave * ramp * ramp[::-1] * 10 ** (random.uniform(-20, -3) / 20)
    placed = np.zeros(len(_time(seconds)))
    start = random.integers(0, len(placed) - len(wave) + 1)
    placed[start : start + len(wave)] = wave
    return placed


def write_set(directory: Path, num_clips: int, seed: int, seconds: float) -> None:
    """Write clips and lists; the lists come last, so a set with lists is whole.

    Four of five clips go into `train_segments.csv`, the others into `eval_segments.csv`.
    """
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    for number in range(num_clips):
        clip = make_clip(seed, number, seconds)
        path = directory / "audio" / f"{clip.id}.flac"
        soundfile.write(path, clip.samples_N2, SAMPLE_RATE_HZ, subtype="PCM_16")
        mids = ",".join(f"/s/{c:02d}" for c in clip.classes)
        rows.append(f'{clip.id}, 0.000, {seconds:.3f}, "{mids}"')
    names = [f'{c},/s/{c:02d},"{name}"' for c, name in enumerate(SOUNDS)]
    _write(directory / "class_labels_indices.csv", ["index,mid,display_name", *names])
    for name, part in (("eval", rows[::5]), ("train", [r for n, r in enumerate(rows) if n % 5])):
        _write(directory / f"{name}_segments.csv", [*_comments(name, part, seed), *part])


def _comments(name: str, rows: Sequence[str], seed: int) -> list[str]:
    """The three comment lines that AudioSet's lists begin with."""
    return [
        f"# {name} segments generated by pipeline.synth, seed {seed}",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(SOUNDS)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]


def _write(path: Path, lines: Sequence[str]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.synth", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    stamp = args.directory / f"complete-{args.clips}-{args.seconds:g}s-seed{args.seed}"
    if stamp.exists():
        say(f"synth: {args.directory} holds these {args.clips} clips, nothing to do")
        return 0
    if any(args.directory.glob("complete-*")):
        say(f"error: {args.directory} holds a set made with other settings; give another DIR")
        return 2
    write_set(args.directory, args.clips, args.seed, args.seconds)
    stamp.touch()
    say(f"synth: {args.clips} clips of {args.seconds:g} s in {args.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
