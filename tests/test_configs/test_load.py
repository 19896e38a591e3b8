"""A config is read whole: includes, overrides, every fault in one message, and back again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import dump_config, load_config, merge
from configs.schema import BertModel, Config, LstmModel
from configs.sources import EscSource

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "configs").glob("*.yaml"))
MINIMAL = "run: r\nsource: {kind: esc, root: d}\n"
MODELS = MINIMAL + "models: {bag: {kind: bag}, lstm: {kind: lstm}, bert: {kind: bert}}\n"

WriteYaml = Callable[..., Path]
FaultsOf = Callable[..., list[str]]


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
    assert faults.pop("models.big").startswith("input tag 'brt' found using 'kind' does not match")
    assert faults.pop("frames.n_mels").endswith("unable to parse string as an integer (got 'many')")
    assert faults.pop("train").startswith("input should be a valid dictionary")
    assert faults == {
        "source.sets.train.segmets": "unknown key (did you mean segments?)",
        "codebook.k": "input should be greater than or equal to 2 (got 1)",
        "codebook.metrik": "unknown key (did you mean metric?)",
        "models.bag.widht": "unknown key (did you mean width?)",
        "models.odd": "width 7 is not a multiple of heads 2",
        "codbook": "unknown key (did you mean codebook?)",
    }


def test_the_message_names_the_file_and_counts_the_faults(write_yaml: WriteYaml) -> None:
    path = write_yaml(MINIMAL + "xyz: red\nframes: {n_fft: -1}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    head, *lines = str(raised.value).splitlines()
    assert head == f"{path}: 2 faults"
    assert [line.strip() for line in lines] == list(raised.value.faults)
    assert "xyz: unknown key" in raised.value.faults, "nothing is like it: no suggestion"


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("frames: {hop_length: 2048}", "frames"),
        ("quarantine: {max_share: 1.5}", "quarantine.max_share"),
        ("split: {valid_share: 1.0}", "split.valid_share"),
        ("split: {folds: [1, 0]}", "split.folds"),
        ("codebook: {k: 65537}", "codebook.k"),
        ("codebook: {name: a/b}", "codebook.name"),
        ("train: {lr: 0}", "train.lr"),
        ("train: {seed: -1}", "train.seed"),
        ("codebook: {seed: 9223372036854775808}", "codebook.seed"),
        ("train: {lr: .nan}", "train.lr"),
        ("audio: {store: mp3}", "audio.store"),
        ("cluster: {workers: 0}", "cluster.workers"),
        ("shards: null", "shards"),
    ],
)
def test_values_out_of_range_are_refused(
    section: str, path: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    (fault,) = faults_of(write_yaml(MINIMAL + section))
    assert fault.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("model: [bag]", "model: no entry bag under models (known: none)"),
        (
            "frames: {f_max_hz: 12000}",
            "frames.f_max_hz 12000.0 is not between f_min_hz 0.0 and 11025.0 Hz, "
            "half the sample rate",
        ),
        (
            "frames: {f_min_hz: 500, f_max_hz: 400}",
            "frames.f_max_hz 400.0 is not between f_min_hz 500.0 and 11025.0 Hz, "
            "half the sample rate",
        ),
    ],
)
def test_sections_must_agree(
    section: str, said: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    assert faults_of(write_yaml(MINIMAL + section)) == [said]


@pytest.mark.parametrize(
    ("section", "path"),
    [
        (
            "frames: {f_min_hz: 20000}",
            "frames.f_min_hz",
        ),  # above half the sample rate: no band is left
        ("train: {lr: .inf}", "train.lr"),
        ("cluster: {memory_limit: banana}", "cluster.memory_limit"),
    ],
)
def test_values_that_can_only_fail_later_are_refused_now(
    section: str, path: str, write_yaml: WriteYaml, faults_of: FaultsOf
) -> None:
    (fault,) = faults_of(write_yaml(MINIMAL + section))
    assert fault.startswith(path)


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


def test_yaml_merge_keys_work(write_yaml: WriteYaml) -> None:
    text = "models:\n  a: &base {kind: lstm, width: 8}\n  b: {<<: *base, hidden: 4}\n"
    model = load_config(write_yaml(MINIMAL + text)).models["b"]
    assert model == LstmModel(kind="lstm", width=8, hidden=4)


def test_a_missing_file_suggests_its_neighbour(write_yaml: WriteYaml, faults_of: FaultsOf) -> None:
    path = write_yaml(MINIMAL, "esc10.yaml")
    (fault,) = faults_of(path.with_name("esc01.yaml"))
    assert fault == "No such file or directory (did you mean esc10.yaml?)"
    (fault,) = faults_of(path.parent / "nowhere" / "esc10.yaml")
    assert fault == "No such file or directory"


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


# --- run directories -------------------------------------------------------------------------


def test_a_run_directory_stands_for_its_saved_config(write_yaml: WriteYaml) -> None:
    path = write_yaml(MODELS, "config.yaml")
    config = load_config(path.parent, ["codebook.k=7"])
    assert config == load_config(path, ["codebook.k=7", f"run={path.parent}"])


def test_a_directory_without_a_config_is_no_run(tmp_path: Path, faults_of: FaultsOf) -> None:
    assert faults_of(tmp_path) == ["this directory is no run: it holds no config.yaml"]


@given(
    k=st.integers(2, 65_536),
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
