"""A catalogue of what people get wrong: each ends in a message with its cause and a cure.

Commands run as typed, but in this process. None may show a traceback.
"""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from configs.cli import main
from configs.schema import Config
from shards.lock import hold
from tests.conftest import tiny_tree

Words = list[str]


@dataclass(frozen=True)
class Place:
    """Where a mistake is made: a job that has not begun, and a copy of one that has ended."""

    directory: Path
    job: Path  # a YAML file
    run: Path  # finished

    def path(self, name: str, text: str | bytes = "") -> str:
        """A file of that text."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    def sound(self, name: str, rate_hz: int = 22_050, seconds: float = 1.0) -> str:
        """A file of noise."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_N = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate_hz))
        soundfile.write(path, noise_N, rate_hz)
        return str(path)

    def folder(self, counts: dict[str, int]) -> Words:
        """A directory a class; the words that make it the source."""
        for name, count in counts.items():
            for number in range(count):
                self.sound(f"sounds/{name}/{number}.wav")
        tree = {"run": str(self.directory / "run"), "cluster": {"kind": "inline"}}
        tree["source"] = {"kind": "folder", "root": str(self.directory / "sounds")}
        return [self.path("folder.yaml", yaml.safe_dump(tree))]

    def table(self, text: str) -> Words:
        """A table of files; the words that make it the source."""
        tree = {"run": str(self.directory / "run"), "cluster": {"kind": "inline"}}
        tree["source"] = {
            "kind": "table",
            "root": str(self.directory),
            "table": self.path("clips.csv", text),
        }
        return [self.path("table.yaml", yaml.safe_dump(tree))]


Typed = Callable[[Place], Words]


@dataclass(frozen=True)
class Mistake:
    """What is typed, and what the message has to say: why it failed, and what to do."""

    typed: Typed
    cause: str
    cure: str
    code: int = 2
    meanwhile: Callable[[Place], AbstractContextManager[None]] = lambda _: nullcontext()


def of_job(package: str, verb: str, *words: str) -> Typed:
    return lambda place: [package, verb, str(place.job), *words]


def of_run(package: str, verb: str, *words: str) -> Typed:
    return lambda place: [package, verb, str(place.run), *words]


def in_place(package: str, verb: str, words: Callable[[Place], Words]) -> Typed:
    return lambda place: [package, verb, *words(place)]


def nowhere(place: Place) -> Words:
    return [str(place.directory / "nowhere.yaml")]


def no_yaml(place: Place) -> Words:
    return [place.path("bad.yaml", "run: [a\nb: }")]


def mangled(place: Place) -> Words:
    """A spreadsheet wrote semicolons, as it does in half of the world."""
    tree = yaml.safe_load(place.job.read_text())
    segments = tree["source"]["sets"]["train"]
    text = Path(segments["segments"]).read_text().replace(",", ";")
    segments["segments"] = place.path("train.csv", text)
    return [place.path("job.yaml", yaml.safe_dump(tree))]


def other_columns(place: Place) -> Words:
    return place.table("path,label\na.wav,dog\n")


def lonely(place: Place) -> Words:
    return [*place.folder({"dog": 8, "cat": 1}), "split.rule=stratified"]


def without_classes(place: Place) -> Words:
    place.sound("sounds/a.wav")
    return place.folder({})


def half_split(place: Place) -> Words:
    return place.folder({"train/dog": 3, "cat": 3})


def narrow(place: Place) -> Words:
    words = place.folder({"dog": 3})
    for number in range(3):
        place.sound(f"sounds/dog/{number}.wav", rate_hz=8_000)
    return words


def with_text(place: Place) -> Words:
    place.path("sounds/dog/notes.wav", "to do: record")
    return place.folder({"dog": 3})


def no_run(place: Place) -> Words:
    return [str(place.directory)]


def unscored(place: Place) -> Words:
    for path in place.run.glob("models/*/eval.json"):
        path.unlink()
    return [str(place.run)]


def at_text(place: Place) -> Words:
    return [str(place.run), place.path("a.wav", "text")]


def at_sound(*options: str) -> Callable[[Place], Words]:
    return lambda place: [str(place.run), place.sound("a.wav"), *options]


def without_codebook(place: Place) -> Words:
    shutil.rmtree(place.run / "commits/codebook")
    return at_sound("--model", "linear")(place)


@contextmanager
def busy(place: Place) -> Iterator[None]:
    with hold(place.run / "pipeline.lock"):
        yield


