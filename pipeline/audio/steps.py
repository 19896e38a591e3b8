"""The steps of front ends: functions of one clip's vectors, and what some of them are fitted to.

`APPLY` and `FIT` list them by the `kind` of their config. No step lets the kernels of a BLAS
decide a bit: `pca`, the only one that multiplies matrices, does so in whole numbers.

Legend: T frames of a clip, M mel bins, D numbers in a vector, E of the step's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.codebook import ContextStep, ConvolutionStep, MinMaxStep, PcaStep, PcenStep

VectorsTD = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]
Clips = Iterable[VectorsTD]

OF_WHOLE_CLIPS = frozenset({"minmax", "pcen", "context"})  # others look at one vector at a time
CONSTANT = 1e-6  # deviation over mean of what only rounding changes
INPUT_BITS, WEIGHT_BITS = 20, 20  # WIDEST_PCA products, one bit more for the mean: 53 bits


def minmax(_: MinMaxStep, __: Arrays, vectors_TD: VectorsTD) -> VectorsTD:
    """Scaled to [0, 1] by the clip's smallest and largest value; a constant clip becomes 0."""
    if vectors_TD.size == 0:
        return vectors_TD
    low, high = vectors_TD.min(), vectors_TD.max()
    if high == low:
        return np.zeros_like(vectors_TD)
    scaled_TD: VectorsTD = (vectors_TD - low) / (high - low)
    return scaled_TD


def standardise(_: Any, arrays: Arrays, vectors_TD: VectorsTD) -> VectorsTD:
    return np.asarray((vectors_TD - arrays["mean"]) / arrays["std"], dtype=np.float32)


def fit_standardise(_: Any, clips: Clips) -> Arrays:
    """Mean [D] and deviation [D] of every bin; a bin that never changes keeps its scale."""
    _, mean_D, covariance_DD = moments(clips, only_variance=True)
    std_D = np.sqrt(covariance_DD)
    std_D[std_D <= CONSTANT * np.abs(mean_D)] = 1
    return {"mean": mean_D.astype(np.float32), "std": std_D.astype(np.float32)}


def pcen(config: PcenStep, _: Arrays, decibels_TM: VectorsTD) -> VectorsTD:
    """Per-channel energy normalisation (Wang et al., Trainable frontend for robust and far-field
    keyword spotting, ICASSP 2017, eq. 1 and 2), of power in dB.

    The moving average begins at the clip's first frame.
    """
    if len(decibels_TM) == 0:
        return decibels_TM
    power_TM = np.exp(decibels_TM * np.float32(math.log(10) / 10)) * np.float32(config.gain)
    average_TM = moving_average(power_TM, config.smoothing)
    gain_TM = np.exp(-config.alpha * np.log(config.floor + average_TM))
    delta, root = config.delta, config.root
    return np.asarray((power_TM * gain_TM + delta) ** root - delta**root, dtype=np.float32)


def moving_average(values_TM: VectorsTD, weight: float) -> VectorsTD:
    """Exponential, [T, M]: y[0] = x[0], y[t] = (1 - weight) y[t - 1] + weight x[t].

    By doubling the reach of what is added (Hillis and Steele, Data Parallel Algorithms, 1986):
    twice as fast as a recursive filter along the clip.
    """
    average_TM = values_TM * np.float32(weight)
    average_TM[:1] = values_TM[:1]
    fading, reach = np.float32(1 - weight), 1
    while reach < len(values_TM) and fading > 0:
        average_TM[reach:] += fading * average_TM[:-reach]
        fading *= fading
        reach *= 2
    return average_TM


def context(config: ContextStep, _: Arrays, vectors_TD: VectorsTD) -> VectorsTD:
    """[T, frames * D]: what was before, the frame itself, what comes after."""
    num_frames, width = vectors_TD.shape
    stacked_TND = np.empty((num_frames, config.frames, width), dtype=np.float32)
    for number in range(config.frames if num_frames else 0):
        shift = number - config.frames // 2
        first = min(num_frames, max(0, -shift))  # rows first to last have the neighbour
        last = max(first, min(num_frames, num_frames - shift))
        stacked_TND[:first, number] = vectors_TD[0]
        stacked_TND[first:last, number] = vectors_TD[first + shift : last + shift]
        stacked_TND[last:, number] = vectors_TD[-1]
    return stacked_TND.reshape(num_frames, config.frames * width)


def pca(_: PcaStep, arrays: Arrays, vectors_TD: VectorsTD) -> VectorsTD:
    """Projections [T, E], the same bits on any machine: vectors and weights are whole numbers
    of a step, small enough for every sum of their products to be exact in float64, in any order.
    """
    most = np.float32(2**INPUT_BITS)
    whole_TD = vectors_TD / arrays["input_step"].astype(np.float32)  # a power of two
    np.rint(whole_TD, out=whole_TD)
    np.clip(whole_TD, -most, most, out=whole_TD)
    whole_TD -= arrays["mean"].astype(np.float32)  # below 2^24: float32 has it whole
    whole_TE = whole_TD.astype(np.float64) @ arrays["weight"].astype(np.float64)
    whole_TE *= arrays["output_step"]
    return whole_TE.astype(np.float32)


