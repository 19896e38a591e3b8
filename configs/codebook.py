"""The config's `codebook` section: what is clustered, and how many centroids are sought."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from configs.section import Name, Section, Share

Seed = Annotated[int, Field(ge=0, lt=2**63)]
MAX_K = 65_536  # tokens are uint16 on disk
WIDEST_PCA = 2**12  # numbers whose products sum up exactly


# --- front ends --------------------------------------------------------------------------------


class MinMaxStep(Section):
    """Each clip scaled to [0, 1] by its own smallest and largest value, as audio-tokens did."""

    kind: Literal["minmax"] = "minmax"

    def width(self, width: int) -> int:
        return width


class StandardiseStep(Section):
    """Each bin to mean 0 and deviation 1 over the training frames. Fitted."""

    kind: Literal["standardise"] = "standardise"

    def width(self, width: int) -> int:
        return width


class PcenStep(Section):
    """Per-channel energy normalisation of log-mel frames: each bin's power, over a moving average
    of itself, compressed. `gain` multiplies the stored power first."""

    kind: Literal["pcen"] = "pcen"
    smoothing: Annotated[float, Field(gt=0, le=1)] = 0.04  # a frame's weight in the average
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.8  # how much of the average is divided out
    delta: PositiveFloat = 2.0
    root: Annotated[float, Field(gt=0, le=1)] = 0.5
    gain: PositiveFloat = 3.0
    floor: PositiveFloat = 1e-3  # added to the average

    def width(self, width: int) -> int:
        return width


class ContextStep(Section):
    """Each frame beside its neighbours, in the order of time; edges are repeated."""

    kind: Literal["context"] = "context"
    frames: Annotated[int, Field(ge=1, le=255)] = 7

    def width(self, width: int) -> int:
        return width * self.frames

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.frames % 2 == 0:
            raise ValueError(f"frames must be odd, as many before as after: {self.frames}")
        return self


class PcaStep(Section):
    """The `dims` directions of the largest variance (all, where there are fewer), each scaled to
    variance 1 (`whiten`); `shrink`, a share of their mean variance, keeps small ones from being
    blown up. Fitted."""

    kind: Literal["pca"] = "pca"
    dims: PositiveInt = 64
    whiten: bool = True
    shrink: NonNegativeFloat = 0.1

    def width(self, width: int) -> int:
        if width > WIDEST_PCA:
            raise ValueError(
                f"codebook.front_end: pca of {width} numbers, at most {WIDEST_PCA} are exact: "
                "take a shorter context or fewer bins"
            )
        return min(self.dims, width)


class ConvolutionStep(Section):
    """Random convolutions along the bins, `kernels` outputs a bin: the option of audio-tokens.
    The weights, uniform in +-1/sqrt(size) by the seed, are saved with the codebook."""

    kind: Literal["convolution"] = "convolution"
    kernels: PositiveInt = 10
    size: PositiveInt = 3
    seed: Seed = 0

    def width(self, width: int) -> int:
        return width * self.kernels

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.size % 2 == 0:
            raise ValueError(f"size must be odd: {self.size}")
        return self


def _step(value: Any) -> Any:
    """A step without settings may be written as its name."""
    return {"kind": value} if isinstance(value, str) else value


StepConfig = Annotated[
    MinMaxStep | StandardiseStep | PcenStep | ContextStep | PcaStep | ConvolutionStep,
    Field(discriminator="kind"),
    BeforeValidator(_step),
]


class FrontEndConfig(Section):
    """What is done to a clip's stored frames, in this order, to make the vectors to cluster.

    Frames whose mean over the bins is below `mask_below_db` are silent: they are not clustered,
    and their token is one of its own, `k`. None keeps them.
    """

    steps: tuple[StepConfig, ...] = ()
    mask_below_db: float | None = None

    def __str__(self) -> str:
        """For people: `pcen, standardise, context 7, pca 64; silence below -30 dB`."""
        sizes = (("frames", "context"), ("dims", "pca"), ("kernels", "convolution"))
        size_of = {kind: name for name, kind in sizes}
        parts = [f"{s.kind} {getattr(s, size_of.get(s.kind, ''), '')}".strip() for s in self.steps]
        text = ", ".join(parts) or "none"
        masked = self.mask_below_db
        return text if masked is None else f"{text}; silence below {masked:g} dB"

    def width(self, num_bins: int) -> int:
        """Numbers in a vector made of frames of `num_bins`."""
        for step in self.steps:
            num_bins = step.width(num_bins)
        return num_bins


PRESETS: dict[str, Any] = {
    "none": {},
    "seed": {"steps": ["minmax"]},
    "logmel": {"steps": ["standardise", "context", "pca"]},
    "pcen": {"steps": ["pcen", "standardise", "context", "pca"], "mask_below_db": -30.0},
}


DEFAULT_PRESET = "pcen"


def _front_end(value: Any) -> Any:
    """A preset's name, a plain list of steps, or settings; where those name no steps, they are laid
    on a `preset`."""
    if isinstance(value, str):
        value = {"preset": value}
    if isinstance(value, list | tuple):
        return {"steps": value}
    if not isinstance(value, dict) or ("steps" in value and "preset" not in value):
        return value
    own = dict(value)
    preset = own.pop("preset", DEFAULT_PRESET)
    if preset not in PRESETS:
        raise ValueError(f"must be one of {', '.join(PRESETS)}, or a list of steps")
    return {**PRESETS[preset], **own}


FrontEnd = Annotated[FrontEndConfig, BeforeValidator(_front_end)]


# --- the section -------------------------------------------------------------------------------


class CodebookConfig(Section):
    """Minibatch K-means over frames drawn evenly from the training clips.

    Several codebooks give several tokens a frame: under `product` each covers its own part of the
    vector, under `residual` each what the ones before it left over.
    """

    name: Name = "default"
    k: Annotated[int, Field(ge=2, le=MAX_K)] = 500
    codebooks: Annotated[int, Field(ge=1, le=64)] = 1
    combine: Literal["product", "residual"] = "product"
    metric: Literal["l2", "cosine"] = "l2"
    front_end: FrontEnd = FrontEndConfig.model_validate(PRESETS[DEFAULT_PRESET])
    frames_per_centroid: PositiveInt = 256
    holdout_share: Share = 0.05  # of the training clips, to measure the error on
    silence_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # most weight of digital silence
    passes: PositiveInt = 10  # over all drawn frames, at most; they end when little is gained
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.front_end.mask_below_db is not None and self.k == MAX_K:
            raise ValueError(
                f"k {self.k} leaves no token to silence: lower it by one, or keep silence "
                "(front_end.mask_below_db: null)"
            )
        if self.codebooks > 1 and self.combine == "residual" and self.metric == "cosine":
            raise ValueError("combine residual adds centroids up, which metric cosine does not")
        return self
