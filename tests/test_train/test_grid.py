"""The points of a sweep: what a command line stands for, and what is called how."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError, InputError
from configs.load import load_config
from configs.models import NeuralModel
from configs.schema import Config
from shards.commit import canonical_json
from tests.commands import write_config
from tests.conftest import tiny_tree
from train.grid import axes_of, grid, points_of, split_values
from train.jobs import jobs


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("grid")
    return write_config(directory / "job.yaml", tiny_tree(directory / "clips", directory / "run"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("50", ["50"]),
        ("50,500, 5000", ["50", "500", "5000"]),
        ("[a,b]", ["[a,b]"]),
        ("[a,[b,c]],{d: 1, e: 2},f", ["[a,[b,c]]", "{d: 1, e: 2}", "f"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("it's,so", ["it's", "so"]),
        ("", [""]),
    ],
)
def test_values_stand_between_commas(text: str, values: list[str]) -> None:
    assert split_values(text) == values


def test_the_last_key_goes_round_first() -> None:
    axes = axes_of(["codebook.k=8,16", "train.epochs=3", "model=bag,linear"])
    assert grid(axes) == [
        {"codebook.k": k, "train.epochs": "3", "model": model}
        for k in ("8", "16")
        for model in ("bag", "linear")
    ]


def names(job: Path, *words: str) -> list[str]:
    return [point.name for point in points_of(job, words)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["bag", "linear"]),
        ("model=[linear,bag]", ["linear", "bag"]),
        ("codebook.k=8 model=bert", ["bert"]),
        ("codebook.k=8,16 model=bag,bert", ["k8-bag", "k8-bert", "k16-bag", "k16-bert"]),
        ("codebook.k=8,8 model=bag", ["k8-bag"]),
        ("codebook.k=8,16 codebook.name=mine model=bag", ["mine-k8-bag", "mine-k16-bag"]),
        ("codebook.name=a,b model=bag", ["a-bag", "b-bag"]),
        ("train.lr=1e-3,0.001,1,1e-5 model=lstm", ["lstm-lr0_001", "lstm-lr1", "lstm-lr1e-05"]),
        ("train.lr=0.1,0.2 model=bag,lstm", ["bag", "lstm-lr0_1", "lstm-lr0_2"]),
        ("models.lstm.width=8,9 model=lstm,bag", ["lstm-width8", "bag", "lstm-width9"]),
        ("train.early_stop=null,3 model=bert", ["bert-early_stop-null", "bert-early_stop3"]),
        ("data.order=global,window model=bert", ["bert-order-global", "bert-order-window"]),
        ("data.order=global,window model=bag", ["bag"]),
        (
            'codebook.front_end=pcen,logmel,{"preset":"pcen"} model=bag',
            ["front_end-pcen-bag", "front_end-logmel-bag"],
        ),
        (
            "codebook.front_end.mask_below_db=-30,-20.5 model=bag",
            ["front_end_mask_below_db-30-bag", "front_end_mask_below_db-20_5-bag"],
        ),
    ],
)
def test_what_makes_points_different_is_in_their_names(
    words: str, expected: list[str], job: Path
) -> None:
    assert names(job, *words.split()) == expected


def test_a_list_is_in_the_name_as_a_hash(job: Path) -> None:
    words = ["data.classes=[a,b],[a, c]", "model=bag"]
    first, second = names(job, *words)
    assert first != second
    assert all(name.startswith("bag-classes-0x") for name in (first, second))
    assert names(job, words[0].replace("a, c", "a,c"), words[1]) == [first, second]


def test_a_point_is_what_its_overrides_say(job: Path) -> None:
    words = ["train.epochs=7", "models.bert.width=32,64", "train.lr=0.5,0.1", "model=bert"]
    point = points_of(job, words)[3]
    assert str(point) == "models.bert.width=64 train.lr=0.1 model=bert"
    config = load_config(job, point.overrides)
    assert config == point.config
    assert config.model == ("bert-width64-lr0_1",)
    copied = config.models[config.model[0]]
    assert copied == config.models["bert"].model_copy(update={"width": 64})
    assert config.models["bert"] == load_config(job).models["bert"]
    assert (config.train.epochs, config.train.lr) == (7, 0.1)


def test_folds_are_of_all_points(job: Path) -> None:
    points = points_of(job, ["split.folds=[1,2]", "codebook.k=8,16", "model=bag"])
    directories = [[made.name for made in jobs(point.config)] for point in points]
    assert directories == [["k8-fold1-bag", "k8-fold2-bag"], ["k16-fold1-bag", "k16-fold2-bag"]]


VALUES: dict[str, list[str]] = {
    "codebook.k": ["8", "16", "0x10"],
    "codebook.front_end": ["pcen", "logmel", "{preset: pcen}", "[standardise]", "[minmax]"],
    "codebook.front_end.mask_below_db": ["null", "-30", "-3.0e+1", "-25.5"],
    "codebook.name": ["default", "mine", "k8"],
    "train.lr": ["0.1", "1e-1", "1.0e-5", "1", "1.0"],
    "train.mixup": ["0", "0.4"],
    "train.span_masks": ["null", "{}", "{count: 1}", "{count: 2}"],
    "data.order": ["global", "window", '"global"'],
    "data.classes": ["[a]", "[a, b]", "a", "[b]"],
    "models.linear.width": ["8", "9"],
    "models.linear.lr": ["null", "0.1", "1.0e-1"],
    "models.lstm": ["{width: 8}", "{width: 9}", "{width: 9, hidden: 16}"],
    "model": ["bag", "linear", "lstm"],
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    keys = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4))
    if "models.linear.lr" in keys:  # stands above train.lr, which is refused
        keys = [key for key in keys if key != "train.lr"]
    drawn = {key: st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=3) for key in keys}
    return [f"{key}={','.join(draw(values))}" for key, values in drawn.items()]


def test_what_a_model_overrules_is_not_varied(job: Path) -> None:
    """Every point would be the same training."""
    words = ["train.lr=1e-3,1e-4", "models.linear.lr=0.1", "model=linear"]
    with pytest.raises(ConfigError, match=r"linear goes by models\.linear\.lr.*vary that"):
        points_of(job, words)
    assert len(points_of(job, ["models.linear.lr=0.1,0.2", "model=linear"])) == 2


def decisive(config: Config, model: str) -> bytes:
    """What a model's weights and directory hang on, its name apart."""
    tree = config.model_dump(mode="json")
    entry = config.models[model]
    is_neural = isinstance(entry, NeuralModel)
    return canonical_json(
        [
            tree["codebook"] | {"name": None if config.codebook.name == "default" else "named"},
            tree["train"] if is_neural else None,
            tree["data"] if is_neural else tree["data"]["classes"],
            tree["models"][model],
            str(entry.kind),
        ]
    )


