"""Front ends: functions of one clip's frames, and of what they were fitted to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save
from sklearn.decomposition import PCA

from configs.codebook import PRESETS, FrontEndConfig, PcaStep, PcenStep
from configs.codebook import FrontEnd as FrontEndField
from pipeline.audio.front_end import FrontEnd
from pipeline.audio.steps import APPLY, context, convolution, fit_convolution, minmax, moments, pcen
from pipeline.workplace import Workplace

ROOT = Path(__file__).parents[2]
DECIBELS = hnp.arrays(
    np.float16,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-100, 60, width=16),
)
with_presets = pytest.mark.parametrize("name", PRESETS)
STEPS: list[Any] = [
    "minmax",
    "standardise",
    "pcen",
    {"kind": "context", "frames": 3},
    {"kind": "pca", "dims": 5},
    {"kind": "convolution", "kernels": 2, "size": 5},
]


def config_of(value: Any) -> FrontEndConfig:
    return TypeAdapter(FrontEndField).validate_python(value)


def smooth_clips(num: int = 12, num_mels: int = 64, seed: int = 0) -> list[npt.NDArray]:
    """Clips of frames that are alike over time and bins, of unequal lengths, as they are stored."""
    random = np.random.default_rng(seed)
    clips = []
    for number in range(num):
        steps = random.normal(size=(30 + 5 * number, num_mels))
        clips.append((steps.cumsum(axis=0) + steps.cumsum(axis=1) - 40).astype(np.float16))
    return clips


def fitted(value: Any, clips: list[npt.NDArray]) -> FrontEnd:
    return FrontEnd.fit(config_of(value), clips)


# --- all of them -----------------------------------------------------------------------------


def test_every_step_of_the_config_is_there() -> None:
    kinds = {config_of([step]).steps[0].kind for step in STEPS}
    assert kinds == set(APPLY)


@with_presets
def test_vectors_are_as_wide_as_the_config_says(name: str) -> None:
    clips = smooth_clips()
    vectors_TD = fitted(name, clips).vectors(clips[0])
    assert vectors_TD.shape == (len(clips[0]), config_of(name).width(64))
    assert vectors_TD.dtype == np.float32
    assert np.isfinite(vectors_TD).all()


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_no_frames_give_no_vectors(step: Any) -> None:
    front_end = fitted([step], smooth_clips())
    assert front_end.vectors(np.empty((0, 64), np.float16)).shape == (0, front_end.config.width(64))


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_one_frame_gives_one_vector_and_the_frames_stay_as_they_are(step: Any) -> None:
    front_end = fitted([step], smooth_clips())
    frames_TM = smooth_clips(seed=1)[0][:1].astype(np.float32)
    before_TM = frames_TM.copy()
    assert np.isfinite(front_end.vectors(frames_TM)).all()
    assert (frames_TM == before_TM).all()


@with_presets
def test_what_was_fitted_round_trips(name: str, tmp_path: Path) -> None:
    clips = smooth_clips()
    front_end = fitted(name, clips)
    place = Workplace(tmp_path, "default", "recipe")
    place.write("fitted", front_end.tensors())
    tensors = place.read("fitted")
    assert tensors is not None
    again = FrontEnd.restored(front_end.config.model_dump(mode="json"), tensors)
    assert again.vectors(clips[3]).tobytes() == front_end.vectors(clips[3]).tobytes()


def test_steps_apply_in_their_order() -> None:
    clips = smooth_clips()
    one = fitted(["minmax", {"kind": "context", "frames": 3}], clips).vectors(clips[0])
    by_hand = context(
        config_of([{"kind": "context", "frames": 3}]).steps[0], {}, minmax_of(clips[0])
    )
    assert one.tobytes() == by_hand.tobytes()


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("pecn", "must be one of none, seed, logmel, pcen"),
        ([{"kind": "context", "frames": 4}], "frames must be odd"),
        ([{"kind": "convolution", "size": 2}], "size must be odd"),
        ([{"kind": "pcen", "alpha": 2}], "less than or equal to 1"),
        (["whiten"], "whiten"),
    ],
)
def test_faults_of_a_config_are_named(value: Any, fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        config_of(value)


# --- minmax ----------------------------------------------------------------------------------


def minmax_of(frames_TM: npt.NDArray) -> npt.NDArray:
    return minmax(config_of(["minmax"]).steps[0], {}, frames_TM.astype(np.float32))  # type: ignore[arg-type]


@given(DECIBELS)
def test_none_gives_the_stored_values(frames_TM: npt.NDArray) -> None:
    vectors_TD = FrontEnd().vectors(frames_TM)
    assert vectors_TD.dtype == np.float32
    assert (vectors_TD == frames_TM).all()


@given(DECIBELS)
def test_minmax_spans_0_to_1_and_keeps_the_order(frames_TM: npt.NDArray) -> None:
    assume(frames_TM.min() < frames_TM.max())
    vectors_TD = minmax_of(frames_TM)
    assert (vectors_TD.min(), vectors_TD.max()) == (0, 1)
    rising = np.argsort(frames_TM, axis=None, kind="stable")
    assert (np.diff(vectors_TD.ravel()[rising]) >= 0).all()


@pytest.mark.parametrize("value", [-100, 0, 31.5])
def test_a_constant_clip_becomes_0(value: float) -> None:
    assert (minmax_of(np.full((5, 3), value, dtype=np.float16)) == 0).all()


@pytest.mark.parametrize("name", [*PRESETS, "convolution"])
@pytest.mark.parametrize("most", [1, 200, 100_000])
def test_chosen_frames_of_many_clips_have_the_vectors_of_each_alone(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.audio.front_end.ROWS_TOGETHER", most)
    clips = [*smooth_clips(), smooth_clips()[0][:0]]
    front_end = fitted([name] if name == "convolution" else name, clips)
    random = np.random.default_rng(0)
    chosen = [random.permutation(len(clip))[: random.integers(0, 9)] for clip in clips]
    masks = [random.random(len(clip)) < 0.5 for clip in clips]
    for rows in (chosen, masks, [slice(None)] * len(clips)):
        alone = [front_end.vectors(clip)[some] for clip, some in zip(clips, rows, strict=True)]
        made = front_end.vectors_of(clips, rows)
        assert made.tobytes() == np.concatenate(alone).tobytes()


# --- standardise, pcen, context, convolution ---------------------------------------------------


def test_standardised_training_frames_have_mean_0_and_deviation_1() -> None:
    clips = smooth_clips()
    vectors_ND = np.concatenate([fitted(["standardise"], clips).vectors(clip) for clip in clips])
    assert np.abs(vectors_ND.mean(axis=0)).max() < 1e-3
    assert np.abs(vectors_ND.std(axis=0) - 1).max() < 1e-3


def test_a_bin_that_never_changes_is_no_division_by_0() -> None:
    clips = [
        np.concatenate([clip, np.full((len(clip), 1), -100.0)], axis=1) for clip in smooth_clips()
    ]
    vectors_TD = fitted(["standardise"], clips).vectors(clips[0])
    assert (vectors_TD[:, -1] == 0).all()


@pytest.mark.parametrize("level", [-50.0, -20.06, -10.1, 3.3])
def test_a_bin_that_only_rounding_changes_keeps_its_scale(level: float) -> None:
    clips = [
        np.concatenate([clip, np.full((len(clip), 1), level)], axis=1) for clip in smooth_clips()
    ]
    arrays = fitted(["pcen", "standardise"], clips).arrays[1]
    assert arrays["std"][-1] == 1


def test_pcen_is_the_recursion_of_its_paper() -> None:
    frames_TM = smooth_clips()[0].astype(np.float32)
    config = PcenStep()
    power_TM = config.gain * 10 ** (frames_TM.astype(np.float64) / 10)
    average_M, rows = power_TM[0], []
    for power_M in power_TM:
        average_M = (1 - config.smoothing) * average_M + config.smoothing * power_M
        scaled_M = power_M / (config.floor + average_M) ** config.alpha
        rows.append((scaled_M + config.delta) ** config.root - config.delta**config.root)
    for length in (1, 2, 3, 4, 5, 64, 65, len(frames_TM)):
        made_TM = pcen(config, {}, frames_TM[:length])
        np.testing.assert_allclose(made_TM, rows[:length], rtol=1e-4, atol=1e-5)


def test_a_context_is_what_was_before_the_frame_and_what_comes_after() -> None:
    frames_TM = np.arange(5, dtype=np.float32)[:, None]
    config = config_of([{"kind": "context", "frames": 5}]).steps[0]
    assert context(config, {}, frames_TM).tolist() == [  # type: ignore[arg-type]
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 4],
        [2, 3, 4, 4, 4],
    ]


def test_a_convolution_equals_torch() -> None:
    config = config_of([{"kind": "convolution", "kernels": 3, "size": 5}]).steps[0]
    arrays = fit_convolution(config, [])  # type: ignore[arg-type]
    frames_TM = smooth_clips()[0].astype(np.float32)
    weight = torch.from_numpy(arrays["weight"])[:, None, :]
    outputs = torch.conv1d(
        torch.from_numpy(frames_TM)[:, None], weight, torch.from_numpy(arrays["bias"]), padding=2
    )
    made = convolution(config, arrays, frames_TM)  # type: ignore[arg-type]
    np.testing.assert_allclose(made, outputs.flatten(1).numpy(), rtol=1e-4, atol=1e-4)


def test_the_weights_of_a_convolution_are_of_its_seed() -> None:
    ones = [
        fit_convolution(config_of([{"kind": "convolution", "seed": s}]).steps[0], [])
        for s in (0, 0, 1)
    ]  # type: ignore[arg-type]
    assert ones[0]["weight"].tobytes() == ones[1]["weight"].tobytes()
    assert ones[0]["weight"].tobytes() != ones[2]["weight"].tobytes()


# --- pca ---------------------------------------------------------------------------------------


def test_pca_equals_scikit_learn_but_for_the_grid_it_is_computed_on() -> None:
    clips = smooth_clips(num_mels=16)
    vectors_ND = np.concatenate(clips).astype(np.float64)
    reference = PCA(6).fit(vectors_ND)
    front_end = fitted([{"kind": "pca", "dims": 6, "whiten": False}], clips)
    for clip in clips:
        theirs_TE = reference.transform(clip.astype(np.float64))
        ours_TE = front_end.vectors(clip)
        signs_E = np.sign((theirs_TE * ours_TE).sum(axis=0))
        np.testing.assert_allclose(ours_TE, theirs_TE * signs_E, atol=5e-3)


def test_whitened_directions_have_variance_1_where_nothing_is_shrunk() -> None:
    clips = smooth_clips(num_mels=16)
    front_end = fitted([{"kind": "pca", "dims": 6, "shrink": 0}], clips)
    vectors_ND = np.concatenate([front_end.vectors(clip) for clip in clips])
    np.testing.assert_allclose(np.cov(vectors_ND.T), np.eye(6), atol=1e-2)


def test_shrinking_keeps_small_directions_small() -> None:
    clips = smooth_clips(num_mels=16)
    front_end = fitted([{"kind": "pca", "dims": 6, "shrink": 0.1}], clips)
    variance_E = np.concatenate([front_end.vectors(clip) for clip in clips]).var(axis=0)
    assert (np.diff(variance_E) < 0).all()
    assert variance_E[0] > 0.9


def test_more_dims_than_numbers_are_all_of_them() -> None:
    clips = smooth_clips(num_mels=16)
    assert FrontEndConfig(steps=(PcaStep(),)).width(16) == 16
    assert fitted(["pca"], clips).vectors(clips[0]).shape[1] == 16


def test_a_pca_too_wide_to_be_exact_is_refused() -> None:
    assert PcaStep().width(4_096) == 64
    with pytest.raises(ValueError, match="pca of 4097 numbers, at most 4096 are exact"):
        PcaStep().width(4_097)


def test_moments_of_far_values_do_not_drown() -> None:
    clips = [clip.astype(np.float32) + 1e5 for clip in smooth_clips(num_mels=8)]
    _, mean_D, covariance_DD = moments(clips)
    exact_ND = np.concatenate(clips).astype(np.float64)
    np.testing.assert_allclose(mean_D, exact_ND.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(covariance_DD, np.cov(exact_ND.T, bias=True), rtol=1e-3)


SCRIPT = """
import hashlib, sys, numpy as np
from safetensors.numpy import load_file
from configs.codebook import PRESETS
from pipeline.audio.front_end import FrontEnd
frames = np.load(sys.argv[1])
front_end = FrontEnd.restored(PRESETS["pcen"], load_file(sys.argv[2]))
print(hashlib.sha256(front_end.vectors(frames).tobytes()).hexdigest())
"""


def test_the_kernel_of_the_blas_does_not_decide_vectors(tmp_path: Path) -> None:
    clips = smooth_clips(40)
    np.save(tmp_path / "frames.npy", np.concatenate(clips))
    tensors = fitted("pcen", clips).tensors()
    (tmp_path / "fitted").write_bytes(
        save({n: np.ascontiguousarray(t) for n, t in tensors.items()})
    )
    plain = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "frames.npy"), str(tmp_path / "fitted")],
            env={**plain, **kernel, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for kernel in ({}, {"OPENBLAS_CORETYPE": "Haswell"}, {"OPENBLAS_CORETYPE": "Nehalem"})
    }
    assert len(outputs) == 1


FIT = """
import hashlib, sys, numpy as np
from configs.codebook import PRESETS, FrontEndConfig
from pipeline.audio.front_end import FrontEnd
clips = np.array_split(np.load(sys.argv[1]), 40)
fitted = FrontEnd.fit(FrontEndConfig.model_validate(PRESETS["pcen"]), clips).tensors()
for name in sorted(fitted):
    print(name, hashlib.sha256(np.ascontiguousarray(fitted[name]).tobytes()).hexdigest())
