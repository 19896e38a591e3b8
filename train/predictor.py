"""Predict from audio files, in three lines:

    from train.predictor import load
    predictor = load("runs/demo")
    print(predictor("dog.wav").top(3))

Files are decoded, turned into frames and tokens and scored by the functions of the stages and of
evaluation: files that are clips of a data set get its tokens and its scores, bit for bit where they
come in the same batches. Of the run only the config, the codebook and the model are read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.errors import InputError
from configs.frames import FRAMES
from configs.load import load_config
from pipeline.audio.frames import most_samples
from pipeline.audio.quantise import Quantiser
from shards.layout import Layout
from train.committed import open_model
from train.device import choose_device
from train.metrics import probabilities
from train.prediction import (
    POOLS,
    Classes,
    Pool,
    Prediction,
    Refused,
    WindowPrediction,
)
from train.scorer import Scorer, scorer_of
from train.windows import Cut, Heard, Listener


@dataclass(frozen=True, eq=False)
class Predictor:
    """A committed model with all that leads to its scores. Not for several threads at once.

    Args:
        name: of the model.
        longest_s: what its longest clip could have had; the usual window.
        batch_size: windows that are scored at once, as evaluation does.
    """

    name: str
    classes: Classes
    longest_s: float
    has_positions: bool
    batch_size: int
    listener: Listener
    quantiser: Quantiser
    scorer: Scorer

    def __call__(
        self,
        file: str | Path,
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        pool: Pool = "mean",
    ) -> Prediction:
        """Of one file; raises InputError with the reason where nothing of it can be heard."""
        (found,) = self.stream([file], window_s=window_s, hop_s=hop_s, pool=pool)
        if isinstance(found, Refused):
            raise InputError(str(found))
        return found

    def stream(
        self,
        files: Iterable[str | Path],
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        pool: Pool = "mean",
    ) -> Iterator[Prediction | Refused]:
        """Of any number of files, in their order, in memory for `batch_size` windows and the
        tokens and scores of one file.

        A file is cut into windows of `window_s` every `hop_s`, if it is longer; `pool` is what is
        made of their scores. Raises InputError for what these cannot be.
        """
        if pool not in POOLS:
            raise InputError(f"pool {pool}: it is one of {', '.join(POOLS)}")
        cut = Cut.of(self.longest_s, self.has_positions, window_s, hop_s)
        return self._stream(files, cut, pool)

    def _stream(
        self, files: Iterable[str | Path], cut: Cut, pool: Pool
    ) -> Iterator[Prediction | Refused]:
        every = (heard for file in files for heard in self.listener.hear(str(file), cut))
        windows: list[WindowPrediction] = []
        for together in _batches(every, self.batch_size):
            for heard, window in zip(together, self._scored(together), strict=True):
                windows.append(window)
                if heard.is_last:
                    yield self._of_file(heard, windows, pool)
                    windows = []

    def _scored(self, together: list[Heard]) -> list[WindowPrediction]:
        clips = [heard.frames_TM for heard in together if heard.frames_TM is not None]
        tokens = self.quantiser.tokens_of(clips)
        logits = iter(zip(tokens, self.scorer(tokens, clips), strict=True) if clips else ())
        windows = []
        for heard in together:
            place = heard.start_s, heard.stop_s
            if heard.frames_TM is None:
                windows.append(WindowPrediction(*place, refusal=heard.refusal))
                continue
            tokens_TQ, logits_C = next(logits)
            (scores_C,) = probabilities(logits_C[None], self.classes.task)
            windows.append(WindowPrediction(*place, tokens_TQ, logits_C, scores_C))
        return windows

    def _of_file(
        self, last: Heard, windows: list[WindowPrediction], pool: Pool
    ) -> Prediction | Refused:
        file = last.file.encode(errors="backslashreplace").decode()  # names are bytes to a disk
        refusals = [one.refusal for one in windows if one.refusal is not None]
        if last.is_deadly or len(refusals) == len(windows):
            refusal = refusals[-1 if last.is_deadly else 0]
            return Refused(file, refusal.reason, refusal.detail)
        return Prediction(file, last.duration_s, tuple(windows), self.classes, pool)


def load(run: str | Path, model: str | None = None) -> Predictor:
    """The predictor of a run's model: the one of that name, or the only one, bags aside.

    Raises ConfigError where there is no run, NotMadeYet where nothing is trained, InputError where
    no or several models are meant, IntegrityError where a file of it changed.
    """
    config, layout = load_config(Path(run)), Layout(Path(run))
    committed = open_model(layout, model)
    codebook = committed.codebook()
    frames, rate_hz = FRAMES.validate_python(dict(codebook.frames)), codebook.sample_rate_hz
    audio = config.audio.model_copy(update={"sample_rate_hz": rate_hz, "store": "none"})
    device = choose_device("cpu" if config.train.device == "cpu" else "auto")
    predictor = Predictor(
        name=committed.name,
        classes=Classes(committed.titles, committed.task, committed.thresholds()),
        longest_s=most_samples(committed.longest, rate_hz, frames) / rate_hz,
        has_positions=committed.has_positions,
        batch_size=config.train.forward_size,
        listener=Listener(audio, frames),
        quantiser=Quantiser(codebook),
        scorer=scorer_of(committed, codebook, frames, device),
    )
    weakref.finalize(predictor, predictor.listener.sandbox.close)
    return predictor


def _batches(every: Iterable[Heard], size: int) -> Iterator[list[Heard]]:
    """Windows in their order, so many with something to hear at a time."""
    together: list[Heard] = []
    num_clips = 0
    for heard in every:
        together.append(heard)
        num_clips += heard.frames_TM is not None
        if num_clips == size:
            yield together
            together, num_clips = [], 0
    if together:
        yield together
