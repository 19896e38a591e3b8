"""Every section of a config, as frozen pydantic models that validate themselves.

One CONFIG file serves all packages and is validated whole by the first verb that reads it.
Functions take the section they need (`AudioConfig`), never the root. Unknown keys are errors.
Paths are relative to the directory that the command runs in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from configs.augment import Augment, SpanMasks
from configs.cluster import ClusterConfig
from configs.codebook import CodebookConfig, PcenStep, Seed
from configs.data import DataConfig
from configs.frames import FramesConfig, MelFrames, MfccFrames
from configs.models import FrameModel, Model
from configs.section import Name, Section, Share, split_commas
from configs.sources import Source, TableSource


class SplitConfig(Section):
    """Which clips train, validate and test; applied when reading, so changing it decodes nothing.

    `source` takes the source's word, and cuts `valid_share` of the training clips off by a hash
    of their ids (set it to 0 where the source lists validation clips of its own); `first_letter`
    is the rule of audio-tokens: an id that starts with one of `letters` validates. The others
    cut `test_share` and `valid_share` off all clips: `hash` by the ids alone, so that a clip's
    split is the same in any subset; `exact` hits the shares to the clip; `stratified` hits them
    within each label. Where the source has groups (songs, recordings), they stay together under
    every rule. With `folds`, fold f tests on the clips of fold f and trains on the rest, but for
    `valid_share`, or in its place the clips of `valid_fold`.
    """

    rule: Literal["source", "first_letter", "hash", "exact", "stratified"] = "source"
    letters: str = "ABCDEF"
    valid_share: Share = 0.1
    test_share: Share = 0.1
    seed: Seed = 0  # of the rules exact and stratified
    folds: tuple[PositiveInt, ...] = ()
    valid_fold: PositiveInt | None = None

    @model_validator(mode="after")
    def _cuts_make_sense(self) -> Self:
        if self.valid_fold is not None and (not self.folds or self.valid_fold in self.folds):
            raise ValueError(f"valid_fold {self.valid_fold} wants folds, and to be none of them")
        if self.rule in ("source", "first_letter"):
            return self
        if self.valid_share + self.test_share >= 1:
            raise ValueError("valid_share and test_share leave nothing to train on")
        if self.folds:
            raise ValueError(f"folds and rule {self.rule} both say what tests: leave one out")
        return self


# --- the stages ------------------------------------------------------------------------------


class ShardsConfig(Section):
    clips_per_shard: PositiveInt = 1024
    min_shards: PositiveInt = 8  # small sets still use every worker


class AudioConfig(Section):
    """Decoding. `store` says what the audio tars hold: 16-bit FLAC (mono, resampled), the
    source's own bytes, or nothing."""

    sample_rate_hz: Annotated[int, Field(ge=1_000, le=768_000)] = 22_050
    store: Literal["flac", "source", "none"] = "flac"
    min_peak: NonNegativeFloat = 1e-4  # of full scale (-80 dBFS); quieter clips are silent


class QuarantineConfig(Section):
    max_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # above it, exit code 3


# --- training ---------------------------------------------------------------------------------