@settings(max_examples=40)
@given(words=command_lines())
def test_points_share_a_directory_if_and_only_if_they_are_equal(
    job: Path, words: list[str]
) -> None:
    words = [word for word in words if not word.startswith("codebook.name")]
    typed = [load_config(job, [f"{k}={v}" for k, v in s.items()]) for s in grid(axes_of(words))]
    points = points_of(job, words)
    assert len({point.name for point in points}) == len(points)
    expected = {without_name(config, model) for config in typed for model in config.model}
    found = [without_name(point.config, point.model) for point in points]
    assert set(found) == expected
    assert len(found) == len(expected)


def without_name(config: Config, model: str) -> bytes:
    unnamed = config.codebook.model_copy(update={"name": "default"})
    return decisive(config.model_copy(update={"codebook": unnamed}), model)


@settings(max_examples=40)
@given(words=command_lines())
def test_different_points_never_share_one(job: Path, words: list[str]) -> None:
    """Also with names of codebooks, and through whatever jobs a point has."""
    points = points_of(job, words)
    for one, other in itertools.combinations(points, 2):
        assert not {j.name for j in jobs(one.config)} & {j.name for j in jobs(other.config)}
        is_same_codebook = one.codebook == other.codebook
        trees: list[Any] = [point.config.codebook.model_dump() for point in (one, other)]
        assert is_same_codebook == (trees[0] == trees[1])


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("frames.n_mels=32,64", "frames.n_mels: all points of a sweep are in one run"),
        ("run=a,b", "run: all points of a sweep are in one run.*make a sweep of each"),
        ("split.seed=1,2", "split.seed: all points of a sweep are in one run"),
        ("codebook.k=8,", "codebook.k: one of its values is empty"),
        ("codebook.k=8,1", "codebook.k: .*greater than or equal to 2"),
        ("codbook.k=8,16", "codbook: unknown key .did you mean codebook"),
        ("model=bag,linera", "model: no entry linera"),
        ("models.bert.width=16,17 model=bert", "width 17 is not a multiple of heads 2"),
        ("codebook.k", "codebook.k: an override is written key.path=value"),
        ("model=[]", "say which models to train"),
        ("models.bag-classes-a.kind=bag data.classes=a,b model=bag", "rename it"),
        (
            "models.k8-bag.kind=lstm codebook.name=k8,default model=k8-bag,bag",
            "would both be models/k8-bag: rename",
        ),
    ],
)
def test_what_cannot_be_is_refused(words: str, fault: str, job: Path) -> None:
    with pytest.raises(ConfigError, match=fault):
        points_of(job, words.split())


def test_the_faults_of_all_points_are_one_message(job: Path) -> None:
    words = ["codebook.k=8,1,0", "model=bag,nobody", "train.lr=-1,1", "frames.n_mels=32,64"]
    with pytest.raises(ConfigError) as caught:
        points_of(job, words)
    keys = sorted(fault.split(":")[0] for fault in caught.value.faults)
    assert keys == ["codebook.k", "codebook.k", "frames.n_mels", "model", "train.lr"]


def test_a_run_is_no_base_of_a_sweep(finished: Config) -> None:
    """Its saved config becomes that of each point: the same command would mean something else."""
    with pytest.raises(InputError, match="sweep a YAML file .*--print-config"):
        points_of(finished.run, ["codebook.k=8,16"])
