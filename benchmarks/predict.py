"""`make bench NAME=predict`: how long one file takes, from its path to probabilities.

A file of 10 s, 44.1 kHz stereo WAV, with the model of configs/esc10.yaml, `bert`, and its codebook,
both of generated clips (speed does not hang on weights), on the CPU, in a process that has
predicted before. `ms` is the median over rounds of the median of a round. Beside it are the parts:
what the sandboxed decoder is asked, what decoding and frames take of that (measured by themselves),
tokens, and the model; and the same file under four codebooks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from configs.load import dump_config, load_config, merge
from configs.schema import Config

ROOT = Path(__file__).resolve().parent.parent
CLIPS, SECONDS, RATE_HZ = 48, 10.0, 44_100
WARM_UP = 10

Parts = Mapping[str, Callable[[], Any]]


def main() -> None:
    args = _arguments()
    sound = _sound(args.directory)
    parts: dict[str, Callable[[], Any]] = {}
    for codebooks in (1, 4):
        run = _run(args.directory, codebooks)
        parts |= _parts(run, sound, f", {codebooks} codebooks" if codebooks > 1 else "")
    took = _measured(parts, args.rounds, args.files)
    for name, rounds in took.items():
        spread = f"{min(rounds):.2f} to {max(rounds):.2f}"
        print(f"{name:<24}{statistics.median(rounds):>8.2f} ms  ({spread} in {args.rounds} rounds)")
    keys = {"ms": "all", "ms_codebooks4": "all, 4 codebooks", "decoder_ms": "decoder"}
    keys |= {"decode_ms": "  decoding", "frames_ms": "  frames"}
    keys |= {"tokens_ms": "tokens", "model_ms": "model"}
    found = {key: round(statistics.median(took[name]), 2) for key, name in keys.items()}
    print(json.dumps({"bench": "predict", **found, "rounds": args.rounds}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=30, help="in a round")
    parser.add_argument("--directory", type=Path, default=ROOT / "runs/bench/predict")
    return parser.parse_args()


def _sound(directory: Path) -> Path:
    path = directory / "sound.wav"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        time_s = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ
        swept_N = 0.3 * np.sin(2 * np.pi * (200 + 150 * time_s) * time_s)
        soundfile.write(path, swept_N[:, None] + random.normal(0, 0.02, (len(time_s), 2)), RATE_HZ)
    return path


def _run(directory: Path, codebooks: int) -> Path:
    """A run with the recipe's model on made clips."""
    run, clips = directory / f"codebooks{codebooks}", directory / "clips"
    file = directory / f"codebooks{codebooks}.yaml"
    if not clips.exists():
        _command("pipeline.synth", str(clips), "--clips", str(CLIPS), "--seconds", str(SECONDS))
    file.write_text(dump_config(_config(run, clips, codebooks)))
    for words in (("pipeline", "all"), ("train", "fit")):
        _command(*words, str(file))
    return run


def _config(run: Path, clips: Path, codebooks: int) -> Config:
    recipe = load_config(ROOT / "configs/esc10.yaml").model_dump(mode="json")
    demo = load_config(ROOT / "configs/demo.yaml").model_dump(mode="json")["source"]
    source = json.loads(json.dumps(demo).replace("data/demo", str(clips)))
    over = {
        "run": str(run),
        "split": {"folds": []},
        "codebook": {"codebooks": codebooks},
        "model": ["bert"],
        "train": {"epochs": 1, "device": "cpu"},
        "cluster": {"kind": "inline"},
    }
    tree = merge({**recipe, "source": source}, over)
    tree["models"]["bert"]["epochs"] = 1
    return Config.model_validate(tree)


def _command(*words: str) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", *words]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)


def _parts(run: Path, sound: Path, suffix: str) -> Parts:
    """Everything, and what it is made of, by name."""
    from pipeline.audio.decode import AudioFile, decode
    from pipeline.audio.frames import frames_of
    from train.predictor import load
    from train.windows import Cut

    predictor, config = load(run), load_config(run)
    listener, cut = predictor.listener, Cut.of(predictor.longest_s, True, None, None)
    heard = [one.frames_TM for one in listener.hear(str(sound), cut)]
    (frames_TM,) = heard
    assert frames_TM is not None
    tokens = predictor.quantiser.tokens_of([frames_TM])
    file = AudioFile(sound.read_bytes())
    waveform_N = decode(file, config.audio).waveform_N
    rate_hz = config.audio.sample_rate_hz
    parts: dict[str, Callable[[], Any]] = {
        "all": lambda: predictor(sound).scores,
        "decoder": lambda: [*listener.hear(str(sound), cut)],
        "  decoding": lambda: decode(file, config.audio),
        "  frames": lambda: frames_of(waveform_N, rate_hz, config.frames),
        "tokens": lambda: predictor.quantiser.tokens_of([frames_TM]),
        "model": lambda: predictor.scorer(tokens, [frames_TM]),
    }
    return {name + suffix: part for name, part in parts.items()}


def _measured(parts: Parts, rounds: int, files: int) -> dict[str, list[float]]:
    """The median milliseconds of every part in every round, in turns."""
    took: dict[str, list[float]] = {name: [] for name in parts}
    for part in parts.values():
        for _ in range(WARM_UP):
            part()
    for _ in range(rounds):
        for name, part in parts.items():
            took[name].append(statistics.median(_ms(part) for _ in range(files)))
    return took


def _ms(part: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    part()
    return 1000 * (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