"""


def test_threads_of_the_blas_do_not_decide_what_is_fitted(tmp_path: Path) -> None:
    """In new processes: libraries that are loaded late are what a limit may miss."""
    np.save(tmp_path / "frames.npy", np.concatenate(smooth_clips(40)))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", FIT, str(tmp_path / "frames.npy")],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in "123"
    }
    assert len(outputs) == 1
    assert "3.weight" in outputs.pop()


# --- silence -----------------------------------------------------------------------------------


def test_frames_below_the_mask_are_silent_and_teach_nothing() -> None:
    clips = smooth_clips()
    quiet = np.full((50, 64), -100, dtype=np.float16)
    masked = [np.concatenate([quiet, clip]) for clip in clips]
    value = {"steps": ["standardise"], "mask_below_db": -99.0}
    front_end = fitted(value, masked)
    assert front_end.silent(masked[0]).tolist() == [True] * 50 + [False] * len(clips[0])
    alone = fitted(["standardise"], clips)
    np.testing.assert_allclose(front_end.arrays[0]["mean"], alone.arrays[0]["mean"], rtol=1e-6)
    assert not alone.silent(masked[0]).any()


def test_clips_that_are_silent_all_through_give_nothing_to_fit_to() -> None:
    quiet = np.full((50, 64), -100, dtype=np.float16)
    with pytest.raises(ValueError, match="fitted to frames, and there are none"):
        fitted("pcen", [quiet])


@pytest.mark.parametrize("settings", [{"gain": 1e39}, {"gain": 1e30, "alpha": 0, "root": 1}])
def test_numbers_that_the_next_step_cannot_add_up_are_refused(settings: dict[str, float]) -> None:
    config = FrontEndConfig.model_validate({"steps": [{"kind": "pcen", **settings}, "pca"]})
    frames_TM = np.random.default_rng(0).uniform(-80, 0, (300, 16)).astype(np.float16)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match="step pca is given holds NaN or numbers above 1e15"),
    ):
        FrontEnd.fit(config, [frames_TM])
