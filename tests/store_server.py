"""A plain web server of a directory on loopback, which fails in the ways that stores fail."""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECES = 8


@dataclass
class Store:
    """What was asked of it, and what befalls the next requests, then all others.

    A fault is `fail` (status 500), `cut` (the connection ends in the middle), `short` (half a file,
    as if it were whole), `wrong` (another byte), `stall` (half a file, and silence).
    """

    root: Path
    address: str = ""
    faults: deque[str] = field(default_factory=deque)
    always: str = ""
    pause_s: float = 0.0  # before each of the pieces of a file
    gets: Counter[str] = field(default_factory=Counter)
    half_sent: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    store: Store

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        path = self.store.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        self.end_headers()

    def do_GET(self) -> None:
        store, path = self.store, self.store.root / self.path.lstrip("/")
        store.gets[path.name] += 1
        fault = store.faults.popleft() if store.faults else store.always
        if fault == "fail" or not path.is_file():
            self.send_error(500 if fault else 404)
            return
        data = bytearray(path.read_bytes())
        data, span = self._asked_for(data)
        half = len(data) // 2
        if fault == "wrong":
            data[half] ^= 1
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(half if fault == "short" else len(data)))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        with suppress(ConnectionError):
            self._send(data if fault in ("", "wrong") else data[:half])
            store.half_sent.set()
            if fault == "stall":
                store.closed.wait()

    def _asked_for(self, data: bytearray) -> tuple[bytearray, str]:
        """The part that the request wants, and its Content-Range."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return data, ""
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        return data[first : last + 1], f"bytes {first}-{last}/{len(data)}"

    def _send(self, data: bytearray) -> None:
        size = -(-len(data) // PIECES)
        for start in range(0, len(data), size):
            self.store.closed.wait(self.store.pause_s)
            self.wfile.write(data[start : start + size])


@contextmanager
def serving(root: Path) -> Iterator[Store]:
    store = Store(root)
    handler = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    store.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        store.closed.set()
        server.shutdown()
        thread.join()
        server.server_close()
