"""Tar keys: safe for every tool, and never the same for two clips."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards.keys import MAX_KEY_CHARS, key_of

TRICKY = st.text("a~.2e/-_é", min_size=1, max_size=90)
IDS = st.text(min_size=1, max_size=120) | TRICKY


@given(IDS)
@example("a" * 81)
@example("." * 27)
def test_keys_are_short_and_hold_no_dot(clip_id: str) -> None:
    key = key_of(clip_id)
    assert re.fullmatch(r"[0-9A-Za-z_~-]+", key)
    assert len(key) <= MAX_KEY_CHARS


@given(st.lists(IDS, unique=True))
@example(["a" * 81, "a" * 80, "a" * 82])
@example(["~7e~", "~", "7e", "~~"])
def test_different_ids_have_different_keys(ids: list[str]) -> None:
    assert len({key_of(clip_id) for clip_id in ids}) == len(ids)


@given(TRICKY)
def test_a_key_is_no_other_ids_key(clip_id: str) -> None:
    key = key_of(clip_id)
    assert key == clip_id or key_of(key) != key


@given(st.text("abcXYZ019_-", min_size=1, max_size=MAX_KEY_CHARS))
def test_a_safe_id_is_its_own_key(clip_id: str) -> None:
    assert key_of(clip_id) == clip_id


@pytest.mark.parametrize(
    ("clip_id", "key"),
    [("-0RWZT-miFs_30000", "-0RWZT-miFs_30000"), ("a.b", "a~2e~b"), ("dir/é", "dir~2f~~c3a9~")],
)
def test_known_keys_stay_as_they_are(clip_id: str, key: str) -> None:
    assert key_of(clip_id) == key
