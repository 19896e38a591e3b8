"""Which device faiss works on: a GPU where there is one, the CPU elsewhere."""

from __future__ import annotations

import faiss
import pytest

from configs.errors import InputError
from pipeline.audio.choose import choose_device


@pytest.mark.parametrize(
    ("asked", "num_gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda")],
)
def test_the_device_is_what_was_asked_for_or_what_is_there(
    asked: str, num_gpus: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: num_gpus)
    assert choose_device(asked) == device


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(InputError, match="codebook.device=cuda, but faiss sees no GPU"):
        choose_device("cuda")
