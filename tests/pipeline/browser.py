"""Chromium without a window, by the protocol of its own developer tools over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One page. ``events``: what the browser reported of it, in order."""

    def __init__(self, commands: int, replies: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._commands, self._replies = commands, replies
        self._session: str | None = None
        self._last, self._rest = 0, b""

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; returns its result. RuntimeError if the browser refuses it or is silent."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        # More than a pipe holds goes out in parts.
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while True:
            reply = self._read(TIMEOUT_S)
            if reply is None:
                raise RuntimeError(f"no answer to {method}")
            if reply.get("id") == self._last:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']['message']}")
                result: dict[str, Any] = reply["result"]
                return result
            self.events.append(reply)

    def _read(self, seconds: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready = select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(self._replies, 1 << 16) if ready else b""
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def attach(self) -> None:
        """Open a page and have the browser report what it asks for, logs and throws."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Load a file; returns when all that it asks for is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + TIMEOUT_S
        while not self.named("Page.loadEventFired"):
            message = self._read(deadline - time.monotonic())
            if message is None:
                raise RuntimeError(f"{path} was not loaded")
            self.events.append(message)

    def named(self, *methods: str) -> list[dict[str, Any]]:
        """Parameters of the events of these names."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    def look(self, width: int, height: int, scheme: str = "light", medium: str = "screen") -> None:
        """The window in CSS pixels, the reader's colour scheme, ``screen`` or ``print``."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=medium, features=features)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; RuntimeError if it throws."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def screenshot(self, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        return base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """The page as it is printed, on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": False}
        return base64.b64decode(self.send("Page.printToPDF", printBackground=False, **size)["data"])


@contextmanager
def started(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with a page, ended afterwards; ``profile``: a directory of its own."""
    commands_read, commands = os.pipe()
    replies, replies_write = os.pipe()

    # The browser reads its commands from descriptor 3 and answers on 4: those of the shell that becomes it.
    start = f'exec 3<&{commands_read} 4>&{replies_write}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", start, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(commands_read, replies_write),
    )
    os.close(commands_read)
    os.close(replies_write)
    try:
        browser = Browser(commands, replies)
        browser.attach()
        yield browser
        browser._session = None
        browser.send("Browser.close")
        process.wait(TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(commands)
        os.close(replies)