def fit_pca(config: PcaStep, clips: Clips) -> Arrays:
    """`mean` [D] and `weight` [D, E], in whole steps; `input_step` and `output_step` say which.

    Directions come in the order of their variance; the sign of each is such that its largest
    weight is positive.
    """
    largest, mean_D, covariance_DD = moments(clips)
    dims = config.width(len(mean_D))
    variance_D, direction_DD = np.linalg.eigh(covariance_DD)
    variance_E, weight_DE = variance_D[::-1][:dims], direction_DD[:, ::-1][:, :dims]
    strongest_E = weight_DE[np.abs(weight_DE).argmax(axis=0), np.arange(dims)]
    weight_DE = weight_DE * np.sign(strongest_E)
    if config.whiten:
        weight_DE /= np.sqrt(np.maximum(variance_E + config.shrink * variance_E.mean(), 1e-12))
    input_step = _step(largest, INPUT_BITS)
    weight_step = _step(np.abs(weight_DE).max(), WEIGHT_BITS)
    return {
        "mean": np.rint(mean_D / input_step),
        "weight": np.rint(weight_DE / weight_step).astype(np.int32),
        "input_step": np.array([input_step]),
        "output_step": np.array([input_step * weight_step]),
    }


def _step(largest: float, bits: int) -> float:
    """The power of two of which `largest` is up to 2^bits."""
    return 2.0 ** (math.ceil(math.log2(max(largest, 1e-30))) - bits)


def convolution(config: ConvolutionStep, arrays: Arrays, vectors_TD: VectorsTD) -> VectorsTD:
    """Each vector convolved along its bins, zeros beyond its ends: [T, kernels * D]."""
    reach = config.size // 2
    padded_TD = np.pad(vectors_TD, ((0, 0), (reach, reach)))
    width = vectors_TD.shape[1]
    outputs_KTD = []
    for weight_S, bias in zip(arrays["weight"], arrays["bias"], strict=True):
        taps = (w * padded_TD[:, i : i + width] for i, w in enumerate(weight_S))
        outputs_KTD.append(sum(taps, start=np.full_like(vectors_TD, bias)))
    return np.concatenate(outputs_KTD, axis=1)


def fit_convolution(config: ConvolutionStep, _: Clips) -> Arrays:
    """Weights [kernels, size] and biases [kernels], as torch's Conv1d begins."""
    random = np.random.Generator(np.random.Philox(key=config.seed))
    bound = 1 / math.sqrt(config.size)
    weight_KS = random.uniform(-bound, bound, (config.kernels, config.size))
    bias_K = random.uniform(-bound, bound, config.kernels)
    return {"weight": weight_KS.astype(np.float32), "bias": bias_K.astype(np.float32)}


def moments(
    clips: Clips, only_variance: bool = False
) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The largest absolute value, mean [D] and covariance [D, D] (or variance [D]) of all vectors
    of some clips, which are looked at once.

    Sums are of vectors less the first clip's mean: values far from 0 would drown their variance.
    """
    largest, count, origin_D = 0.0, 0, None
    total_D: Any = 0.0
    products: Any = 0.0
    for vectors_TD in clips:
        if len(vectors_TD) == 0:
            continue
        if origin_D is None:
            origin_D = vectors_TD.mean(axis=0)
        centred_TD = vectors_TD - origin_D
        largest = max(largest, float(np.abs(vectors_TD).max()))
        count += len(vectors_TD)
        total_D = total_D + centred_TD.sum(axis=0, dtype=np.float64)
        products = products + (
            (centred_TD.astype(np.float64) ** 2).sum(axis=0)
            if only_variance
            else (centred_TD.T @ centred_TD).astype(np.float64)
        )
    if origin_D is None:
        raise ValueError("a front end is fitted to frames, and there are none")
    mean_D = total_D / count
    outer = mean_D**2 if only_variance else np.outer(mean_D, mean_D)
    return largest, origin_D + mean_D, products / count - outer


APPLY: dict[str, Callable[[Any, Arrays, VectorsTD], VectorsTD]] = {
    "minmax": minmax,
    "standardise": standardise,
    "pcen": pcen,
    "context": context,
    "pca": pca,
    "convolution": convolution,
}
FIT: dict[str, Callable[[Any, Clips], Arrays]] = {
    "standardise": fit_standardise,
    "pca": fit_pca,
    "convolution": fit_convolution,
}
