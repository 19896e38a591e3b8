"""Which device trains, and in which precision."""

from __future__ import annotations

import pytest
import torch

from configs.errors import InputError
from configs.schema import TrainConfig
from train.device import choose_device, uses_bf16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == CPU
    if torch.cuda.is_available():
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
        with pytest.raises(InputError, match="process 99 of this host has no GPU of its own"):
            choose_device("cuda", 99)
    else:
        assert choose_device("auto") == CPU
        with pytest.raises(InputError, match="use auto or cpu"):
            choose_device("cuda")


@pytest.mark.parametrize(
    ("precision", "on_cpu", "on_cuda"),
    [("auto", False, True), ("fp32", False, False), ("bf16", True, True)],
)
def test_auto_is_bf16_on_gpus(precision: str, on_cpu: bool, on_cuda: bool) -> None:
    config = TrainConfig.model_validate({"precision": precision})
    assert (uses_bf16(config, CPU), uses_bf16(config, CUDA)) == (on_cpu, on_cuda)
