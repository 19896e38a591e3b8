"""The child under its limits: time, memory, output, cores, sockets."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from configs.processes import is_alive
from pipeline.audio.refusal import ClipRefused
from tests.workshop import EVIL, GOOD, Workshop, ask, pid_of


def test_time_is_counted_anew_for_each_clip(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("late", wall_s=2)
    for _ in range(3):
        ask(sandbox, EVIL)
    assert len(set(workshop.tries())) == 1


def test_an_idle_child_is_not_ended_by_its_own_alarm(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow", wall_s=1)
    ask(sandbox, GOOD)
    pid = pid_of(sandbox)
    time.sleep(1.5)
    assert is_alive(pid)
    ask(sandbox, GOOD)
    assert workshop.tries() == [pid, pid]


def test_limits_hold_where_the_parent_ignores_their_signals(workshop: Workshop) -> None:
    """`nohup` and batch systems leave signals ignored, and that is handed down."""
    ignored = "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)"
    sandbox = workshop.sandbox("sleep", wall_s=1, prologue=ignored)
    with pytest.raises(ClipRefused, match="decoder_hung"):
        ask(sandbox, EVIL)


@pytest.mark.parametrize(
    "limit", ["RLIMIT_CPU, (3000, 3000)", "RLIMIT_AS, (1000 << 20, 1000 << 20)"]
)
def test_a_limit_that_a_batch_system_has_set_is_kept(workshop: Workshop, limit: str) -> None:
    prologue = f"import resource; resource.setrlimit(resource.{limit})"
    assert ask(workshop.sandbox("slow", prologue=prologue), GOOD).facts.num_samples == 22_050


def test_a_fault_of_ours_costs_one_clip_and_says_where_it_is(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("fault")
    with pytest.raises(ClipRefused) as caught:
        ask(sandbox, EVIL)
    assert caught.value.reason == "decoder_error"
    assert re.fullmatch(r"\w+Error in \w+\.py, line \d+", caught.value.detail)
    assert ask(sandbox, GOOD).facts.num_samples
    assert len(set(workshop.tries())) == 1


def test_what_a_library_prints_is_no_answer(workshop: Workshop) -> None:
    assert ask(workshop.sandbox("chatter"), EVIL).facts.num_samples == 22_050


def test_the_child_makes_no_core_files(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    ask(sandbox, GOOD)
    limits = Path(f"/proc/{pid_of(sandbox)}/limits").read_text()
    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core")]
    assert core[4] in ("0", "1")
    (space,) = [line.split() for line in limits.splitlines() if line.startswith("Max address")]
    assert space[3] == str(1 << 30)


def test_nothing_listens(workshop: Workshop) -> None:
    sandbox = workshop.sandbox("slow")
    ask(sandbox, GOOD)
    links = [str(link.readlink()) for link in Path(f"/proc/{pid_of(sandbox)}/fd").iterdir()]
    assert any("memfd:clip" in link for link in links)
    assert not [link for link in links if link.startswith("socket:")]
    with socket.socket() as here:  # the check sees sockets where there are some
        assert str(Path(f"/proc/self/fd/{here.fileno()}").readlink()).startswith("socket:")
