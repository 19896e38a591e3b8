"""Kinds of frames: chosen by the config, which says what is wrong with it in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from configs.errors import ConfigError
from configs.frames import FbankFrames, FramesConfig, MelFrames, MfccFrames
from configs.load import load_config
from pipeline.audio.fbank import fbank
from pipeline.audio.frames import check_filters, frames_of, most_samples
from pipeline.audio.mel import log_mel, mfcc

ADAPTER: TypeAdapter[FramesConfig] = TypeAdapter(FramesConfig)
WAVEFORM_N = np.random.default_rng(0).normal(0, 0.1, 22_050).astype(np.float32)


@pytest.mark.parametrize(
    ("config", "function"),
    [(MelFrames(), log_mel), (MfccFrames(), mfcc), (FbankFrames(kind="fbank"), fbank)],
)
def test_the_kind_decides_what_a_frame_is(config: FramesConfig, function: Any) -> None:
    frames_TM = frames_of(WAVEFORM_N, 22_050, config)
    assert frames_TM.tobytes() == function(WAVEFORM_N, 22_050, config).tobytes()
    assert frames_TM.shape[1] == config.num_bins
    assert frames_TM.dtype == np.float32


@pytest.mark.parametrize("config", [MelFrames(), MfccFrames(), FbankFrames(kind="fbank")])
@pytest.mark.parametrize("num_frames", [3, 40])
def test_the_longest_waveform_of_so_many_frames(config: FramesConfig, num_frames: int) -> None:
    most = most_samples(num_frames, 22_050, config)
    assert len(frames_of(WAVEFORM_N[:most], 22_050, config)) == num_frames
    assert len(frames_of(WAVEFORM_N[: most + 1], 22_050, config)) == num_frames + 1


@pytest.mark.parametrize("config", [MelFrames(), MfccFrames(), FbankFrames(kind="fbank")])
def test_a_second_holds_as_many_frames_as_hops(config: FramesConfig) -> None:
    waveform_N = np.tile(WAVEFORM_N, 10)
    num_frames = len(frames_of(waveform_N, 22_050, config))
    assert abs(num_frames - len(waveform_N) / config.hop_samples(22_050)) <= 3


@pytest.mark.parametrize(
    ("tree", "kind"),
    [({}, MelFrames), ({"kind": "mfcc"}, MfccFrames), ({"kind": "fbank"}, FbankFrames)],
)
def test_a_section_without_a_kind_is_log_mel(tree: dict[str, Any], kind: type) -> None:
    config = ADAPTER.validate_python(tree)
    assert type(config) is kind
    assert ADAPTER.validate_python(config.model_dump(mode="json")) == config


# --- filters that catch nothing ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            MelFrames(n_fft=512, n_mels=128),
            "3 of 128 filters catch no bin (0, 3, 8): bins are 43.1 Hz apart",
        ),
        (MfccFrames(n_fft=512, n_mels=128), "3 of 128 filters catch no bin"),
        (
            MelFrames(n_fft=256, hop_length=128, n_mels=128),
            "18 of 128 filters catch no bin (0, 1, 2, 3, 6, 7, 8, 11 ...): bins are 86.1 Hz apart",
        ),
        (FbankFrames(kind="fbank"), "1 of 128 filters catch no bin (3): bins are 31.2 Hz apart"),
    ],
)
def test_empty_filters_are_refused_with_the_numbers(config: FramesConfig, said: str) -> None:
    rate_hz = 16_000 if config.kind == "fbank" else 22_050
    with pytest.raises(ConfigError) as caught:
        check_filters(rate_hz, config)
    assert said in str(caught.value)
    assert "set frames.allow_empty_filters=true" in str(caught.value)
    check_filters(rate_hz, config.model_copy(update={"allow_empty_filters": True}))


@pytest.mark.parametrize(
    ("rate_hz", "config"),
    [
        (22_050, MelFrames()),
        (22_050, MfccFrames(n_fft=2048)),
        (16_000, FbankFrames(kind="fbank", n_mels=64)),
        (22_050, MelFrames(scale="linear", n_mels=256)),
    ],
)
def test_the_usual_settings_have_no_empty_filter(rate_hz: int, config: FramesConfig) -> None:
    check_filters(rate_hz, config)
    frames_TM = frames_of(WAVEFORM_N, rate_hz, config)
    assert (frames_TM.std(axis=0) > 0).all()


def test_an_empty_filter_that_is_allowed_holds_the_floor() -> None:
    config = MelFrames(n_fft=512, n_mels=128, allow_empty_filters=True)
    frames_TM = frames_of(WAVEFORM_N, 22_050, config)
    assert (frames_TM[:, [0, 3, 8]] == -100).all()
    assert np.isfinite(frames_TM).all()


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "faults"),
    [
        ("{kind: cqt}", ["frames.kind: no kind cqt; "]),
        ("{kind: fbank, n_fft: 512}", ["frames.n_fft: unknown key"]),
        ("{kind: fbank, hop_length: 512}", ["frames.hop_length: unknown key"]),
        ("{n_mfcc: 13}", ["frames.n_mfcc: unknown key"]),
        ("{kind: mfcc, frame_shift_ms: 10}", ["frames.frame_shift_ms: unknown key"]),
        ("{n_mel: 64}", ["frames.n_mel: unknown key (did you mean n_mels?)"]),
        ("{power: 3}", ["frames.power: "]),
        ("{scale: bark}", ["frames.scale: "]),
        ("{floor: 0}", ["frames.floor: "]),
        ("{kind: mfcc, n_mfcc: 41, n_mels: 40}", ["frames: n_mfcc 41 is over n_mels 40"]),
        ("{hop_length: 2048}", ["frames: hop_length 2048 skips samples: n_fft is 1024"]),
    ],
)
def test_faults_of_the_section_read_well(section: str, faults: list[str], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"run: r\nsource: {{kind: esc, root: d}}\nframes: {section}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(caught.value.faults) == len(faults), caught.value.faults
    for fault, start in zip(caught.value.faults, faults, strict=True):
        assert fault.startswith(start), fault
        assert "_kind" not in fault, "the names of functions are not the user's"


def test_an_unknown_kind_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("run: r\nsource: {kind: esc, root: d}\nframes: {kind: cqt}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (fault,) = caught.value.faults
    assert all(kind in fault for kind in ("cqt", "mel", "mfcc", "fbank"))
