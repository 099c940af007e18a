"""Headless Chromium for the tests, driven by its DevTools protocol over the web socket of aiohttp, which Ray brings."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from waiting import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Browser:
    """A page of a running Chromium. Every call waits for its answer.

    Args:
        address: of the page's web socket.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self.loop, self.address, self.ids = loop, address, itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.session: aiohttp.ClientSession | None = None
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.loaded = False

    async def open(self) -> None:
        """Connect to the page."""
        self.session = aiohttp.ClientSession()
        self.socket = await self.session.ws_connect(self.address, max_msg_size=0)

    async def close(self) -> None:
        """Leave the page."""
        if self.socket is not None and self.session is not None:
            await self.socket.close()
            await self.session.close()

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self.socket is not None
        number = next(self.ids)
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._receive()
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                answer: dict[str, Any] = message["result"]
                return answer

    async def _receive(self) -> dict[str, Any]:
        """The next message; problems of the page, requests and its loading are noted."""
        assert self.socket is not None
        message: dict[str, Any] = await self.socket.receive_json(timeout=PATIENCE)
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        if message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        self.loaded = self.loaded or message.get("method") == "Page.loadEventFired"
        return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        return self.loop.run_until_complete(self._call(method, params))

    def show(self, url: str, width: int, scheme: str) -> None:
        """Load a page in a window of a width, in the colour scheme "light" or "dark"."""
        self.problems.clear()
        self.requests.clear()
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.loaded = False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self.loop.run_until_complete(self._receive())

    def value(self, script: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, file: Path, height: int | None = None) -> None:
        """Write the page as PNG: all of it, or its first pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium with an empty profile in `folder`; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium: none is in PATH (Debian: apt-get install chromium)")
    args = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    loop = asyncio.new_event_loop()
    try:
        assert process.stderr is not None
        line = next((line for line in process.stderr if "DevTools listening on" in line), "")
        assert line, "Chromium ended before it listened"
        base = line.split("ws://")[1].split("/")[0]
        page = Browser(loop, loop.run_until_complete(_page(base)))
        loop.run_until_complete(page.open())
        yield page
        loop.run_until_complete(page.close())
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
        loop.close()


async def _page(base: str) -> str:
    """The address of the web socket of the open page."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{base}/json/list") as answer:
        pages = await answer.json()
    return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
