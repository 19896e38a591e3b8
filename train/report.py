"""`train report`: one self-contained HTML file a model, which opens offline.

It says first what matters: the scores, beside those of chance and of the bag of tokens.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from configs.console import say
from configs.frames import FRAMES
from configs.load import dump_config
from configs.models import BagModel
from configs.schema import Config
from pipeline.audio.refusal import REASONS
from shards.atomic import write_whole
from shards.audit import JOURNAL_NAME
from shards.commit import CommitRecord
from shards.events import timed
from shards.frames import FramesTM, read_shard_frames
from shards.index import decoded, open_shards, read_shard_index, refusals
from shards.layout import Layout
from shards.seal import Seal
from shards.stream.remote import without_secrets
from train import figures
from train.data import TokenData, job_data
from train.evaluate import scores_of
from train.jobs import Job, jobs
from train.journal import Journal

REPORT_NAME = "report.html"
SCORES = {
    "accuracy": "accuracy",
    "map": "mAP (macro)",
    "f1_micro": "F1 micro",
    "f1_macro": "F1 macro",
    "hamming": "Hamming score",
}
STYLE = """
:root { color-scheme: light dark; --line: #8a8f9840; --bar: #3b82c4; --soft: #5b616b; }
@media (prefers-color-scheme: dark) { :root { --soft: #a3a9b3; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.bar { display: inline-block; height: .6em; background: var(--bar); border-radius: 2px; }
.scroll { overflow-x: auto; }
svg { display: block; color: var(--soft); }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 6px; }
p.note { color: var(--soft); }
"""


def run(config: Config) -> int:
    """Write the report of every neural model that the config names, scoring it if need be."""
    layout = Layout(config.run)
    with timed(layout, "report"):
        for job in jobs(config):
            if isinstance(job.model, BagModel):
                say(f"report {job.name}: a bag's scores stand in the reports of the other models")
                continue
            path = job.directory / REPORT_NAME
            write_whole(job.partial, path, build(config, job).encode())
            say(f"report: {path}")
    return 0


def build(config: Config, job: Job) -> str:
    """The whole page of one model."""
    data = job_data(config, job)
    scores = scores_of(config, job)
    sections = [
        ("Scores", _scores_table(config, job, scores)),
        ("Training", figures.curves(Journal(job.directory / JOURNAL_NAME, job.partial).read())),
        ("Classes", _class_table(data, scores)),
        ("Tokens", _token_section(data)),
        ("A clip and its tokens", _clip_section(config, data)),
        ("Clips", _clips_section(job.layout)),
        ("Config", f"<pre>{escape(without_secrets(dump_config(config)))}</pre>"),
    ]
    body = "".join(f'<h2>{title}</h2><div class="scroll">{html}</div>' for title, html in sections)
    title = f"{job.name}: {100 * scores['map']:.1f} % mAP"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>"
        f'<p class="note">{scores["clips"]} {scores["split"]} clips, {len(data.classes)} classes, '
        f"{escape(str(job.layout.root))}</p>{body}</html>"
    )


def _scores_table(config: Config, job: Job, scores: dict[str, Any]) -> str:
    """This model, the bag of the same tokens where it is trained, and chance."""
    columns = [name for name in SCORES if name in scores]
    rows = [(job.name, scores)]
    rows += [(bag.name, scores_of(config, bag)) for bag in _bags(config, job)]
    head = "".join(f"<th>{SCORES[name]}</th>" for name in columns)
    body = "".join(
        _row([name, *(f"{100 * values[column]:.2f} %" for column in columns)])
        for name, values in rows
    )
    prior = {"map": f"{100 * scores['prior_map']:.2f} %"}
    body += _row(["class frequencies only", *(prior.get(column, "") for column in columns)])
    return f"<table><tr><th>model</th>{head}</tr>{body}</table>"


def _bags(config: Config, job: Job) -> list[Job]:
    same = (other for other in jobs(config) if other.tokens == job.tokens)
    return [other for other in same if isinstance(other.model, BagModel) and other.record()]


def _clips_section(layout: Layout) -> str:
    """How many clips there were, and which could not be used."""
    seal = open_shards(layout)
    total, ok = seal.total("clips"), seal.total("ok")
    rows = [
        f"<tr><td>{group.reason}<br>{REASONS.get(group.reason, '')}</td><td>{group.count}</td>"
        f"<td>{escape(', '.join(group.examples))}</td></tr>"
        for group in refusals(layout, seal.records)
    ]
    table = f"<table><tr><th>quarantine</th><th>clips</th><th>such as</th></tr>{''.join(rows)}"
    summary = f"<p>{total} clips = {ok} decoded + {total - ok} in quarantine.</p>"
    return summary + (f"{table}</table>" if rows else "")


def _class_table(data: TokenData, scores: dict[str, Any]) -> str:
    """Average precision of every class with positives, best first."""
    triples = zip(
        data.classes, scores["per_class"]["ap"], scores["per_class"]["positives"], strict=True
    )
    known = [(name.name, ap, count) for name, ap, count in triples if ap is not None]
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{count}</td><td>{100 * ap:.1f} %</td>"
        f'<td style="text-align:left;width:50%"><span class="bar" style="width:{100 * ap:.1f}%">'
        "</span></td></tr>"
        for name, ap, count in sorted(known, key=lambda row: -row[1])
    )
    return f"<table><tr><th>class</th><th>clips</th><th>AP</th><th></th></tr>{body}</table>"


def _token_section(data: TokenData) -> str:
    rows = data.rows("train")
    tokens_S = data.source.read(rows).flat()[:, 0]
    counts_K = np.bincount(tokens_S, minlength=data.codebook.vocabulary)
    share_K = counts_K[counts_K > 0] / counts_K.sum()
    perplexity = 2 ** -(share_K * np.log2(share_K)).sum()
    text = (
        f"{(counts_K > 0).sum()} of {data.codebook.vocabulary} tokens occur in the training clips; "
        f"perplexity {perplexity:.0f}; the ten most frequent make "
        f"{np.sort(share_K)[-10:].sum():.0%} of all."
    )
    return f'<p class="note">{text}</p>{figures.token_usage(counts_K)}'


def _clip_section(config: Config, data: TokenData) -> str:
    """The first held-out clip."""
    row = int(data.whole(data.rows(data.test_split))[0])
    frames_TM = _frames_of(open_shards(Layout(config.run)), data.ids[row])
    tokens_T = data.source.read(np.array([row])).flat()[:, 0]
    names = ", ".join(
        data.classes[c].name for c in np.flatnonzero(data.targets(np.array([row]))[0])
    )
    rate_hz = data.codebook.sample_rate_hz
    hop_s = FRAMES.validate_python(dict(data.codebook.frames)).hop_samples(rate_hz) / rate_hz
    return (
        f'<p class="note">{escape(data.ids[row])}: {escape(names)}</p>'
        f"{figures.spectrogram(frames_TM, tokens_T, data.codebook.vocabulary, hop_s)}"
    )


def _frames_of(seal: Seal, clip_id: str) -> FramesTM:
    """The stored frames of one clip."""
    for record in seal.records:
        rows = _rows_of(seal, record, clip_id)
        if rows:
            start = rows[0]["row_start"]
            frames_TM = read_shard_frames(seal.layout, record)
            return frames_TM[start : start + rows[0]["num_frames"]]
    raise AssertionError(f"{clip_id} has tokens but no frames")


def _rows_of(seal: Seal, record: CommitRecord, clip_id: str) -> list[dict[str, Any]]:
    table = decoded(read_shard_index(seal.layout, record))
    return [row for row in table.to_pylist() if row["id"] == clip_id]


def _row(cells: list[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
