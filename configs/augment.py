"""What a training changes of the clips that it trains on, and of no others."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from configs.section import Section


class SpanMasks(Section):
    """Spans of a clip that a model does not see, as the time masks of SpecAugment (Park et al.,
    Interspeech 2019): `count` of them, each of 0 to `longest` places, anywhere in the clip.

    Tokens become padding there, whose embedding is zero; vectors and frames become the clip's own
    mean, because zero would be loud in dB. In a short clip spans are shorter: never all of it is
    hidden.
    """

    count: PositiveInt = 2
    longest: PositiveInt = 24


class Augment(Section):
    """Changes of a clip's stored frames before the codebook makes tokens (or vectors) of them, all
    drawn anew for each clip and epoch, evenly between minus and plus what is given.

    `gain_db` makes a clip louder or quieter; `equaliser_db` does so bin by bin, along a curve
    through a few random points; `stretch` makes it last longer or shorter, by a share of its
    length, at the same pitch. What is silent stays silent, and what gets longer than the longest
    clip of the run is cut off at its end.

    A training then reads `frames.zarr` in place of tokens, and its own process does what the
    tokenize stage did once; `data.workers` are for that.
    """

    gain_db: NonNegativeFloat = 0.0
    equaliser_db: NonNegativeFloat = 0.0
    stretch: Annotated[float, Field(ge=0, le=0.5)] = 0.0
