"""An SSH server in this process, on loopback, with keys of its own and real checks of them. Each
command runs in a session of its own; like sshd, the server ends none when a connection is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh

HOST = "127.0.0.1"


@dataclass
class SshServer:
    """Where it listens, the files that a user has of it, and the groups of what it started."""

    port: int
    known_hosts: Path
    private_key: Path
    groups: list[int] = field(default_factory=list)
    running: set[int] = field(default_factory=set)
    commands: set[asyncio.Task[Any]] = field(default_factory=set)


@contextmanager
def ssh_server(directory: Path) -> Iterator[SshServer]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def do(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server, listening = do(_listen(directory))
    try:
        yield server
    finally:
        do(_close(server, listening))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _listen(directory: Path) -> tuple[SshServer, Any]:
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    server = SshServer(0, directory / "known_hosts", directory / "id_ed25519")
    user_key.write_private_key(str(server.private_key))
    authorized = directory / "authorized_keys"
    user_key.write_public_key(str(authorized))
    listening = await asyncssh.listen(
        HOST,
        0,
        server_host_keys=[host_key],
        authorized_client_keys=str(authorized),
        process_factory=partial(_serve, server),
        encoding=None,
    )
    server.port = listening.get_port()
    public = host_key.export_public_key().decode()
    server.known_hosts.write_text(f"[{HOST}]:{server.port} {public}")
    return server, listening


async def _serve(server: SshServer, remote: Any) -> None:
    command = asyncio.create_task(_run(server, remote))  # which no lost connection cancels
    server.commands.add(command)
    await asyncio.shield(command)


async def _run(server: SshServer, remote: Any) -> None:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", remote.command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    server.groups.append(child.pid)
    server.running.add(child.pid)
    signals = asyncio.create_task(_pass_signals(remote.stdin, child.pid))
    await asyncio.gather(_pump(child.stdout, remote.stdout), _pump(child.stderr, remote.stderr))
    code = await child.wait()
    server.running.discard(child.pid)
    signals.cancel()
    with suppress(OSError):  # nobody is there any more
        remote.exit(max(code, 0))


async def _pump(source: Any, target: Any) -> None:
    while data := await source.read(4096):
        with suppress(OSError):
            target.write(data)


async def _pass_signals(stdin: Any, group: int) -> None:
    """To all of a session, as sshd does."""
    while not stdin.at_eof():
        try:
            await stdin.read(4096)
        except asyncssh.SignalReceived as received:
            os.killpg(group, signal.Signals[f"SIG{received.signal}"])
        except (OSError, asyncssh.Error):
            return


async def _close(server: SshServer, listening: Any) -> None:
    """What still runs ends now: its pipes are this process's."""
    for group in server.running:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    await asyncio.gather(*server.commands, return_exceptions=True)
    listening.close()
    await listening.wait_closed()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