class TrainConfig(Section):
    """The recipe of the training loop; a model may set its own `epochs` and `lr`.

    The schedule `plateau` stays at `lr` after its warm-up, and multiplies it by `plateau_factor`
    whenever `plateau_patience` validations in a row brought no higher mAP. `early_stop` ends the
    training after that many. `select` says which weights a training ends with: its last ones, or
    those that scored highest in validation. With `average_decay`, as 0.999, what is validated and
    kept is the exponential moving average of the weights.

    Under `torchrun`, `batch_size` is shared by all ranks, `micro_batch_size` is each one's.

    `mixup` gives each clip something of the next one of its micro-batch, in shares of
    Beta(`mixup`, `mixup`): embeddings and targets are mixed (vectors, in models of frames). So how
    a batch is cut, into ranks and micro-batches, decides who is mixed with whom. `span_masks` and
    `augment` change the clips that are trained on, and never those that are scored: how, and how
    far, say their sections (`span_masks: {}` takes the defaults). What is drawn for an example
    depends on seed, epoch and its position alone. `tensorboard` writes what is logged as event
    files, too: `tensorboard --logdir RUN/models` shows them.
    """

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 128  # clips per optimizer step
    micro_batch_size: PositiveInt | None = None  # clips per forward; None: batch_size
    lr: PositiveFloat = 1e-3
    schedule: Literal["cosine", "constant", "one_cycle", "plateau"] = "cosine"
    warmup_share: Share = 0.1  # of all steps
    plateau_patience: PositiveInt = 3  # of schedule=plateau
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    weight_decay: NonNegativeFloat = 0.05
    clip_norm: PositiveFloat = 1.0
    average_decay: Share | None = None  # None: no average
    label_smoothing: Share = 0.0
    focal_gamma: NonNegativeFloat = 0.0  # 0: plain cross-entropy
    mixup: Annotated[float, Field(ge=0, le=8)] = 0.0  # alpha of Beta(alpha, alpha); 0: no mixing
    pos_weight_cap: Annotated[float, Field(ge=1)] | None = None  # None: all clips weigh the same
    span_masks: SpanMasks | None = None  # None: a model sees whole clips
    augment: Augment | None = None  # None: and as they are stored
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on GPUs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False  # by torch.compile; the first steps wait for it
    threads: PositiveInt | None = None  # CPU threads; None: torch's own choice
    parallel: Literal["ddp", "fsdp"] = "ddp"  # each rank a whole model, or a shard of every layer
    evaluate_every_epochs: PositiveInt = 1
    early_stop: PositiveInt | None = None  # validations; None: never
    select: Literal["last", "best"] = "last"
    checkpoint_every_steps: PositiveInt = 200
    keep_checkpoints: PositiveInt = 2
    tensorboard: bool = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _mixing_takes_two(self) -> Self:
        if self.mixup and self.forward_size == 1:
            raise ValueError("mixup mixes clips of a micro-batch: let it hold 2 or more, not 1")
        return self

    @property
    def forward_size(self) -> int:
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    @property
    def heeds_validation(self) -> bool:
        """Whether scores of validations decide weights."""
        is_judged = self.early_stop is not None or self.select == "best"
        return is_judged or self.schedule == "plateau"


# --- the root --------------------------------------------------------------------------------


CHANCE = "prior"  # beside models, in summaries of scores


