"""`make bench NAME=ingest`: CPU time from 48 kHz, 24-bit FLAC to committed log-mel frames.

All sides take the same clips in turn, for several rounds, each time in a new process with one
thread on one core (what a process has allocated and freed changes the time of the next side), and
hash every file that they read. The floor is decoding by soundfile, and hashing. The peer is what
most people write: torchaudio's load, a new Resample of all channels and a new MelSpectrogram a
file, np.save (`--peer-decoder soundfile` gives it the faster decoder where torchcodec is missing).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from configs.frames import MelFrames
from configs.schema import AudioConfig
from pipeline.synth import write_set

ROOT = Path(__file__).resolve().parent.parent
ESC10 = ROOT / "../shared/data/esc10"
RATE_HZ, CLIP_S = 48_000, 10

Side = Callable[[list[Path], Path], float]


def make_clips(directory: Path, count: int) -> list[Path]:
    """Stereo clips of 10 s, 48 kHz, 24 bits, each channel two ESC-10 recordings end to end (or
    generated ones)."""
    sources = sorted(ESC10.rglob("*.ogg"))
    if not sources:
        write_set(directory / "synth", 64, seed=3, seconds=5.0)
        sources = sorted((directory / "synth").rglob("*.flac"))
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(sources)), 4 * count))
    for number in range(count):
        parts = [_five_seconds(sources[place]) for place in order[4 * number : 4 * number + 4]]
        audio = np.stack([np.concatenate(parts[:2]), np.concatenate(parts[2:])], axis=1)
        path = directory / "audio" / f"clip{number:05d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(audio, -1, 1 - 2**-23), RATE_HZ, subtype="PCM_24")
    return sorted((directory / "audio").glob("*.flac"))


def _five_seconds(path: Path) -> np.ndarray:
    audio, rate_hz = soundfile.read(path, dtype="float64", always_2d=True)
    audio = soxr.resample(audio.mean(axis=1), rate_hz, RATE_HZ, "VHQ")
    return np.resize(audio, 5 * RATE_HZ)


# --- sides: CPU seconds for all clips ------------------------------------------------------------


def floor(clips: list[Path], _: Path) -> float:
    """libsndfile's decoder and sha256, and nothing else."""
    began_s = time.process_time()
    for path in clips:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return time.process_time() - began_s


def naive(clips: list[Path], work: Path) -> float:
    """What most people write, with torchaudio."""
    import torchaudio
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram, Resample

    began_s = time.process_time()
    for path in clips:
        hashlib.sha256(path.read_bytes()).hexdigest()
        waveform_CN, rate_hz = torchaudio.load(path)  # from the bytes at hand it is slower
        waveform_1N = Resample(rate_hz, 22_050)(waveform_CN).mean(dim=0, keepdim=True)
        mel_1MT = MelSpectrogram(22_050, n_fft=1024, hop_length=512, n_mels=64)(waveform_1N)
        np.save(work / f"{path.stem}.npy", AmplitudeToDB()(mel_1MT)[0].numpy())
    return time.process_time() - began_s


def naive_soundfile(clips: list[Path], work: Path) -> float:
    """The same with soundfile as the decoder."""
    import torch
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram, Resample

    began_s = time.process_time()
    for path in clips:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        samples_NC, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        waveform_CN = torch.from_numpy(samples_NC.T.copy())
        waveform_1N = Resample(rate_hz, 22_050)(waveform_CN).mean(dim=0, keepdim=True)
        mel_1MT = MelSpectrogram(22_050, n_fft=1024, hop_length=512, n_mels=64)(waveform_1N)
        np.save(work / f"{path.stem}.npy", AmplitudeToDB()(mel_1MT)[0].numpy())
    return time.process_time() - began_s


def ours(store: str) -> Side:
    """The shard stage's task as a worker runs it, its decoder process counted in."""

    def side(clips: list[Path], work: Path) -> float:
        from pipeline.audio.sandbox import own_sandbox
        from pipeline.shard_task import ShardTask, make_shard
        from shards import plan as plans
        from shards.layout import Layout

        run = Path(tempfile.mkdtemp(dir=work))
        layout = Layout(run)
        _freeze(layout, clips)
        audio = AudioConfig.model_validate({"store": store})
        task = ShardTask(run, 0, "", str(clips[0].parent), {}, 60.0, audio, MelFrames())
        sandbox = own_sandbox()
        before_s = time.process_time() + sandbox.cpu_s()
        record = make_shard(task)
        used_s = time.process_time() + sandbox.cpu_s() - before_s
        assert record.counts["ok"] == len(clips) == plans.load(layout).num_clips
        shutil.rmtree(run)
        return used_s

    return side


def _freeze(layout: object, clips: list[Path]) -> None:
    from configs.schema import ShardsConfig
    from shards import plan as plans
    from shards.layout import Layout
    from shards.plan import Catalogue, ClassName, clip_table

    assert isinstance(layout, Layout)
    table = clip_table(
        len(clips), {"id": [path.stem for path in clips], "path": [path.name for path in clips]}
    )
    catalogue = Catalogue(table, (ClassName("a", "a"),), "multiclass")
    plans.freeze(layout, catalogue, {}, ShardsConfig(clips_per_shard=len(clips), min_shards=1))


