"""What a stored frame is: log-mel (the default), MFCC, or Kaldi's filter banks, as for AST."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    model_validator,
)

from configs.section import Section


class MelFrames(Section):
    """Log-mel frames as torchaudio's MelSpectrogram + AmplitudeToDB define them, with its
    defaults: HTK scale, no norm, power 2, centred, reflect padding, Hann window, floor -100 dB.

    `reference` is 0 dB and `floor` the smallest value that the logarithm takes (both in units of
    the power or magnitude); `top_db` cuts off what is further below a clip's loudest cell.
    `scale: linear` spaces the filters evenly in Hz.
    """

    kind: Literal["mel"] = "mel"
    n_fft: PositiveInt = 1024
    hop_length: PositiveInt = 512
    n_mels: PositiveInt = 64
    f_min_hz: NonNegativeFloat = 0.0
    f_max_hz: PositiveFloat | None = None  # half the sample rate
    scale: Literal["htk", "slaney", "linear"] = "htk"
    norm: Literal["none", "slaney"] = "none"
    power: Literal[1, 2] = 2  # 1: magnitude
    reference: PositiveFloat = 1.0
    floor: PositiveFloat = 1e-10
    top_db: PositiveFloat | None = None
    allow_empty_filters: bool = False

    @property
    def num_bins(self) -> int:
        """Numbers in a frame."""
        return self.n_mels

    def hop_samples(self, _sample_rate_hz: int) -> int:
        return self.hop_length

    @model_validator(mode="after")
    def _hop_fits(self) -> Self:
        if self.hop_length > self.n_fft:
            raise ValueError(f"hop_length {self.hop_length} skips samples: n_fft is {self.n_fft}")
        return self


class MfccFrames(MelFrames):
    """MFCC as torchaudio's transform of that name: a DCT-II of log-mel frames, orthonormal."""

    kind: Literal["mfcc"] = "mfcc"  # type: ignore[assignment]  # the tag of this member
    n_mfcc: PositiveInt = 40
    n_mels: PositiveInt = 128
    top_db: PositiveFloat | None = 80.0

    @property
    def num_bins(self) -> int:
        return self.n_mfcc

    @model_validator(mode="after")
    def _enough_mels(self) -> Self:
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc {self.n_mfcc} is over n_mels {self.n_mels}")
        return self


class FbankFrames(Section):
    """Kaldi's log filter banks (natural logarithm), with the settings of the Audio Spectrogram
    Transformer: 128 bins, Hann window. It wants audio.sample_rate_hz=16000, where its filter 3
    catches no bin: that is how AST was trained, and allow_empty_filters=true lets it pass."""

    kind: Literal["fbank"]
    n_mels: PositiveInt = 128
    frame_length_ms: PositiveFloat = 25.0
    frame_shift_ms: PositiveFloat = 10.0
    f_min_hz: NonNegativeFloat = 20.0
    f_max_hz: PositiveFloat | None = None  # half the sample rate
    window: Literal["hanning", "povey"] = "hanning"
    preemphasis: NonNegativeFloat = 0.97
    allow_empty_filters: bool = False

    @property
    def num_bins(self) -> int:
        return self.n_mels

    def hop_samples(self, sample_rate_hz: int) -> int:
        return int(sample_rate_hz * self.frame_shift_ms * 0.001)


def _with_kind(value: Any) -> Any:
    """A section that names no kind is log-mel."""
    return {"kind": "mel", **value} if isinstance(value, dict) else value


FramesConfig = Annotated[
    MelFrames | MfccFrames | FbankFrames,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]
FRAMES: TypeAdapter[FramesConfig] = TypeAdapter(FramesConfig)  # from what a run says of its own
