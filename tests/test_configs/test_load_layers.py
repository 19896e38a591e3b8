"""What a config is made of: files that include files, and overrides above them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import load_config, merge
from configs.models import BertModel, LstmModel
from tests.test_configs.samples import MINIMAL, MODELS, FaultsOf, WriteYaml

# --- includes --------------------------------------------------------------------------------


def test_includes_merge_left_to_right_below_the_including_file(write_yaml: WriteYaml) -> None:
    write_yaml(MINIMAL + "frames: {n_fft: 256, hop_length: 64, n_mels: 8}\n", "left.yaml")
    write_yaml("frames: {hop_length: 32, n_mels: 16}\nsplit: {folds: [1, 2]}\n", "right.yaml")
    job = write_yaml(
        "include: [left.yaml, right.yaml]\nframes: {n_mels: 32}\nsplit: {folds: [3]}\n"
    )
    config = load_config(job)
    assert (config.frames.n_fft, config.frames.hop_length, config.frames.n_mels) == (256, 32, 32)
    assert config.split.folds == (3,), "lists replace"


def test_includes_are_relative_to_the_file_that_names_them(
    tmp_path: Path, write_yaml: WriteYaml, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    write_yaml(MINIMAL, "base/inner.yaml")
    write_yaml("include: inner.yaml\nframes: {n_mels: 8}\n", "base/outer.yaml")
    job = write_yaml("include: base/outer.yaml\n")
    monkeypatch.chdir("/")
    assert load_config(job).frames.n_mels == 8


def test_two_files_may_include_the_same_third(write_yaml: WriteYaml) -> None:
    write_yaml(MINIMAL, "base.yaml")
    write_yaml("include: base.yaml\nframes: {n_mels: 8}\n", "a.yaml")
    write_yaml("include: base.yaml\nframes: {n_fft: 2048}\n", "b.yaml")
    config = load_config(write_yaml("include: [a.yaml, b.yaml]\n"))
    assert (config.frames.n_mels, config.frames.n_fft) == (8, 2048)


@pytest.mark.parametrize("other", ["a.yaml", "b.yaml"])
def test_a_cycle_of_includes_is_refused(
    other: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    path = write_yaml(f"include: {other}\n", "a.yaml")
    write_yaml(f"include: [../{path.parent.name}/a.yaml]\n", "b.yaml")
    assert faults_of(path) == ["include: the file includes itself"]


def test_a_missing_include_names_the_missing_file(write_yaml: WriteYaml) -> None:
    path = write_yaml("include: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(path)


@pytest.mark.parametrize("value", ["null", "5", "[1]", "{a: b}"])
def test_a_malformed_include_is_a_fault(
    value: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    (fault,) = faults_of(write_yaml(MINIMAL + f"include: {value}\n"))
    assert fault.startswith("include: ")


# --- overrides -------------------------------------------------------------------------------


def test_overrides_reach_any_depth_and_the_last_one_wins(write_yaml: WriteYaml) -> None:
    overrides = ["codebook.k=50", "models.bert.width=96", "split.folds=[2, 4]", "codebook.k=60"]
    config = load_config(write_yaml(MODELS), overrides)
    assert config.codebook.k == 60
    assert config.models["bert"] == BertModel(kind="bert", width=96)
    assert config.split.folds == (2, 4)
    assert set(config.models) == {"bag", "lstm", "bert"}, "nothing else changed"


def test_an_override_may_add_a_whole_entry(write_yaml: WriteYaml) -> None:
    config = load_config(write_yaml(MINIMAL), ["models.x={kind: lstm, width: 8}", "model=x"])
    assert config.models["x"] == LstmModel(kind="lstm", width=8)


@pytest.mark.parametrize("text", ["bag,lstm", "bag, lstm", "[bag, lstm]", "[bag,lstm]"])
def test_model_takes_a_list_with_or_without_brackets(text: str, write_yaml: WriteYaml) -> None:
    assert load_config(write_yaml(MODELS), [f"model={text}"]).model == ("bag", "lstm")


@pytest.mark.parametrize("text", ["bag", "[bag]"])
def test_one_model_is_a_list_of_one(text: str, write_yaml: WriteYaml) -> None:
    assert load_config(write_yaml(MODELS), [f"model={text}"]).model == ("bag",)


def test_scientific_notation_is_a_number(write_yaml: WriteYaml) -> None:
    path = write_yaml(MINIMAL + "train: {weight_decay: 5e-4}\n")
    train = load_config(path, ["train.lr=1e-3"]).train
    assert (train.lr, train.weight_decay) == (0.001, 0.0005)


def test_an_equals_sign_may_stand_in_the_value(write_yaml: WriteYaml) -> None:
    assert load_config(write_yaml(MINIMAL), ["run=a=b"]).run == Path("a=b")


@pytest.mark.parametrize("override", ["codebook.k", "=3", ""])
def test_a_malformed_override_is_a_fault(
    override: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    assert faults_of(write_yaml(MINIMAL), override) == [
        f"{override}: an override is written key.path=value"
    ]


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("codebok.k=3", "codebok"),
        ("codebook.kk=3", "codebook.kk"),
        ("codebook.k=[", "codebook.k"),
        ("codebook.k=", "codebook.k"),
        ("codebook=3", "codebook"),
        ("codebook.k.deep=3", "codebook.k"),
        ("model=lost", "model"),
    ],
)
def test_overrides_are_validated_like_the_file(
    override: str, path: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    (fault,) = faults_of(write_yaml(MODELS), override)
    assert fault.startswith(f"{path}: ")


NUMBERS = st.integers(0, 9)
SECTIONS = st.dictionaries(st.sampled_from("abc"), NUMBERS)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), NUMBERS | SECTIONS)


@given(base=MAPPINGS, over=MAPPINGS)
def test_merging_keeps_all_of_the_upper_tree(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge(base, over)
    assert merge(merged, over) == merged
    assert merged.keys() == base.keys() | over.keys()
    assert merge(base, {}) == base
    assert merge({}, over) == over