class Config(Section):
    """The whole job. `model` names the entries of `models` that `train` works on."""

    run: Path
    source: Source
    split: SplitConfig = SplitConfig()
    shards: ShardsConfig = ShardsConfig()
    audio: AudioConfig = AudioConfig()
    frames: FramesConfig = MelFrames()
    quarantine: QuarantineConfig = QuarantineConfig()
    codebook: CodebookConfig = CodebookConfig()
    models: dict[Name, Model] = Field(default_factory=dict)
    model: Annotated[tuple[Name, ...], BeforeValidator(split_commas)] = ()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _frames_choose_the_front_end(cls, tree: Any) -> Any:
        """PCEN is of log-mel frames; others are standardised, where nothing else is asked for."""
        frames = tree.get("frames", {}) if isinstance(tree, dict) else {}
        is_mel = not isinstance(frames, dict) or frames.get("kind", "mel") == "mel"
        codebook = tree.get("codebook", {}) if isinstance(tree, dict) else None
        if is_mel or not isinstance(codebook, dict):
            return tree
        asked = codebook.get("front_end", {})
        if not isinstance(asked, dict) or asked.keys() & {"steps", "preset"}:
            return tree
        return {**tree, "codebook": {**codebook, "front_end": {"preset": "logmel", **asked}}}

    @field_validator("models")
    @classmethod
    def _no_model_is_chance(cls, models: dict[str, Model]) -> dict[str, Model]:
        if CHANCE in models:
            raise ValueError(f"{CHANCE} is what scores call chance: give it another name")
        return models

    @field_validator("model")
    @classmethod
    def _models_exist(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Of the field, so that its fault stands beside those of others."""
        models = info.data.get("models")
        if models is None:  # it has faults of its own
            return names
        unknown = [name for name in names if name not in models]
        if unknown:
            known = ", ".join(models) or "none"
            raise ValueError(
                f"no entry {', '.join(unknown)} under models (known: {known}): describe it there, "
                "or for a model of an earlier command line, give its run in place of the config"
            )
        return names

    @model_validator(mode="after")
    def _models_learn_labels(self) -> Self:
        if self.model and isinstance(self.source, TableSource) and self.source.targets:
            raise ValueError(
                "model: models here learn labels, source.targets are numbers: leave one out "
                "(model=[] makes tokens and stops there)"
            )
        return self

    @model_validator(mode="after")
    def _frames_are_read_by_the_stream(self) -> Self:
        of_frames = [name for name in self.model if isinstance(self.models.get(name), FrameModel)]
        if self.train.augment is not None:
            of_frames.append("train.augment")
        for setting, usual in (("reader", "stream"), ("remote", None), ("on_damage", "raise")):
            if of_frames and getattr(self.data, setting) != usual:
                raise ValueError(
                    f"data.{setting} is of tokens, and {', '.join(of_frames)} reads frames: leave "
                    "one out"
                )
        return self

    @model_validator(mode="after")
    def _changes_can_be_made(self) -> Self:
        drawn = [name for name in ("span_masks", "mixup") if getattr(self.train, name)]
        if drawn and self.data.reader != "stream":
            raise ValueError(
                f"train: {' and '.join(drawn)} go by a clip's place in the stream, and data.reader="
                f"{self.data.reader} knows none: leave one out"
            )
        if self.train.augment is not None and isinstance(self.frames, MfccFrames):
            raise ValueError(
                "train.augment changes the power of log-mel frames, and frames.kind is mfcc: leave "
                "it out, or set frames.kind=mel"
            )
        return self

    @model_validator(mode="after")
    def _no_weights_hang_on_damage(self) -> Self:
        """What is masked may differ from host to host; the loss must not."""
        if self.train.pos_weight_cap is not None and self.data.on_damage == "mask":
            raise ValueError(
                "train.pos_weight_cap counts the classes of all clips, and data.on_damage=mask "
                "leaves some out: mend the run (`python -m shards verify RUN --repair`), or leave "
                "one out"
            )
        return self

    @model_validator(mode="after")
    def _source_bytes_are_of_one_clip(self) -> Self:
        if self.audio.store == "source" and self.source.windows is not None:
            raise ValueError("audio.store=source: windows are parts of files; use flac or none")
        return self

    @model_validator(mode="after")
    def _the_front_end_fits_the_frames(self) -> Self:
        front_end = self.codebook.front_end
        takes_power = any(isinstance(step, PcenStep) for step in front_end.steps)
        if takes_power and self.frames.kind != "mel":
            raise ValueError(
                f"codebook.front_end: pcen is of log-mel frames, and frames.kind is "
                f"{self.frames.kind}: set codebook.front_end=logmel"
            )
        width = front_end.width(self.frames.num_bins)
        parts = self.codebook.codebooks if self.codebook.combine == "product" else 1
        if width % parts:
            raise ValueError(f"codebook.codebooks: {parts} do not divide vectors of {width}")
        return self

    @model_validator(mode="after")
    def _filters_fit_the_sample_rate(self) -> Self:
        nyquist_hz = self.audio.sample_rate_hz / 2
        low_hz, high_hz = self.frames.f_min_hz, self.frames.f_max_hz
        if low_hz >= nyquist_hz:
            raise ValueError(f"frames.f_min_hz {low_hz} is not below {nyquist_hz} Hz")
        if high_hz is not None and not low_hz < high_hz <= nyquist_hz:
            raise ValueError(
                f"frames.f_max_hz {high_hz} is not between f_min_hz {low_hz} and {nyquist_hz} Hz, "
                "half the sample rate"
            )
        return self
