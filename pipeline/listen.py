"""Verb `listen`: hear what tokens keep. One HTML file, which opens offline.

Clips beside what is left of them: the sound of their frames, and of their tokens under every
codebook of the run. And every token: its spectrum, how often it occurs, the clips that have it
most, its place among the others, and its sound.

Legend: T frames of a clip, M mel bands, Q codebooks, V tokens in each, C clips.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.codebook import FrontEndConfig
from configs.console import Progress, say
from configs.errors import InputError, NotMadeYet
from configs.frames import FRAMES, MelFrames
from pipeline.audio.encode import flac_bytes
from pipeline.audio.half import to_float32
from pipeline.audio.mel import mel_filters
from pipeline.audio.quantise import Quantiser, TokensTQ
from pipeline.audio.resynth import require_mel, waveform_of
from pipeline.audio.shown import data_url, picture, script_safe
from shards.atomic import write_whole
from shards.codebook import METRICS, STAGE, Codebook, codebook_file, fold_of, open_codebook
from shards.commit import CommitRecord, stage_logs
from shards.frames import FramesTM, read_shard_frames
from shards.index import decoded, open_shards, read_shard_index
from shards.layout import Layout
from shards.plan import load_bound
from shards.stream.audio import open_audio

PAGE_NAME = "listen.html"
TEMPLATE = Path(__file__).with_name("listen_page.html")
MOST_TOKENS = 2_000  # of a codebook: the most frequent
TYPICAL_CLIPS = 3  # shown for a token, of
SEARCHED_CLIPS = 1_024
DEFAULT_CLIPS = 3
LONGEST_S = 10.0  # of a clip that is heard

Json = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """A decoded clip: its row among all, and its frames."""

    row: int
    id: str
    labels: str
    frames_TM: FramesTM


@dataclass(frozen=True)
class Book:
    """A committed codebook at work."""

    name: str
    codebook: Codebook
    quantiser: Quantiser
    metrics: Json


def listen(run: Path, wanted: Sequence[str], names: Sequence[str]) -> Path:
    """Write the page; returns its path.

    Args:
        run: the run's directory.
        wanted: ids of the clips to hear; none: the first ones of different classes.
        names: of codebooks; none: every one that is committed, but of folds only the first.

    Raises NotMadeYet before there is a codebook, InputError for an id or name that is not there,
    and where frames are no log-mel frames.
    """
    layout = Layout(run)
    books = [_book(layout, name) for name in names or _names(layout)]
    config = require_mel(FRAMES.validate_python(dict(books[0].codebook.frames)))
    rate_hz = books[0].codebook.sample_rate_hz
    searched = list(_clips(layout, frozenset()))
    heard = list(_clips(layout, frozenset(wanted))) if wanted else _of_different_classes(searched)
    if missing := set(wanted) - {clip.id for clip in heard}:
        known = ", ".join(clip.id for clip in searched[:DEFAULT_CLIPS])
        raise InputError(
            f"{run}: no decoded clip has the id {', '.join(sorted(missing))}; ids are as in the "
            f"index, {known} ..."
        )
    data = {
        "run": run.resolve().name,
        "rate_hz": rate_hz,
        "bands": _bands(rate_hz, config),
        "books": [_of_book(book, searched) for book in books],
        "clips": _heard(layout, heard, books, rate_hz, config),
    }
    page = TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", script_safe(data))
    write_whole(layout.partial, layout.root / PAGE_NAME, page.encode())
    say(f"{layout.root / PAGE_NAME}: {len(heard)} clips, {', '.join(book.name for book in books)}")
    return layout.root / PAGE_NAME


def _names(layout: Layout) -> list[str]:
    """Every codebook; folds differ in their clips only, so that one of each k is enough."""
    logs = [log for log in stage_logs(layout) if log.stage == STAGE and log.record(0) is not None]
    folds = [(*fold, log.name) for log in logs if (fold := fold_of(log.name))]
    firsts = {min(same)[2] for _, same in groupby(sorted(folds), key=itemgetter(0))}
    kept = sorted(log.name for log in logs if not fold_of(log.name) or log.name in firsts)
    if not kept:
        raise NotMadeYet(
            f"{layout.root}: no codebook to listen to; run `python -m pipeline codebook` first"
        )
    return kept


def _book(layout: Layout, name: str) -> Book:
    codebook, _ = open_codebook(layout, name)
    metrics = json.loads(codebook_file(layout, name, METRICS).read_bytes())
    return Book(name, codebook, Quantiser(codebook), metrics)


def _clips(layout: Layout, wanted: frozenset[str]) -> Iterator[Clip]:
    """The wanted clips, or the first SEARCHED_CLIPS, with their frames."""
    classes = load_bound(layout).classes
    row, left = 0, len(wanted) or SEARCHED_CLIPS
    for record in open_shards(layout).records:
        rows = _rows_of(layout, record)
        asked = [here for here in rows if not wanted or here["id"] in wanted][:left]
        frames_TM = read_shard_frames(layout, record) if asked else None
        for here in asked:
            if frames_TM is not None:
                start, stop = here["row_start"], here["row_start"] + here["num_frames"]
                labels = ", ".join(classes[label].name for label in here["labels"])
                yield Clip(row + here["place"], here["id"], labels, frames_TM[start:stop])
        row, left = row + len(rows), left - len(asked)
        if not left:
            return


def _rows_of(layout: Layout, record: CommitRecord) -> list[Json]:
    columns = ["id", "labels", "row_start", "num_frames", "status"]
    rows = decoded(read_shard_index(layout, record, columns)).to_pylist()
    return [{**row, "place": place} for place, row in enumerate(rows)]


def _of_different_classes(clips: Sequence[Clip]) -> list[Clip]:
    """The first clips, each of another class than those before, if there are so many."""
    firsts = {clip.labels: clip for clip in reversed(clips)}.values()
    chosen = sorted(firsts, key=lambda clip: clip.row)[:DEFAULT_CLIPS]
    others = [clip for clip in clips if clip not in chosen]
    return chosen + others[: DEFAULT_CLIPS - len(chosen)]


# --- clips -------------------------------------------------------------------------------------


def _heard(
    layout: Layout, clips: Sequence[Clip], books: Sequence[Book], rate_hz: int, config: MelFrames
) -> list[Json]:
    """Each clip as it was, and as it sounds from its frames and from its tokens."""
    found = []
    with Progress("listen", len(clips), "clips") as progress:
        for clip in clips:
            most = int(LONGEST_S * rate_hz / config.hop_length) + 1
            frames_TM = to_float32(clip.frames_TM)[:most]
            versions = [{**version, **picture(frames_TM)} for version in _original(layout, clip)]
            versions.append(_version("its frames", frames_TM, rate_hz, config))
            for book in books:
                tokens_TQ = book.quantiser.tokens(clip.frames_TM)[:most]  # a clip's, not a part's
                made_TM = book.quantiser.frames(tokens_TQ)
                off_db = float(np.sqrt(((made_TM - frames_TM) ** 2).mean()))
                title = f"tokens of {book.name}"
                version = _version(title, made_TM, rate_hz, config)
                number = len(np.unique(tokens_TQ, axis=0))
                what = "tokens" if book.codebook.num_codebooks == 1 else "combinations"
                said = f"{off_db:.1f} dB rms off, {number} different {what}"
                versions.append({**version, "said": said})
            found.append({"id": clip.id, "labels": clip.labels, "versions": versions})
            progress.advance(1)
    return found


def _original(layout: Layout, clip: Clip) -> list[Json]:
    """The audio as the run keeps it, where it does."""
    try:
        (item,) = open_audio(layout).read(np.array([clip.row])).items
    except InputError:
        return []
    return [{"title": "original", "audio": data_url(item)}]


def _version(
    title: str, frames_TM: npt.NDArray[np.float32], rate_hz: int, config: MelFrames
) -> Json:
    sound_N = waveform_of(frames_TM, rate_hz, config)
    return {
        "title": title,
        "audio": data_url(flac_bytes(sound_N, rate_hz)),
        **picture(frames_TM),
    }


# --- tokens ------------------------------------------------------------------------------------


def _of_book(book: Book, searched: Sequence[Clip]) -> Json:
    codebook, metrics = book.codebook, book.metrics
    part = "holdout" if "holdout" in metrics else "train"
    tokens = book.quantiser.tokens_of([clip.frames_TM for clip in searched])
    return {
        "name": book.name,
        "k": codebook.k,
        "codebooks": codebook.num_codebooks,
        "combine": codebook.combine,
        "metric": codebook.metric,
        "front_end": str(FrontEndConfig.model_validate(codebook.front_end)),
        "tokens_per_s": metrics["tokens_per_s"],
        "bits_per_s": metrics["bits_per_s"],
        "part": part,
        "errors": {name: metrics[part][name] for name in ("cosine", "l2", "db_rms", "silhouette")},
        "gaps": metrics[part]["gaps"],
        "use": [_use(use) for use in metrics["train"]["tokens"]],
        "steps": metrics["steps"],
        "map": metrics["map"],
        "tokens": [_tokens(book, q, tokens, searched) for q in range(codebook.num_codebooks)],
    }


def _use(use: Json) -> Json:
    return {name: value for name, value in use.items() if name != "counts"}


def _tokens(book: Book, q: int, tokens: Sequence[TokensTQ], clips: Sequence[Clip]) -> list[Json]:
    """The tokens of one codebook, the most frequent first: number, share, spectrum, clips."""
    counts_K = np.array(book.metrics["train"]["tokens"][q]["counts"])
    order = np.argsort(-counts_K, kind="stable")[:MOST_TOKENS]
    token_frames_VM = book.codebook.token_frames_QVM[q]
    if q:  # a term of a sum says nothing alone: beside the mean of the first codebook
        token_frames_VM = token_frames_VM + book.codebook.token_frames_QVM[
            0, : book.codebook.k
        ].mean(axis=0)
    shares_CN = np.stack([_shares(tokens_TQ[:, q], book.codebook)[order] for tokens_TQ in tokens])
    typical_CN = np.argsort(-shares_CN, axis=0, kind="stable")[:TYPICAL_CLIPS]
    return [
        {
            "token": token,
            "share": counts_K[token] / max(1, counts_K.sum()),
            "spectrum": np.rint(token_frames_VM[token]).astype(int).tolist(),
            "typical": [
                {
                    "id": clips[c].id,
                    "labels": clips[c].labels,
                    "share": round(shares_CN[c, number], 3),
                }
                for c in typical_CN[:, number].tolist()
                if shares_CN[c, number] > 0
            ],
        }
        for number, token in enumerate(order.tolist())
    ]


def _shares(tokens_T: npt.NDArray[np.uint16], codebook: Codebook) -> npt.NDArray[np.float64]:
    """The share [V] of a clip's frames that has each token."""
    counts_V = np.bincount(tokens_T, minlength=codebook.vocabulary)
    return np.asarray(counts_V / max(1, len(tokens_T)))


def _bands(rate_hz: int, config: MelFrames) -> list[Json]:
    """Of each mel band its centre, and the sum of its filter."""
    filters_MF = mel_filters(rate_hz, config)
    bins_hz = np.linspace(0, rate_hz / 2, filters_MF.shape[1])
    areas_M = np.maximum(filters_MF.sum(axis=1), 1e-9)
    centres_M = (filters_MF @ bins_hz) / areas_M
    return [
        {"hz": round(hz, 1), "area": round(area, 4)}
        for hz, area in zip(centres_M.tolist(), areas_M.tolist(), strict=True)
    ]