JOB_SETTINGS = {  # after `pipeline all`
    "a misspelt key": ("codebok.k=50", "unknown key", "did you mean codebook"),
    "a word for a number": ("codebook.k=many", "codebook.k: must be a whole number", "got 'many'"),
    "k beyond 16 bits": ("codebook.k=70000", "codebook.k: must", "less than or equal to 65536"),
    "a share above one": ("split.valid_share=2", "split.valid_share: must", "less than 1"),
    "no directory": ("source.root=/no/where", "/no/where is no directory", "set it to where"),
    "no equals sign": ("codebook.k", "codebook.k: an override", "written key.path=value"),
    "no such model": ("model=brt", "no entry brt under models", "known: bag, bert, linear, lstm"),
}
RUN_SETTINGS = {  # of a finished run
    "other frames": ("pipeline shard frames.n_mels=32", "n_mels: 64 there, 32", "another run=DIR"),
    "another k": ("pipeline codebook codebook.k=8", "k: 16 there, 8 now", "codebook.name=NAME"),
    "another rate": ("train fit train.lr=0.5", "0.001 there, 0.5 now", "another name under models"),
    "k above the frames": (
        "pipeline codebook codebook.k=60000 codebook.name=big",
        r"hold \d+ distinct vectors",
        "lower k or give more clips",
    ),
    "too few positions": (
        "train fit model=bert models.bert.max_positions=8",
        "max_positions=8 is too short",
        "set max_positions=66 or more",
    ),
    "mixup of one clip": (
        "train fit train.mixup=0.4 train.micro_batch_size=1",
        "mixup mixes clips of a micro-batch",
        "hold 2 or more",
    ),
    "no GPU for training": (
        "train fit model=lstm train.device=cuda",
        "torch sees no GPU",
        "use auto or cpu",
    ),
    "no GPU for a codebook": (
        "pipeline codebook codebook.name=other codebook.device=cuda",
        "faiss sees no GPU",
        "use auto or cpu",
    ),
    "no model at all": ("train fit model=[]", "say which model", "model=NAME"),
    "scores before training": (
        "train eval model=lstm",
        "lstm: not trained yet",
        "run `python -m train fit` first",
    ),
    "no file to hear": ("train predict /no/dog.wav", "missing: dog.wav", "the reasons above"),
    "no such clip": ("train inspect nobody", "no decoded clip has the id nobody", "there are: "),
    "no clip to listen to": ("pipeline listen nobody", "has the id nobody", "ids are as in the"),
}
MISTAKES = {
    **{
        name: Mistake(of_job("pipeline", "all", word), cause, cure)
        for name, (word, cause, cure) in JOB_SETTINGS.items()
    },
    **{
        name: Mistake(of_run(*words.split()), cause, cure)
        for name, (words, cause, cure) in RUN_SETTINGS.items()
    },
    "no such config": Mistake(
        in_place("train", "fit", nowhere), "no such config file", "configs/ holds some to begin"
    ),
    "YAML that is none": Mistake(
        in_place("pipeline", "all", no_yaml), "not valid YAML", r"expected ',' or '\]'.*line 2"
    ),
    "files are elsewhere": Mistake(
        of_job("pipeline", "shard", "source.sets.train.files='{id}.wav'"),
        "51 missing",
        "Mend what the source says of files",
        3,
    ),
    "a list from a spreadsheet": Mistake(
        in_place("pipeline", "shard", mangled), "line 4: expected .*, not", "as it is published"
    ),
    "a table without a column": Mistake(
        in_place("pipeline", "shard", other_columns), "no column file; it has path", "rename one"
    ),
    "a class with one clip": Mistake(
        in_place("pipeline", "shard", lonely),
        r"no clip to test with \(cat\)",
        "give more of them",
        0,
    ),
    "files in no class": Mistake(
        in_place("pipeline", "shard", without_classes),
        "no audio files in directories",
        "a directory a class is expected",
    ),
    "splits beside classes": Mistake(
        in_place("pipeline", "shard", half_split), "holds train beside cat", "name all of them"
    ),
    "files of 8 kHz": Mistake(
        in_place("pipeline", "shard", narrow),
        "3 of 3 clips were recorded at less",
        "set it to what they have",
        0,
    ),
    "text among sounds": Mistake(
        in_place("pipeline", "shard", with_text),
        "1 unknown_format",
        "status .* lists them.* raise quarantine.max_share",
        3,
    ),
    "no such run": Mistake(
        in_place("shards", "verify", no_run), "is no run: it holds no", "give a config's `run`"
    ),
    "a codebook before frames": Mistake(
        of_job("pipeline", "codebook"), "no finished shard", "run `python -m pipeline shard` first"
    ),
    "training before tokens": Mistake(
        of_job("train", "fit"), "no finished tokenize", "run `python -m pipeline tokenize` first"
    ),
    "a comparison before scores": Mistake(
        in_place("train", "compare", unscored), "no model is scored", "run `python -m train eval"
    ),
    "another driver": Mistake(
        of_run("pipeline", "shard"), "is at work here", "wait for it, or stop it", 1, busy
    ),
    "text to hear": Mistake(
        in_place("train", "predict", at_text), "it starts with 74 65 78 74", "ffmpeg -i"
    ),
    "no model to hear with": Mistake(
        in_place("train", "predict", at_sound("--model", "brt")), "no model brt", "bag, linear"
    ),
    "an ending that nobody writes": Mistake(
        in_place("train", "predict", at_sound("--out", "found.xlsx")),
        "found.xlsx",
        r"name it \*.jsonl or \*.parquet",
    ),
    "a run without its codebook": Mistake(
        in_place("train", "predict", without_codebook),
        "no codebook default",
        "run `python -m pipeline codebook` first",
    ),
    "a sweep over frames": Mistake(
        of_job("train", "sweep", "frames.n_mels=32,64"),
        "all points of a sweep are in one run",
        "a sweep of each",
    ),
}


@pytest.fixture
def place(tmp_path: Path, made_clips: Path, finished: Config) -> Place:
    run = tmp_path / "finished"
    shutil.copytree(finished.run, run)
    tree = tiny_tree(made_clips, tmp_path / "run")
    (tmp_path / "job").mkdir()
    job = tmp_path / "job" / "job.yaml"
    job.write_text(yaml.safe_dump(tree))
    return Place(tmp_path, job, run)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_cause_and_its_cure(
    name: str, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[name]
    package, *words = mistake.typed(place)
    verbs = importlib.import_module(f"{package}.__main__").VERBS
    with mistake.meanwhile(place):
        code = main(package, verbs, words)
    out, err = capfd.readouterr()
    said = re.sub(r"\s+", " ", out + err)
    assert code == mistake.code, said
    assert "Traceback" not in said
    assert re.search(mistake.cause, said), said
    assert re.search(mistake.cure, said), said
