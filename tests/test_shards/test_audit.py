"""Which clips a step saw: what the training itself was given, and each clip once an epoch."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import InputError, IntegrityError, NotMadeYet
from configs.schema import Config
from pipeline.verbs import run_verb
from shards.__main__ import VERBS
from shards.audit import JOURNAL_NAME, SPEC_NAME, open_audit
from shards.layout import Layout
from shards.stream.sampler import Sampler
from tests.commands import run
from train.data import TokenData, open_data


@pytest.fixture(scope="module")
def data(finished: Config) -> TokenData:
    return open_data(Layout(finished.run), "default", finished.split, None)


def test_steps_are_those_that_the_training_saw(finished: Config, data: TokenData) -> None:
    audit = open_audit(Layout(finished.run), None)
    stream = data.stream(data.rows("train"), finished.train)
    steps = list(stream.steps())
    assert len(steps) == audit.schedule.num_steps > 2
    for number, step in enumerate(steps, 1):
        seen = [data.ids[row] for batch in step.batches for row in batch.rows_B]
        assert sorted(audit.clips(number)) == sorted(seen)


def test_each_training_clip_is_seen_once_an_epoch(finished: Config, data: TokenData) -> None:
    audit = open_audit(Layout(finished.run), "linear")
    for epoch in range(finished.train.epochs):
        assert audit.counts(epoch) == {1: len(data.rows("train"))}


def test_a_stream_that_loses_clips_is_found_out(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = open_audit(Layout(finished.run), "linear")
    usual = Sampler.examples

    def forgetful(self: Sampler, spans: Any) -> Any:
        rows, *others = usual(self, spans)
        return np.concatenate([rows[:1], rows[:-1]]), *others

    monkeypatch.setattr(Sampler, "examples", forgetful)
    counts = audit.counts(0)
    assert counts[0] == counts[2] == 1


def test_the_command(finished: Config) -> None:
    said = run("shards", "audit", finished.run, "--step", "2")
    assert said.returncode == 0
    head, *ids = said.stdout.splitlines()
    assert head.startswith("step 2 of ")
    assert [clip_id.strip() for clip_id in ids] == open_audit(Layout(finished.run), None).clips(2)
    epochs = run("shards", "audit", finished.run)
    assert epochs.returncode == 0
    assert epochs.stdout.count(": each of them") == finished.train.epochs
    assert "audit" in VERBS
    beyond = run("shards", "audit", finished.run, "--step", "0")
    assert beyond.returncode == 2
    assert "there are steps 1 to" in beyond.stderr


def test_what_cannot_be_audited(finished: Config, tmp_path: Path) -> None:
    with pytest.raises(NotMadeYet, match="no training on a stream has begun"):
        open_audit(Layout(tmp_path), None)
    with pytest.raises(NotMadeYet, match="no training has begun there"):
        open_audit(Layout(finished.run), "bag")
    copy = Layout(tmp_path / "run")
    shutil.copytree(finished.run, copy.root)
    shutil.copytree(copy.model("linear"), copy.model("other"))
    with pytest.raises(InputError, match="--model linear or other"):
        open_audit(copy, None)
    spec = copy.model("other") / SPEC_NAME
    tree = json.loads(spec.read_text())
    (tmp_path / "ids").write_text("\n".join(open_audit(copy, "linear").ids))
    spec.write_text(json.dumps(tree | {"data": {"ids": str(tmp_path / "ids")}}))
    assert open_audit(copy, "other").clips(1) == open_audit(copy, "linear").clips(1)
    seen = open_audit(copy, "linear").clips(1)[0]
    (tmp_path / "ids").write_text("\n".join({*open_audit(copy, "linear").ids} - {seen}))
    with pytest.raises(IntegrityError, match=r"other clips than .* now, or .*/ids lists others"):
        open_audit(copy, "other")
    tree["split"]["valid_share"] = 0.45
    spec.write_text(json.dumps(tree))
    with pytest.raises(IntegrityError, match="was trained on other clips"):
        open_audit(copy, "other")
    spec.write_text("{}")
    with pytest.raises(IntegrityError, match="is damaged"):
        open_audit(copy, "other")


def test_what_is_still_to_come_is_said(
    finished: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Layout(tmp_path / "run")
    shutil.copytree(finished.run, copy.root)
    journal = copy.model("linear") / JOURNAL_NAME
    kept = [line for line in journal.read_text().splitlines() if json.loads(line)["step"] <= 1]
    journal.write_text("\n".join([*kept, '{"step": 7, "lo']))  # as a kill leaves it
    assert VERBS["audit"].run(copy.root, Namespace(step=None, model=None)) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 0 (begun): ")
    assert others
    assert all(re.match(r"epoch \d+ \(to come\): ", line) for line in others)
    for step, is_ahead in ((1, False), (2, True)):
        assert VERBS["audit"].run(copy.root, Namespace(step=step, model=None)) == 0
        assert ("; to come, the log ends at step 1\n" in capsys.readouterr().out) is is_ahead
    assert VERBS["audit"].run(finished.run, Namespace(step=None, model=None)) == 0
    assert "(" not in capsys.readouterr().out


def test_tokens_of_another_codebook_are_refused(finished: Config, tmp_path: Path) -> None:
    copy = Layout(tmp_path / "run")
    shutil.copytree(finished.run, copy.root)
    open_data(copy, "default", finished.split, None)
    for path in ("codebooks/default", "commits/codebook", "commits/tokenize"):
        shutil.rmtree(copy.root / path)
    other = finished.model_copy(
        update={
            "run": copy.root,
            "codebook": finished.codebook.model_copy(update={"k": 5}),
        }
    )
    assert run_verb(other, "codebook") == 0
    with pytest.raises(IntegrityError, match="with another codebook, than the run holds now"):
        open_data(copy, "default", finished.split, None)
