"""Figures of a report, as SVG text with the look of the page around them."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("agg")  # no display, wherever this runs

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

INK = "#8a8f98"  # reads on white and on near-black
BLUE, ORANGE, GREEN = "#3b82c4", "#d9822b", "#3a9d6e"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "svg.hashsalt": "audiolex",  # the same figure gives the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def curves(records: list[dict[str, Any]]) -> str:
    """Training loss and validation loss over steps, and validation mAP beside them."""
    train = [(r["step"], r["loss"]) for r in records if "loss" in r]
    valid = [(r["step"], r["valid_loss"], r["valid_map"]) for r in records if "valid_loss" in r]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.8))
        right.set_visible(bool(valid))
        left.plot(*zip(*train, strict=True), color=BLUE, label="training")
        if valid:
            steps, losses, maps = zip(*valid, strict=True)
            left.plot(steps, losses, color=ORANGE, label="validation")
            right.plot(steps, [100 * value for value in maps], color=ORANGE)
        left.legend()
        _label(left, "step", "loss")
        _label(right, "step", "validation mAP, %")
        right.set_ylim(0, 100)
        return _svg(figure)


def token_usage(counts_K: npt.NDArray[np.int64]) -> str:
    """Rank and frequency of the tokens, both on logarithmic axes."""
    used = np.sort(counts_K[counts_K > 0])[::-1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.4, 2.8))
        axes.loglog(np.arange(1, len(used) + 1), used / used.sum(), color=GREEN)
        for axis in (axes.xaxis, axes.yaxis):  # over less than a decade they would overlap
            axis.set_minor_formatter(NullFormatter())
        _label(axes, "rank of the token", "share of all tokens")
        return _svg(figure)


def spectrogram(
    frames_TM: npt.NDArray[np.floating], tokens_T: npt.NDArray[np.integer], k: int, hop_s: float
) -> str:
    """A clip's log-mel frames over the strip of its tokens; equal tokens have equal colours."""
    duration_s = len(frames_TM) * hop_s
    with plt.rc_context(STYLE):
        figure, (top, strip) = plt.subplots(
            2, 1, figsize=(8.4, 3.2), sharex=True, height_ratios=[6, 1]
        )
        image = top.imshow(
            frames_TM.T.astype(np.float32),
            origin="lower",
            aspect="auto",
            extent=(0, duration_s, 0, frames_TM.shape[1]),
            cmap="magma",
        )
        figure.colorbar(image, ax=(top, strip), label="dB", pad=0.01)
        _label(top, "", "mel band")
        colours = np.random.default_rng(0).permutation(k)  # neighbouring ids must not look alike
        strip.imshow(
            colours[tokens_T][None],
            aspect="auto",
            extent=(0, duration_s, 0, 1),
            cmap="turbo",
            vmin=0,
            vmax=k - 1,
            interpolation="nearest",
        )
        strip.set_yticks([])
        _label(strip, "seconds", "tokens")
        return _svg(figure)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
    plt.close(figure)
    text = buffer.getvalue().replace(INK, "currentColor")  # what the page calls soft
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
