"""The process that holds a standing cluster: `python -m cluster.keeper HOME`, started by `up`.

It opens the cluster as any command would, writes down where it is, and waits for SIGTERM or for
the scheduler's end. The lock that says so is open in it from its first moment.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from threading import Event

from distributed import Client

from cluster.client import is_connected
from cluster.launch import open_client
from cluster.report import dashboard
from cluster.standing import CONFIG_NAME, FILE_NAME, Standing, write_standing
from configs.console import say
from configs.errors import AudiolexError
from configs.load import load_config

LOOK_S = 2.0


def main(home: Path) -> int:
    """Hold a cluster until told to let go; returns the exit code."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    config = load_config(home / CONFIG_NAME).cluster
    try:
        with open_client(config, home) as client:
            opened = client()
            if opened is not None:
                _hold(opened, config.kind, home, stop)
    except AudiolexError as error:
        say(str(error))
        return error.exit_code
    return 0


def _hold(client: Client, kind: str, home: Path, stop: Event) -> None:
    write_standing(home, _describe(client, kind))
    try:
        while not stop.wait(LOOK_S) and is_connected(client):
            pass
    finally:
        (home / FILE_NAME).unlink(missing_ok=True)


def _describe(client: Client, kind: str) -> Standing:
    security = client.security
    return Standing(
        kind=kind,
        address=str(client.scheduler_info()["address"]),
        dashboard=dashboard(client),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        ca=security.tls_ca_file,
        cert=security.tls_client_cert,
        key=security.tls_client_key,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
