"""Disks and hosts that a trial may break: of this machine, and gone after it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE, THERE = "10.231.7.1", "10.231.7.2"


class NotHere(Exception):
    """What this machine, or this user, cannot do."""


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own, in memory."""
    disk = directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise NotHere("needs root, and a system that lets it mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


@dataclass(frozen=True)
class OtherHost:
    """A network namespace with one link to this one."""

    name: str
    link: str

    @property
    def words(self) -> Sequence[str]:
        """Those that run a command there."""
        return ["ip", "netns", "exec", self.name]

    def set_link(self, state: str) -> None:
        ip("-n", self.name, "link", "set", self.link, state)


@contextmanager
def other_host() -> Iterator[OtherHost]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise NotHere("needs `ip` (iproute2) and root")
    number = os.getpid() % 10_000
    host, near = OtherHost(f"lex{number}", f"lx{number}b"), f"lx{number}a"
    try:
        ip("netns", "add", host.name)
    except subprocess.CalledProcessError as error:
        raise NotHere(f"this machine makes no network namespaces: {error.stderr!r}") from None
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", host.link)
        ip("link", "set", host.link, "netns", host.name)
        ip("addr", "add", f"{HERE}/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", host.name, "addr", "add", f"{THERE}/30", "dev", host.link)
        host.set_link("up")
        ip("-n", host.name, "link", "set", "lo", "up")
        yield host
    finally:
        ip("netns", "del", host.name)
        subprocess.run(["ip", "link", "del", near], capture_output=True, check=False)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
