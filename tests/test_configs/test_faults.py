"""Faults of a config: one line each, under its path, in the words of its user."""

from __future__ import annotations

import pytest

from tests.test_configs.samples import MINIMAL, FaultsOf, WriteYaml


def test_every_fault_is_listed_at_once_under_its_own_path(
    write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    path = write_yaml("""\
        run: r
        source: {kind: audioset, root: d, classes: c, sets: {train: {segmets: s.csv}}}
        codebook: {k: 1, metrik: l2}
        frames: {n_mels: many}
        models:
          big: {kind: brt}
          bag: {kind: bert, widht: 3}
          odd: {kind: bert, width: 7, heads: 2}
        codbook: {}
        train: 5
        """)
    faults = dict(fault.split(": ", 1) for fault in faults_of(path))
    assert faults.pop("models.big.kind").startswith(
        "no kind brt (did you mean bert?); it is one of"
    )
    assert faults.pop("train").startswith("must be a mapping of settings: epochs, batch_size, ")
    assert faults == {
        "frames.n_mels": "must be a whole number (got 'many')",
        "source.sets.train.segmets": "unknown key (did you mean segments?)",
        "codebook.k": "must be greater than or equal to 2 (got 1)",
        "codebook.metrik": "unknown key (did you mean metric?)",
        "models.bag.widht": "unknown key (did you mean width?)",
        "models.odd": "width 7 is not a multiple of heads 2",
        "codbook": "unknown key (did you mean codebook?)",
    }


def test_a_section_that_may_be_absent_knows_its_keys(
    write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    path = write_yaml(MINIMAL + "train: {augment: {gain: 6}}\n")
    assert faults_of(path) == ["train.augment.gain: unknown key (did you mean gain_db?)"]


def test_a_key_of_a_section_at_the_top_is_understood(
    write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    path = write_yaml(MINIMAL + "order: window\nseed: 3\n", "top.yaml")
    assert "order: unknown key (did you mean data.order?)" in faults_of(path)
    (fault,) = [fault for fault in faults_of(path) if fault.startswith("seed")]
    assert fault.startswith("seed: unknown key (did you mean ")
    assert "train.seed" in fault


def test_a_model_that_is_not_described_stands_beside_other_faults(
    write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    faults = faults_of(write_yaml(MINIMAL + "model: [bag]\ntrain: {epochs: many}"))
    assert [fault.split(" (")[0] for fault in faults] == [
        "model: no entry bag under models",
        "train.epochs: must be a whole number",
    ]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "models: {b: {width: 8}}",
            "models.b.kind: missing; it is one of bag, linear, lstm, bert,",
        ),
        ("models: {b: bert}", "models.b: must be a mapping of settings (got 'bert')"),
        ("frames: {kind: mell}", "frames.kind: no kind mell (did you mean mel?); it is one of mel"),
        ("model:", "model: must be a list, as a,b,c; nothing was given"),
        ("train: {lr: fast}", "train.lr: must be a number (got 'fast')"),
        ("train: {compile: 7}", "train.compile: must be true or false (got 7)"),
        ("models: {prior: {kind: bag}}", "models: prior is what scores call chance: give it an"),
        ("train: {lr: .inf}", "train.lr: "),
        ("cluster: {memory_limit: banana}", "cluster.memory_limit: "),
        ("frames: {f_min_hz: 20000}", "frames.f_min_hz 20000.0 is not below 11025.0"),
        ("train: {augment: 6}", "train.augment: must be a mapping of settings: gain_db, "),
    ],
)
def test_faults_are_told_in_the_words_of_a_config(
    section: str, said: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    (fault,) = faults_of(write_yaml(MINIMAL + section))
    assert fault.startswith(said)
