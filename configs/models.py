"""The config's `models` section: what can be trained on tokens and on frames."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from configs.section import Section, Share


class BagModel(Section):
    """Tf-idf of a clip's tokens and logistic regression: the baseline to beat."""

    kind: Literal["bag"]
    inverse_regularisation: PositiveFloat = 10.0


class NeuralModel(Section):
    """What all models that the training loop trains have in common."""

    epochs: PositiveInt | None = None  # None: train.epochs
    lr: PositiveFloat | None = None  # None: train.lr
    dropout: Share = 0.1


class TokenModel(NeuralModel):
    """What models of tokens have in common: their embeddings start from the centroids that tokens
    stand for, or are learnt from nothing; with `bag_path`, logits that are linear in how often
    each token occurs are added to the model's."""

    embedding: Literal["random", "centroids"] = "centroids"
    bag_path: bool = False


class LinearModel(TokenModel):
    """Token embedding, mean over the clip's real tokens, one linear layer."""

    kind: Literal["linear"]
    width: PositiveInt = 256


class LstmModel(TokenModel):
    """Token embedding and a bidirectional LSTM; its last states, or a mean, are classified."""

    kind: Literal["lstm"]
    pooling: Literal["last", "mean", "attention"] = "last"
    width: PositiveInt = 256
    hidden: PositiveInt = 512
    layers: PositiveInt = 1


class BertShape(NeuralModel):
    """The encoder of a BERT. `stride` halves the places of a clip by convolutions of that many
    together before the encoder, which then needs fewer positions."""

    layers: PositiveInt = 12
    width: PositiveInt = 768
    heads: PositiveInt = 12
    max_positions: PositiveInt = 1024
    stride: Literal[1, 2, 4, 8] = 1
    pooling: Literal["cls", "mean", "attention"] = "cls"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class BertModel(BertShape, TokenModel):
    """A BERT encoder from scratch with its own CLS and PAD ids beside the tokens."""

    kind: Literal["bert"]


class FrameModel(NeuralModel):
    """What models of frames have in common: they read what the codebook's front end makes of a
    clip's frames (`vectors`: what tokens stand for, before they are tokens), or the frames as they
    are stored."""

    reads: Literal["vectors", "frames"] = "vectors"


class BertFramesModel(BertShape, FrameModel):
    """A BERT encoder from scratch over frames: what its tokens lose is measured against it."""

    kind: Literal["bert_frames"]


class CnnModel(FrameModel):
    """Convolutions of 3 x 3, each followed by a maximum over 2 x 2, the mean over time, and a
    hidden layer (0: none). The defaults are audio-tokens' CNN; four layers of `channels=
    [16, 32, 64, 128]` and no hidden one have 0.1 million parameters."""

    kind: Literal["cnn"]
    channels: tuple[PositiveInt, ...] = (32, 64)
    hidden: NonNegativeInt = 256


class MlpModel(FrameModel):
    """Three linear layers over all frames of a clip side by side."""

    kind: Literal["mlp"]
    hidden: tuple[PositiveInt, PositiveInt] = (512, 256)


class AstModel(FrameModel):
    """The Audio Spectrogram Transformer, of transformers: from scratch, or from `pretrained`, a
    directory or a name on the Hugging Face hub. It wants frames.kind=fbank, and takes them less
    `mean`, divided by twice `std`, as its own feature extractor does."""

    kind: Literal["ast"]
    reads: Literal["frames"] = "frames"  # as they are stored
    layers: PositiveInt = 12
    width: PositiveInt = 768
    heads: PositiveInt = 12
    max_length: PositiveInt = 1024  # frames; a shorter clip is filled up
    mean: float = -4.2677393  # of AudioSet, as AST's authors found
    std: PositiveFloat = 4.5689974
    pretrained: str | None = None  # None: random weights


Model = Annotated[
    BagModel
    | LinearModel
    | LstmModel
    | BertModel
    | BertFramesModel
    | CnnModel
    | MlpModel
    | AstModel,
    Field(discriminator="kind"),
]
