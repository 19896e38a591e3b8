"""The report: one HTML file that opens offline, shows what it should, and can be used."""

from __future__ import annotations

import dataclasses
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from configs.schema import Config
from shards import plan as plans
from shards.layout import Layout
from shards.plan import ClassName
from tests.browser import CHROMIUM, Browser, browser
from train.pages import report

CopyRun = Callable[..., Config]
EVIL = "</script><img src=x onerror=alert('x')> & \"Co\""
LEFTMOST = """Math.min(...[...document.querySelectorAll('main *')]
    .map(one => one.getBoundingClientRect()).filter(box => box.width).map(box => box.left))"""
SECTIONS = "Classes Curves Confusion Clips Training Tokens Data Origin".split()


def page_of(config: Config) -> Path:
    return Layout(config.run).model("linear") / "report.html"


def data_of(config: Config) -> dict[str, Any]:
    found = re.search(r"^const DATA = (.*);$", page_of(config).read_text(), re.MULTILINE)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture
def reported(copy_run: CopyRun) -> Config:
    config = copy_run()
    assert report.run(config) == 0
    return config


def test_it_holds_what_was_scored_and_what_it_was_scored_on(reported: Config) -> None:
    data = data_of(reported)
    scores = json.loads(page_of(reported).with_name("eval.json").read_text())
    own, bag, chance = data["models"]
    assert (own["name"], bag["name"], chance["name"]) == ("linear", "bag", "class frequencies only")
    assert own["map"] == scores["map"]
    assert own["map_interval"][0] < own["map"] < own["map_interval"][1]
    assert chance["map"] == scores["prior_map"]
    assert data["per_class"]["ap"] == scores["per_class"]["ap"]
    assert len(data["classes"]) == 12
    assert sum(data["labels_a_clip"]) == scores["clips"] == len(data["map"]["places"])
    assert sum(data["lengths"]["counts"]) == data["quarantine"]["decoded"] == 64
    assert data["training"]["steps"][-1][0] >= data["training"]["valid"][-1][0] > 0
    assert {"Python", "torch", "zarr"} <= data["origin"]["versions"].keys()
    assert "run: " in data["origin"]["config"]
    assert len(data["codebook"]["map"]) == data["codebook"]["k"]


def test_worst_and_best_clips_can_be_heard(reported: Config) -> None:
    clips = data_of(reported)["clips"]
    assert {name: len(cards) for name, cards in clips.items()} == {"worst": 6, "best": 6}
    ids = [card["id"] for cards in clips.values() for card in cards]
    assert len({*ids}) == 12
    plan = plans.load(Layout(reported.run))
    labels = dict(
        zip(plan.column("id").to_pylist(), plan.column("labels").to_pylist(), strict=True)
    )
    for card in clips["worst"] + clips["best"]:
        sound, rate_hz = soundfile.read(BytesIO(b64decode(card["audio"].partition(",")[2])))
        assert len(sound) / rate_hz == pytest.approx(card["seconds"], abs=0.05)
        assert np.abs(sound).max() > 1e-3
        assert card["labels"] == sorted(labels[card["id"]])
        assert len(card["tokens"][0]) == card["frames"]
        assert len(b64decode(card["grid"])) == card["frames"] * card["bands"]
        shares = [share for _, share in card["said"]]
        assert shares == sorted(shares, reverse=True)


def test_a_report_is_the_same_bytes_again(copy_run: CopyRun) -> None:
    config = copy_run(model=("linear",))
    pages = []
    for _ in range(2):
        report.run(config)
        pages.append(page_of(config).read_bytes())
    assert pages[0] == pages[1]


