"""A config is read whole, every fault in one message, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from configs.errors import ConfigError
from configs.load import dump_config, load_config, merge
from configs.models import LstmModel
from configs.schema import Config
from configs.sources import EscSource
from tests.test_configs.samples import MINIMAL, MODELS, SHIPPED, FaultsOf, WriteYaml


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump_config(config))
    assert load_config(saved) == config
    assert config.run
    assert config.model or path.name in ("audioset.yaml", "audioset-hub.yaml")


def test_a_minimal_config_gets_every_default(write_yaml: WriteYaml) -> None:
    config = load_config(write_yaml(MINIMAL))
    assert config == Config(run=Path("r"), source=EscSource(kind="esc", root="d"))
    assert (config.codebook.k, config.audio.sample_rate_hz) == (500, 22_050)


def test_the_message_names_the_file_and_counts_the_faults(write_yaml: WriteYaml) -> None:
    path = write_yaml(MINIMAL + "xyz: red\nframes: {n_fft: -1}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    head, *lines = str(raised.value).splitlines()
    assert head == f"{path}: 2 faults"
    assert [line.strip() for line in lines] == list(raised.value.faults)
    assert "xyz: unknown key" in raised.value.faults, "nothing is like it: no suggestion"


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words", "3"])
def test_a_config_is_a_mapping(text: str, write_yaml: WriteYaml, faults_of: FaultsOf) -> None:
    (fault,) = faults_of(write_yaml(text))
    assert fault.startswith("must be a mapping")


@pytest.mark.parametrize(
    "text", ["run: [", "run: 'open", "run: r\n\tsource: x", "x: !!python/name:os.system"]
)
def test_bad_or_unsafe_yaml_is_a_fault(
    text: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    (fault,) = faults_of(write_yaml(text))
    assert fault.startswith("not valid YAML")


def test_bytes_that_are_no_text_are_a_fault(tmp_path: Path, faults_of: FaultsOf) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"run: \xff\xfe")
    assert "not valid YAML" in faults_of(path)[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: a\nrun: b\n", "line 1: run is set twice"),
        (MINIMAL + "frames: {n_fft: 512, n_fft: 1024}\n", "line 3: n_fft is set twice"),
    ],
)
def test_a_key_written_twice_is_refused(
    text: str, said: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    assert said in faults_of(write_yaml(text))[0]


def sections(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Where every section lies that is a model, or one or nothing."""
    for name, field in model.model_fields.items():
        members = [field.annotation, *get_args(field.annotation)]
        found = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        if len(found) == 1:
            yield path + name
            yield from sections(found[0], f"{path}{name}.")