def parts(clips: list[Path]) -> dict[str, float]:
    """Where our milliseconds go, per clip: the steps one by one, without the sandbox."""
    from pipeline.audio import decode
    from pipeline.audio.decode import AudioFile, resample
    from pipeline.audio.encode import flac_bytes
    from pipeline.audio.frames import frames_of
    from shards.frames import encode_frames

    spent: dict[str, float] = {}
    frames = []

    def timed(name: str, began_s: float) -> float:
        now_s = time.process_time()
        spent[name] = spent.get(name, 0.0) + now_s - began_s
        return now_s

    for path in clips:
        mark_s = time.process_time()
        data = path.read_bytes()
        mark_s = timed("read", mark_s)
        hashlib.sha256(data).hexdigest()
        mark_s = timed("sha256", mark_s)
        samples = decode.read(AudioFile(data))
        mark_s = timed("decode to mono", mark_s)
        waveform_N = resample(samples.mono_N, samples.rate_hz, 22_050)
        mark_s = timed("resample", mark_s)
        frames.append(frames_of(waveform_N, 22_050, MelFrames()).astype(np.float16))
        mark_s = timed("log-mel", mark_s)
        flac_bytes(waveform_N, 22_050)
        timed("flac (store)", mark_s)
    mark_s = time.process_time()
    encode_frames(np.concatenate(frames))
    timed("zarr", mark_s)
    return {name: 1000 * seconds / len(clips) for name, seconds in spent.items()}


# --- the comparison -------------------------------------------------------------------------------

PARTS = "ours, part by part"
SIDES: dict[str, Side] = {
    "floor": floor,
    "naive (torchaudio)": naive,
    "naive (soundfile)": naive_soundfile,
    "ours (store: none)": ours("none"),
    "ours (store: flac)": ours("flac"),
    "ours (store: source)": ours("source"),
}


def measure(name: str, clips: list[Path], work: Path) -> None:
    """One side once, after a few clips to warm up; prints its CPU milliseconds a clip."""
    if name == PARTS:
        parts(clips[:4])
        print(json.dumps(parts(clips)))
        return
    if name.startswith("naive"):
        import torch

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
    side = SIDES[name]
    side(clips[:4], work)
    print(json.dumps({name: 1000 * side(clips, work) / len(clips)}))


def _measured(name: str, directory: Path) -> dict[str, float]:
    from pipeline.audio.sandbox import CHILD_ENVIRONMENT

    command = [sys.executable, "-m", "benchmarks.ingest", "--measure", name, str(directory)]
    environment = {**os.environ, **(CHILD_ENVIRONMENT if name == PARTS else {})}
    process = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    result: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="48 kHz FLAC to committed frames")
    parser.add_argument("--clips", type=int, default=240)  # a shard of AudioSet: 1,024
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-decoder", choices=["torchaudio", "soundfile"], default=None)
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "DIRECTORY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    _one_core()
    if args.measure:
        name, directory = args.measure
        with tempfile.TemporaryDirectory() as work:
            measure(name, sorted(Path(directory).glob("*.flac")), Path(work))
        return 0
    decoder = args.peer_decoder or ("torchaudio" if _torchaudio_loads() else "soundfile")
    sides = [name for name in SIDES if not name.startswith("naive") or decoder in name]
    with tempfile.TemporaryDirectory() as work:
        make_clips(Path(work), args.clips)
        audio = Path(work, "audio")
        rounds = [
            {name: _measured(name, audio)[name] for name in sides} for _ in range(args.rounds)
        ]
        spent = _measured(PARTS, audio)
    return _print(rounds, spent, decoder)


def _one_core() -> None:
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _torchaudio_loads() -> bool:
    code = "import torchaudio, torchcodec.decoders"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def _print(rounds: list[dict[str, float]], spent: dict[str, float], decoder: str) -> int:
    times = {name: [one[name] for one in rounds] for name in rounds[0]}
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"CPU ms a clip of {CLIP_S} s, medians of {len(rounds)} rounds; {_circumstances()}")
    for name, values in times.items():
        print(f"{name:<24}{medians[name]:8.2f}   {min(values):.2f} to {max(values):.2f}")
    print(f"{PARTS}: " + ", ".join(f"{name} {ms:.2f}" for name, ms in spent.items()))
    own = medians["ours (store: none)"]
    print(
        json.dumps(
            {
                "bench": "ingest",
                "vs_naive_torchaudio": round(medians[f"naive ({decoder})"] / own, 3),
                "vs_floor": round(own / medians["floor"], 3),
                "ms_per_clip": round(own, 2),
                "flac_ms_more": round(medians["ours (store: flac)"] - own, 2),
                "peer_decoder": decoder,
            }
        )
    )
    return 0


def _circumstances() -> str:
    """What changes the figures, and is not ours to choose."""
    from pipeline.audio import libflac

    flac = "libFLAC" if libflac.is_there() else "libsndfile (this machine has no libFLAC)"
    return f"FLAC by {flac}"


if __name__ == "__main__":
    sys.exit(main())
