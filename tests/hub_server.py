"""A Hugging Face Hub of one data set, on loopback: the routes that HfFileSystem reads from."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

REPO = "owner/sounds"
COMMIT = "c" * 40


class _Handler(BaseHTTPRequestHandler):
    root: Path
    bytes_sent = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = json.loads(self.rfile.read(length) or b"{}")
        paths = asked.get("paths", [])
        self._json([entry for path in paths if (entry := self._entry(path)) is not None])

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        if match := re.fullmatch(rf"/datasets/{REPO}/resolve/[^/]+/(.+)", path):
            self._file(match.group(1), body=body)
        elif match := re.fullmatch(rf"/api/datasets/{REPO}/tree/[^/]+/?(.*)", path):
            self._tree(match.group(1))
        elif path.startswith(f"/api/datasets/{REPO}"):
            self._json({"id": REPO, "sha": COMMIT, "siblings": [], "private": False})
        else:
            self._json({"error": f"no {path}"}, 404)

    def _tree(self, folder: str) -> None:
        place = self.root / folder
        if not place.is_dir():
            self._json({"error": "no such entry"}, 404)
            return
        names = sorted(path.relative_to(self.root).as_posix() for path in place.iterdir())
        self._json([self._entry(name) for name in names])

    def _entry(self, name: str) -> dict[str, object] | None:
        path = self.root / name
        if path.is_dir():
            return {"type": "directory", "oid": "d" * 40, "size": 0, "path": name}
        if path.is_file():
            return {"type": "file", "oid": "f" * 40, "size": path.stat().st_size, "path": name}
        return None

    def _file(self, name: str, *, body: bool) -> None:
        path = self.root / name
        if not path.is_file():
            self._json({"error": "no such entry"}, 404)
            return
        data, status = path.read_bytes(), 200
        total, headers = len(data), {}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match.group(1)), int(match.group(2) or total - 1) + 1
            data, status = data[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{min(stop, total) - 1}/{total}"
        if body:
            type(self).bytes_sent += len(data)
        self._send(status, data, body=body, **headers)

    def _json(self, tree: object, status: int = 200) -> None:
        self._send(status, json.dumps(tree).encode(), body=self.command != "HEAD")

    def _send(self, status: int, data: bytes, *, body: bool, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"e"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def environment(address: str, cache: Path) -> dict[str, str]:
    """The variables of a process that takes the server at `address` for the Hub."""
    told = {"HF_ENDPOINT": address, "HF_HOME": str(cache)}
    told |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, **told}


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, type[_Handler]]]:
    """The address of the hub, and its handler, which counts the bytes of files that it sent."""
    handler = type("Handler", (_Handler,), {"root": root, "bytes_sent": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
