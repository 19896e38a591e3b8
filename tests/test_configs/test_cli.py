"""The command grammar: what each end of a command returns and prints, and never a traceback."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.cli import GridVerb, Mode, RunVerb, Verb, main
from configs.errors import DifferentBytes, InputError, NotMadeYet, Preempted, RunLocked
from configs.load import load_config
from configs.schema import Config
from configs.signals import STOP_SIGNALS

MINIMAL = "run: r\nsource: {kind: esc, root: d}\n"


@pytest.fixture(autouse=True)
def _keep_handlers() -> Iterator[None]:
    """`main` takes signals for itself, as a process of its own may."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    for number, handler in zip(STOP_SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(MINIMAL)
    return str(path)


def verbs(run: Callable[[Config], int]) -> dict[str, Verb]:
    plan = Mode(lambda config: 40, "plan it")
    return {"make": Verb(run, "make it", {"--dry-run": plan}), "show": Verb(run, "show it")}


def raising(error: BaseException) -> dict[str, Verb]:
    def run(config: Config) -> int:
        raise error

    return verbs(run)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_verb_decides_the_exit_code(code: int, job: str) -> None:
    assert main("pkg", verbs(lambda config: code), ["make", job]) == code


def test_a_verb_gets_the_config_with_overrides(job: str) -> None:
    seen: list[Config] = []
    command = ["show", job, "codebook.k=7", "run=elsewhere"]
    main("pkg", verbs(lambda config: seen.append(config) or 0), command)
    assert (seen[0].codebook.k, seen[0].run) == (7, Path("elsewhere"))


@pytest.mark.parametrize("is_dry", [False, True])
def test_a_verb_of_many_configs_gets_what_was_typed(is_dry: bool, job: str) -> None:
    seen: list[tuple[Path, list[str], bool]] = []
    verb = GridVerb(lambda *given: seen.append(given) or 3, "try all", "print them")
    words = ["codebook.k=7,8", *["--dry-run"][: int(is_dry)], "model=[a,b],c"]
    assert main("pkg", {"all": verb}, ["all", job, *words]) == 3
    assert seen == [(Path(job), ["codebook.k=7,8", "model=[a,b],c"], is_dry)]


def test_dry_run_takes_the_place_of_the_verb(job: str) -> None:
    def never(config: Config) -> int:
        raise AssertionError("a dry run ran")

    assert main("pkg", verbs(never), ["make", job, "--dry-run"]) == 40


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no list"), 2, "no list"),
        (NotMadeYet("run shard first"), 2, "run shard first"),
        (RunLocked("pid 5 is at work"), 1, "pid 5 is at work"),
        (DifferentBytes("other bytes"), 1, "other bytes"),
        (Preempted("saved step 5"), 75, "saved step 5"),
        (KeyboardInterrupt(), 75, "the same command goes on from what is committed"),
        (OSError(28, "No space left on device", "/x"), 1, "No space left on device: /x"),
        (OSError("strange"), 1, "strange"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_an_exit_code_and_one_message(
    error: BaseException, code: int, said: str, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("pkg", raising(error), ["make", job]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{'stopped' if code == 75 else 'error'}: {said}\n")


@pytest.mark.parametrize("override", ["codebook.k=one", "codbook.k=1", "nonsense"])
def test_a_bad_config_is_exit_code_2(
    override: str, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("pkg", raising(AssertionError()), ["make", job, override]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_missing_config_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("pkg", raising(AssertionError()), ["make", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_print_config_prints_what_loads_back(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["make", job, "codebook.k=7", "--print-config"]
    assert main("pkg", raising(AssertionError()), command) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_config(printed) == load_config(Path(job), ["codebook.k=7"])


@pytest.mark.parametrize("flag", ["--print-config", "--dry-run"])
def test_a_flag_may_stand_before_the_overrides(flag: str, job: str) -> None:
    assert main("pkg", verbs(lambda config: 0), ["make", job, flag, "codebook.k=7"]) in (0, 40)


@pytest.mark.parametrize(
    "command", [[], ["brew", "x.yaml"], ["make"], ["make", "x.yaml", "--k", "3"], ["show", "--dry"]]
)
def test_bad_usage_is_exit_code_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main("pkg", raising(AssertionError()), command)
    assert ended.value.code == 2
    assert "usage: python -m pkg" in capsys.readouterr().err


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main("pkg", raising(AssertionError()), ["--help"])
    assert not ended.value.code
    assert "make it" in capsys.readouterr().out


def test_an_id_that_begins_like_an_option_is_one(tmp_path: Path) -> None:
    """One in 64 of YouTube's does."""
    (tmp_path / "config.yaml").touch()
    seen: list[tuple[list[str], str | None]] = []

    def look(_: Path, args: argparse.Namespace) -> int:
        seen.append((args.words, args.name))
        return 0

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("words", nargs="*")
        parser.add_argument("--name")

    verbs = {"look": RunVerb(look, "look", options)}
    run = str(tmp_path)
    for words in (["-0RWZT-miFs"], ["-0RWZT-miFs", "--name", "k5"], ["--name=k5", "-0RWZT-miFs"]):
        assert main("made", verbs, ["look", run, *words]) == 0
    assert main("made", verbs, ["look", run, "--", "-0RWZT-miFs"]) == 0
    assert [found for found, _ in seen] == [["-0RWZT-miFs"]] * 4
    assert [name for _, name in seen] == [None, "k5", "k5", None]