@pytest.mark.parametrize("section", [*sections(Config)])
def test_a_wrong_key_in_any_section_is_a_fault(
    section: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    assert f"{section}.xyz: unknown key" in faults_of(write_yaml(MINIMAL), f"{section}.xyz=1")


def test_keys_that_are_missing_are_faults(write_yaml: WriteYaml, faults_of: FaultsOf) -> None:
    assert faults_of(write_yaml(MINIMAL), "cluster.tls.ca=ca.pem") == [
        "cluster.tls.cert: missing",
        "cluster.tls.key: missing",
    ]


def test_yaml_merge_keys_work(write_yaml: WriteYaml) -> None:
    text = "models:\n  a: &base {kind: lstm, width: 8}\n  b: {<<: *base, hidden: 4}\n"
    model = load_config(write_yaml(MINIMAL + text)).models["b"]
    assert model == LstmModel(kind="lstm", width=8, hidden=4)


def test_a_missing_file_suggests_its_neighbour(write_yaml: WriteYaml, faults_of: FaultsOf) -> None:
    path = write_yaml(MINIMAL, "esc10.yaml")
    (fault,) = faults_of(path.with_name("esc01.yaml"))
    assert fault == "there is no such config file or run (did you mean esc10.yaml?)"
    (fault,) = faults_of(path.parent / "nowhere" / "esc10.yaml")
    assert fault.startswith("there is no such config file or run; configs/ holds some")


# --- run directories -------------------------------------------------------------------------


def test_a_run_directory_stands_for_its_saved_config(write_yaml: WriteYaml) -> None:
    path = write_yaml(MODELS, "config.yaml")
    config = load_config(path.parent, ["codebook.k=7"])
    assert config == load_config(path, ["codebook.k=7", f"run={path.parent}"])


def test_a_directory_without_a_config_is_no_run(tmp_path: Path, faults_of: FaultsOf) -> None:
    assert faults_of(tmp_path) == ["this directory is no run: it holds no config.yaml"]


@given(
    k=st.integers(2, 65_535),
    lr=st.floats(1e-12, 1e12),
    run=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    letters=st.text(max_size=6),
    folds=st.lists(st.integers(1, 9)),
)
def test_any_config_survives_a_dump(
    k: int, lr: float, run: str, letters: str, folds: list[int], tmp_path_factory: Any
) -> None:
    tree = {
        "run": run,
        "source": {"kind": "esc", "root": "d"},
        "codebook": {"k": k},
        "split": {"letters": letters, "folds": folds},
        "train": {"lr": lr},
    }
    config = Config.model_validate(tree)
    saved = tmp_path_factory.getbasetemp() / "dumped.yaml"
    saved.write_text(dump_config(config), encoding="utf-8")
    assert load_config(saved) == config


# --- the codebook's section ------------------------------------------------------------------


def codebook_of(write_yaml: WriteYaml, text: str) -> Config:
    return load_config(write_yaml(MINIMAL + text))


PCEN = ["pcen", "standardise", "context", "pca"]


@pytest.mark.parametrize(
    ("text", "steps", "mask"),
    [
        ("", ["pcen", "standardise", "context", "pca"], -30.0),
        ("frames: {kind: mfcc}\n", ["standardise", "context", "pca"], None),
        ("frames: {kind: mfcc}\ncodebook: {front_end: none}\n", [], None),
        ("codebook: {front_end: seed}\n", ["minmax"], None),
        ("codebook: {front_end: [minmax, {kind: pca, dims: 8}]}\n", ["minmax", "pca"], None),
        ("codebook: {front_end: {steps: [], mask_below_db: -60}}\n", [], -60.0),
        ("codebook: {front_end: {mask_below_db: -60}}\n", PCEN, -60.0),
        ("codebook: {front_end: {preset: logmel, mask_below_db: -60}}\n", PCEN[1:], -60.0),
        ("frames: {kind: mfcc}\ncodebook: {front_end: {mask_below_db: -60}}\n", PCEN[1:], -60.0),
    ],
)
def test_a_front_end_is_a_preset_or_its_steps(
    text: str, steps: list[str], mask: float | None, write_yaml: WriteYaml
) -> None:
    front_end = codebook_of(write_yaml, text).codebook.front_end
    assert [step.kind for step in front_end.steps] == steps
    assert front_end.mask_below_db == mask


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("codebook: {front_end: pecn}\n", "must be one of none, seed, logmel, pcen"),
        ("frames: {kind: mfcc}\ncodebook: {front_end: pcen}\n", "set codebook.front_end=logmel"),
        ("codebook: {k: 65536}\n", "leaves no token to silence"),
        ("codebook: {codebooks: 5}\nmodel: []\n", "5 do not divide vectors of 64"),
        (
            "codebook: {codebooks: 4, combine: residual, metric: cosine}\n",
            "combine residual adds centroids up",
        ),
    ],
)
def test_faults_of_a_codebook_say_what_to_do(
    text: str, fault: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    assert any(fault in line for line in faults_of(write_yaml(MINIMAL + text)))


def test_all_of_uint16_may_be_centroids_where_silence_is_kept(write_yaml: WriteYaml) -> None:
    assert codebook_of(write_yaml, "codebook: {k: 65536, front_end: logmel}\n").codebook.k == 65_536


@pytest.mark.parametrize(
    ("text", "over", "steps", "mask"),
    [
        ("codebook: {front_end: pcen}\n", {"mask_below_db": None}, PCEN, None),
        ("codebook: {front_end: logmel}\n", {"mask_below_db": -50.0}, PCEN[1:], -50.0),
        ("codebook: {k: 8}\n", {"mask_below_db": None}, PCEN, None),
        ("codebook: {front_end: {mask_below_db: -20}}\n", {"preset": "seed"}, ["minmax"], -20.0),
    ],
)
def test_one_setting_of_a_front_end_leaves_the_others(
    text: str, over: dict[str, Any], steps: list[str], mask: float | None, write_yaml: WriteYaml
) -> None:
    """As `codebook.front_end.mask_below_db=null`, which messages advise."""
    tree = merge(yaml.safe_load(text), {"codebook": {"front_end": over}})
    front_end = codebook_of(write_yaml, yaml.safe_dump(tree)).codebook.front_end
    assert [step.kind for step in front_end.steps] == steps
    assert front_end.mask_below_db == mask
