"""Is this container at work? `docker/*.Dockerfile` let Docker ask it twice a minute.

A Dask scheduler or worker: its event loop answers on loopback. One that lost its scheduler ends by
itself. A container that was given GPUs: their driver still answers in it. Anything else, a driver
or a training on CPUs, serves nothing that could be asked: it is well as long as it runs, and what
it has done is in its run (`python -m pipeline status`).
"""

from __future__ import annotations

import http.client
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

DASHBOARD_PORT = 8787  # what docker/compose.yaml gives both roles
ANSWER_LIMIT_S = 5
GPU_LIMIT_S = 8
GPU_DEVICE = Path("/dev/nvidiactl")
ROLES = {("dask", "scheduler"), ("dask", "worker")}


def complaint(pid: str = "1", port: str = str(DASHBOARD_PORT)) -> str | None:
    """What is wrong with the container whose first process is `pid`; None for a healthy one."""
    if serves_dask(pid) and not answers(int(port)):
        return f"Dask does not answer on port {port}"
    if GPU_DEVICE.exists() and not sees_gpus():
        return "the GPU's driver does not answer"
    return None


def serves_dask(pid: str) -> bool:
    """Whether the command of a process, which tini shows as its own, is a scheduler or worker."""
    words = Path("/proc", pid, "cmdline").read_text().split("\0")
    return any((Path(a).name, b) in ROLES for a, b in pairwise(words))


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def sees_gpus() -> bool:
    try:
        words = ["nvidia-smi", "-L"]  # NVIDIA's toolkit puts it where it likes
        listed = subprocess.run(words, capture_output=True, timeout=GPU_LIMIT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0


if __name__ == "__main__":
    sys.exit(complaint(*sys.argv[1:]))  # a text is printed, and means 1
