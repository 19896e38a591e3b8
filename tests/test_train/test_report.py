"""The report: one HTML file that opens offline and shows what it should, names escaped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser

import pytest

from configs.schema import Config
from shards import plan as plans
from shards.layout import Layout
from shards.plan import ClassName
from train import report

CopyRun = Callable[..., Config]
EVIL = "<script>alert('x')</script> & \"Co\""


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
        self.references += [value or "" for name, value in attrs if name in names]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def cells(self, tag: str) -> int:
        return self.tags.count(tag)


@pytest.fixture
def evil_run(copy_run: CopyRun, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The finished run with an evil name for every class."""
    config = copy_run()
    plan = plans.load_bound(Layout(config.run))
    classes = tuple(ClassName(name.id, f"{EVIL} {name.id}") for name in plan.classes)
    evil = dataclasses.replace(plan, classes=classes)
    monkeypatch.setattr("shards.stream.choice.plans.load_bound", lambda _: evil)
    return config


def test_one_page_with_all_sections_and_no_reference_outside(evil_run: Config) -> None:
    assert report.run(evil_run) == 0
    models = Layout(evil_run.run).root / "models"
    assert [path.parent.name for path in models.glob("*/report.html")] == ["linear"]
    text = (models / "linear" / "report.html").read_text()
    page = Page(text)
    shown = " ".join(page.texts)

    assert not {"script", "link", "iframe", "img", "object", "base"} & set(page.tags)
    assert all(r.startswith(("#", "data:")) for r in page.references)
    assert not re.search(r"@import|url\((?!['\"]?#)", text)

    assert page.cells("svg") == 3  # curves, token figure, spectrogram
    for label in ("validation mAP, %", "rank of the token", "mel band", "tokens", "seconds"):
        assert label in shown
    for heading in ("Scores", "Training", "Classes", "Tokens", "A clip and its tokens", "Config"):
        assert f"<h2>{heading}</h2>" in text
    assert text.count('class="bar"') == 12, "one row a class with positives"
    assert "bag" in page.texts
    assert "class frequencies only" in page.texts
    assert "perplexity" in shown

    assert EVIL not in text
    assert escape(EVIL) in text
    assert f"{EVIL} /s/00" in page.texts, "escaped once, not twice"
    assert str(evil_run.run) in shown


def test_a_report_is_the_same_bytes_again(copy_run: CopyRun) -> None:
    config = copy_run(model=("linear",))
    path = Layout(config.run).model("linear") / "report.html"
    pages = []
    for _ in range(2):
        report.run(config)
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]
