"""docker/healthy.py on processes that are named as a container's first one is."""

from __future__ import annotations

import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.commands import ROOT

ROLES = (["dask", "scheduler"], ["/opt/venv/bin/dask", "worker"])


class Dashboard(BaseHTTPRequestHandler):
    """Says ok on /health, and nothing on standard error."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[str]:
    """Where a healthy dashboard answers."""
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_port)
        server.shutdown()


@contextmanager
def first_process(*words: str) -> Iterator[str]:
    """The id of a process that waits, with these words in its command line."""
    wait = [sys.executable, "-c", "import time; time.sleep(60)", "--", *words]
    with subprocess.Popen(wait) as process:
        try:
            yield str(process.pid)
        finally:
            process.kill()


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "docker/healthy.py", *words], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("role", ROLES, ids=str)
def test_dask_is_healthy_while_it_answers(role: list[str], port: str) -> None:
    with first_process(*role) as pid:
        assert check(pid, port).returncode == 0
        silent = check(pid, "1")
    assert silent.returncode == 1
    assert "Dask does not answer on port 1" in silent.stderr


def test_what_serves_nothing_is_healthy_while_it_runs() -> None:
    with first_process("python", "-m", "pipeline", "all", "dask.yaml") as pid:
        assert check(pid, "1").returncode == 0


@pytest.mark.parametrize(
    ("smi", "complaint"),
    [("exit 0", None), ("exit 9", "the GPU's driver"), ("exec sleep 9", "the GPU's driver")],
)
def test_a_container_with_gpus_is_healthy_while_it_sees_them(
    smi: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for the device and for nvidia-smi."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{smi}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    check_gpus = runpy.run_path(str(ROOT / "docker" / "healthy.py"))["complaint"]
    monkeypatch.setitem(check_gpus.__globals__, "GPU_LIMIT_S", 1)
    monkeypatch.setitem(check_gpus.__globals__, "GPU_DEVICE", tmp_path)
    with first_process("python", "-m", "train", "fit") as pid:
        said = check_gpus(pid)
    assert said is None if complaint is None else complaint in said
