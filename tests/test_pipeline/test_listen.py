"""`listen`: one page, all of it inside, on which clips and tokens can be heard."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from configs.cli import main
from configs.errors import InputError, NotMadeYet
from configs.load import merge
from configs.schema import Config
from pipeline.__main__ import VERBS
from pipeline.audio.frames import frames_of
from pipeline.audio.shown import script_safe
from pipeline.listen import _names, listen
from pipeline.verbs import run_verb
from shards.layout import Layout

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def heard(tokenized: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A copy of the made run with a second codebook, several in one, and its page."""
    run = tmp_path_factory.mktemp("listen") / "run"
    shutil.copytree(tokenized.run, run)
    tree = tokenized.model_dump(mode="json") | {"run": str(run), "model": ["bag"]}
    over = {"codebook": {"name": "pq", "k": 8, "codebooks": 2}}
    config = Config.model_validate(merge(tree, over))
    assert run_verb(config, "codebook") == 0
    listen(run, [], [])
    return config


def page_of(config: Config) -> str:
    return (config.run / "listen.html").read_text(encoding="utf-8")


def data_of(config: Config) -> dict[str, Any]:
    found = re.search(r"^const DATA = (.*);$", page_of(config), re.MULTILINE)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def sound_of(url: str) -> tuple[np.ndarray, int]:
    audio, rate_hz = soundfile.read(
        io.BytesIO(b64decode(url.removeprefix("data:audio/flac;base64,")))
    )
    return audio, rate_hz


def off_db(audio: np.ndarray, grid: str, config: Config) -> float:
    """Root mean square difference between frames of a sound and those that are shown."""
    shown_TM = np.frombuffer(b64decode(grid), np.uint8).reshape(-1, 64) * (120 / 255) - 60
    made_TM = frames_of(audio.astype(np.float32), 22_050, config.frames)
    return float(np.sqrt(((np.clip(made_TM, -60, 60) - shown_TM) ** 2).mean()))


def test_a_clip_is_there_as_it_was_and_from_frames_and_tokens(heard: Config) -> None:
    clips = data_of(heard)["clips"]
    assert len({clip["id"] for clip in clips}) == 3
    for clip in clips:
        titles = [version["title"] for version in clip["versions"]]
        assert titles == ["original", "its frames", "tokens of default", "tokens of pq"]
        (original, rate_hz), *others = [sound_of(v["audio"]) for v in clip["versions"]]
        level = np.log10((original**2).mean())
        for (audio, _), version in zip(others, clip["versions"][1:], strict=True):
            assert abs(len(audio) - len(original)) < 512
            assert off_db(audio, version["grid"], heard) < 6, "it sounds like what is shown"
        assert abs(10 * (np.log10((others[0][0] ** 2).mean()) - level)) < 2
        assert rate_hz == 22_050


def test_every_token_has_its_spectrum_its_share_and_its_clips(heard: Config) -> None:
    books = {book["name"]: book for book in data_of(heard)["books"]}
    assert {name: len(book["tokens"]) for name, book in books.items()} == {"default": 1, "pq": 2}
    (tokens,) = books["default"]["tokens"]
    assert sorted(entry["token"] for entry in tokens) == list(range(16))
    assert sum(entry["share"] for entry in tokens) == pytest.approx(1)
    assert all(len(entry["spectrum"]) == 64 for entry in tokens)
    shares = [entry["share"] for entry in tokens]
    assert shares == sorted(shares, reverse=True)
    for entry in tokens:
        of_clips = [clip["share"] for clip in entry["typical"]]
        assert of_clips == sorted(of_clips, reverse=True)
        assert len(of_clips) <= 3
    assert len(books["default"]["map"]) == 16


def test_clips_are_heard_by_their_ids(heard: Config, capsys: pytest.CaptureFixture[str]) -> None:
    some = data_of(heard)["books"][0]["tokens"][0][0]["typical"][0]["id"]
    try:
        listen(heard.run, [some], ["pq"])
        data = data_of(heard)
    finally:
        listen(heard.run, [], [])
    assert [clip["id"] for clip in data["clips"]] == [some]
    assert [book["name"] for book in data["books"]] == ["pq"]
    assert "listen.html: 1 clips, pq" in capsys.readouterr().out


def test_an_id_or_a_codebook_that_is_not_there_is_named(heard: Config) -> None:
    with pytest.raises(InputError, match="no decoded clip has the id nobody"):
        listen(heard.run, ["nobody"], [])
    with pytest.raises(NotMadeYet, match="no codebook k50"):
        listen(heard.run, [], ["k50"])


def test_before_there_is_a_codebook_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotMadeYet, match="no codebook to listen to; run `python -m pipeline"):
        listen(tmp_path, [], [])


def test_of_folds_the_first_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ["default", "fold1", "fold2", "k50-fold3", "k50-fold4", "k5"]
    logs = [
        type("Log", (), {"stage": "codebook", "name": name, "record": lambda *_: 1})
        for name in names
    ]
    monkeypatch.setattr("pipeline.listen.stage_logs", lambda _: [log() for log in logs])
    assert _names(Layout(tmp_path)) == ["default", "fold1", "k5", "k50-fold3"]


def test_without_kept_audio_the_original_is_left_out(heard: Config, tmp_path: Path) -> None:
    tree = heard.model_dump(mode="json")
    over = {"run": str(tmp_path / "run"), "audio": {"store": "none"}, "codebook": {"k": 8}}
    config = Config.model_validate(merge(tree, over))
    assert run_verb(config, "shard") == 0
    assert run_verb(config, "codebook") == 0
    listen(config.run, [], [])
    titles = {version["title"] for clip in data_of(config)["clips"] for version in clip["versions"]}
    assert titles == {"its frames", "tokens of pq"}


def test_nothing_in_the_data_ends_the_script() -> None:
    assert "<" not in script_safe({"labels": "</script><b>"})


def test_the_page_asks_for_nothing_outside_itself(heard: Config) -> None:
    page = page_of(heard)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert 'src="' not in page
    assert "@import" not in page


def test_the_verb_is_listed_with_its_options() -> None:
    assert "listen" in VERBS


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_all_of_it_without_an_error(heard: Config, tmp_path: Path) -> None:
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    words += [
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=5000",
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        [*words, (heard.run / "listen.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert done.stdout.count("<audio") == 3 * 4
    assert done.stdout.count("<circle") == 16
    assert len(re.findall(r'data-token="\d+"', done.stdout)) == 2 * 16
    assert ">16 of 16 tokens<" in done.stdout
    assert done.stdout.count("<option") == 3 + 3  # codebooks; orders


def test_options_and_clips_come_in_any_order(
    heard: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("pipeline.listen.listen", lambda *args: asked.append(args))
    for words in (["--name", "pq", "a", "b"], ["a", "b", "--name", "pq"], ["a", "--name=pq", "b"]):
        assert main("pipeline", VERBS, ["listen", str(heard.run), *words]) == 0
    assert asked == [(heard.run, ["a", "b"], ["pq"])] * 3
