"""constraints.txt pins every package that the project and its extras pull in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import ROOT

EXTRAS = ("train", "cluster", "dev")


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def needed(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def pulled_in(requirements: list[Requirement]) -> Iterator[str]:
    """Names of these and of all that they need in turn, as installed here."""
    waiting = [one for one in requirements if needed(one)]
    seen: set[str] = set()
    while waiting:
        one = waiting.pop()
        yield canonicalize_name(one.name)
        if str(one) in seen:
            continue
        seen.add(str(one))
        inside = [Requirement(line) for line in distribution(one.name).requires or ()]
        extras = ["", *one.extras]
        waiting += [sub for sub in inside if any(needed(sub, extra) for extra in extras)]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_package_that_is_pulled_in_is_pinned() -> None:
    names = set(pulled_in(wanted()))
    assert len(names) > 100
    assert names - set(pins()) == set()


def test_every_pin_is_one_version_and_no_address() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in pins())
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins().values())