def test_a_run_that_kept_no_audio_is_shown_without(
    copy_run: CopyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.stream.audio._store_of", refuse)
    config = copy_run(model=("linear",))
    assert report.run(config) == 0
    clips = data_of(config)["clips"]
    assert not any("audio" in card for card in clips["worst"])
    assert all("grid" in card for card in clips["worst"])


def refuse(_: object) -> None:
    from configs.errors import InputError

    raise InputError("holds no audio")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def evil(copy_run: CopyRun, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The finished run with an evil name for every class, reported."""
    config = copy_run()
    plan = plans.load_bound(Layout(config.run))
    classes = tuple(ClassName(name.id, f"{EVIL} {name.id}") for name in plan.classes)
    changed = dataclasses.replace(plan, classes=classes)
    monkeypatch.setattr("shards.stream.choice.plans.load_bound", lambda _: changed)
    assert report.run(config) == 0
    return config


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_shows_all_of_it_and_asks_for_nothing(
    width: int, dark: bool, tab: Browser, evil: Config
) -> None:
    tab.look(width, dark=dark)
    tab.asked.clear()
    tab.open(page_of(evil))
    assert tab.run("[...document.querySelectorAll('h2')].map(h => h.textContent)") == SECTIONS
    assert tab.run("document.querySelectorAll('#classes tbody tr').length") == 12
    assert tab.run("document.querySelectorAll('audio').length") == 12
    drawn = "polyline[points*=' '], circle:not(.near), rect"
    assert tab.run(
        f"[...document.querySelectorAll('svg')].every(svg => svg.querySelector({drawn!r}))"
    )
    assert "bag, much simpler, does no worse" in tab.run("byId('about').textContent")
    assert tab.run("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    assert tab.run(LEFTMOST) >= 0
    assert tab.run("document.querySelector('#classes').textContent").count(EVIL) == 12
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.complaints == []
    outside = [url for url in tab.asked if not url.startswith("data:")]
    assert outside == [page_of(evil).as_uri()]


def aps_shown(tab: Browser) -> list[float]:
    cells = "[...document.querySelectorAll('#classes tbody tr td:nth-child(4)')]"
    shown = tab.run(f"{cells}.map(cell => cell.textContent)")
    return [float(text.rstrip("\u00a0%")) for text in shown if text]


def test_classes_are_sorted_and_found_by_keyboard(tab: Browser, reported: Config) -> None:
    tab.look(1280)
    tab.open(page_of(reported))
    falling = aps_shown(tab)
    assert falling == sorted(falling, reverse=True)
    tab.run("document.querySelectorAll('#classes th button')[3].focus()")
    tab.press("Enter", "\r")
    assert aps_shown(tab) == sorted(falling)
    assert tab.run("document.querySelector('#classes th[aria-sort]').ariaSort") == "ascending"
    assert tab.run("document.activeElement.textContent").startswith("AP"), "it keeps the focus"

    name = data_of(reported)["classes"][3]
    tab.run("document.getElementById('find').focus()")
    tab.type(name[:5].upper())
    names = tab.run(
        "[...document.querySelectorAll('#classes tbody td:first-child')].map(td => td.textContent)"
    )
    assert name in names
    assert len(names) < 12
    assert tab.run("document.getElementById('found').textContent") == f"{len(names)} of 12 classes"

    before = tab.run("document.querySelectorAll('#pr polyline').length")
    tab.run("document.querySelector('#classes tbody button').focus()")
    tab.press("Enter", "\r")
    assert tab.run("document.querySelectorAll('#pr polyline').length") == before + 1
    assert names[0] in tab.run("document.getElementById('pr-said').textContent")
    assert tab.run("document.activeElement.textContent") == names[0], "it keeps the focus"
    assert tab.run("document.querySelector('#classes tr.on td').textContent") == names[0]
    assert tab.complaints == []


def test_clips_play(tab: Browser, reported: Config) -> None:
    tab.open(page_of(reported))
    script = """
      (async () => {
        const player = document.querySelector('audio');
        await player.play();
        await new Promise(done => setTimeout(done, 400));
        return [player.currentTime, player.duration];
      })()"""
    now_s, duration_s = tab.run(script)
    assert now_s > 0
    assert duration_s == pytest.approx(1.5, abs=0.1)
    assert tab.complaints == []


def test_what_is_nearest_to_the_pointer_is_said(tab: Browser, reported: Config) -> None:
    tab.open(page_of(reported))
    script = """(() => {
        const svg = document.getElementById('map'), box = svg.getBoundingClientRect();
        const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
        svg.dispatchEvent(new PointerEvent('pointermove', at));
        return svg.lastElementChild.textContent;
      })()"""
    said = tab.run(script)
    assert said.partition(":")[0] in data_of(reported)["map"]["ids"]


def test_points_of_a_plot_are_said_by_keyboard(tab: Browser, reported: Config) -> None:
    tab.open(page_of(reported))
    tab.run("document.getElementById('map').focus()")
    ids = [clip for clips in mapped(reported).values() for clip in clips]
    for key, number in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0)):
        tab.press(key)
        said = tab.run("document.querySelector('[role=status].unseen').textContent")
        assert said.startswith(ids[number])


def mapped(config: Config) -> dict[int, list[str]]:
    """Ids on the map by their first label, the most frequent first."""
    tree = data_of(config)["map"]
    found: dict[int, list[str]] = {}
    for clip, labels in zip(tree["ids"], tree["labels"], strict=True):
        found.setdefault((labels or [-1])[0], []).append(clip)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def test_spectrograms_have_axes_and_the_map_says_whose_its_colours_are(
    tab: Browser, reported: Config
) -> None:
    tab.open(page_of(reported))
    texts = "[...document.querySelectorAll('{}')].map(one => one.textContent)"
    assert tab.run(texts.format("figure:first-child .heard span")) == ["11 kHz", "0 kHz"] * 2
    assert set(tab.run(texts.format("figure .ruler"))) == {"0 s0.5 s1 s1.5 s"}
    names = tab.run("[...byId('map').nextElementSibling.children].map(one => one.textContent)")
    titles = data_of(reported)["classes"]
    assert names == [titles[c] for c in mapped(reported)][:12]
