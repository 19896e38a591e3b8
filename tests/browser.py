"""A headless Chromium that is driven over its own protocol: clicks, keys, pictures, complaints."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LIMIT_S = 60.0
PORT_FILE = "DevToolsActivePort"


class Browser:
    """One tab. `complaints` are errors of scripts and of the console, `asked` every address."""

    def __init__(self, socket: WebSocketClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, self._loop, self._number = socket, loop, 0
        self.complaints: list[str] = []
        self.asked: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: Path) -> Self:
        self._call("Page.navigate", url=path.as_uri())
        self._until("Page.loadEventFired")
        return self

    def run(self, script: str) -> Any:
        """The value of an expression on the page; a promise is waited for."""
        found = self._call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text)

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def look(self, width: int, *, dark: bool = False) -> None:
        """As wide as that, light or dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        wanted = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[wanted])

    def picture(self, path: Path, top: int = 0, height: int | None = None) -> None:
        """The page as PNG, all of it, or a part."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        box = {"x": 0, "y": top, "width": size["width"], "scale": 1}
        box["height"] = height or size["height"] - top
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=box)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._wait(lambda: self._socket.write_message(json.dumps(message)))
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _until(self, event: str) -> None:
        while self._next().get("method") != event:
            pass

    def _next(self) -> dict[str, Any]:
        """The next message; what complains or asks for something is noted."""
        text = self._wait(self._socket.read_message)
        assert text is not None, "the browser has gone"
        message: dict[str, Any] = json.loads(text)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("warning", "error"):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("warning", "error"):
            self.complaints.append(str(parameters["args"]))
        return message

    def _wait(self, act: Callable[[], Any]) -> Any:
        async def within() -> Any:
            return await asyncio.wait_for(act(), LIMIT_S)

        return self._loop.run_until_complete(within())


@contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """Chromium with its files under `home`."""
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"]
    words += ["--remote-debugging-port=0", "--remote-allow-origins=*", "--no-first-run"]
    words += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={home}"]
    process = subprocess.Popen([*words, "about:blank"], stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    try:
        socket = loop.run_until_complete(_connected(home))
        yield Browser(socket, loop)
        socket.close()
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        loop.close()


async def _connected(home: Path) -> WebSocketClientConnection:
    from tornado.httpclient import AsyncHTTPClient

    until_s = time.monotonic() + LIMIT_S
    while not (home / PORT_FILE).exists() or not (home / PORT_FILE).read_text().strip():
        assert time.monotonic() < until_s, "Chromium does not start"
        await asyncio.sleep(0.05)
    port = (home / PORT_FILE).read_text().split()[0]
    found = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
    (tab,) = [tab for tab in json.loads(found.body) if tab["type"] == "page"]
    return await websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=1 << 28)
