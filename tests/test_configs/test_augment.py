"""Changes of clips that cannot be made are refused with the config."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import MakeConfig

WEBDATASET = {"reader": "webdataset"}


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"train": {"augment": {}}, "data": WEBDATASET}, "train.augment reads frames: leave one"),
        ({"train": {"augment": {}}, "data": {"on_damage": "mask"}}, "on_damage is of tokens"),
        ({"train": {"augment": {}}, "data": {"remote": "file:///r"}}, "remote is of tokens"),
        ({"train": {"augment": {}}, "frames": {"kind": "mfcc"}}, "or set frames.kind=mel"),
        ({"train": {"span_masks": {}}, "data": WEBDATASET}, "reader=webdataset knows none: leave"),
        ({"train": {"mixup": 0.2}, "data": WEBDATASET}, "train: mixup go.*knows none: leave one"),
        ({"train": {"augment": {"stretch": 0.6}}}, "less than or equal to 0.5"),
        ({"train": {"span_masks": {"count": 0}}}, "greater than 0"),
    ],
)
def test_what_cannot_be_changed_is_refused(
    over: dict[str, Any], message: str, make_config: MakeConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**over)


def test_what_is_left_out_does_nothing(make_config: MakeConfig) -> None:
    assert make_config().train.span_masks is None
    assert make_config().train.augment is None
    assert set(make_config(train={"augment": {}}).train.augment.model_dump().values()) == {0}
