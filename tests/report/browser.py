"""Headless Chromium over a pipe, by the DevTools protocol; nothing listens on any port."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 20) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the ends of two pipes where Chromium looks for them, and becomes Chromium."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """Find a browser; where a CI has none that is a failure, elsewhere the test is skipped."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        found = shutil.which(name) if name else None
        if found:
            return found
    message = "no Chromium: install the package chromium, or let CHROMIUM name one"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


class Browser:
    """Send commands, and keep the events that come between their answers."""

    def __init__(self, send: int, receive: int) -> None:
        self.send, self.receive = os.fdopen(send, "wb", 0), os.fdopen(receive, "rb", 0)
        self.number, self.left, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.send.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.left:
            part = self.receive.read(65536)
            assert part, "the browser ended"
            self.left += part
        text, _, self.left = self.left.partition(b"\0")
        return dict(json.loads(text))

    def wait(self, method: str) -> dict[str, Any]:
        """Wait for an event that has not been looked at."""
        while True:
            for place, event in enumerate(self.events):
                if event.get("method") == method:
                    return self.events.pop(place)
            self.events.append(self._next())

    def open(self, page: Path) -> None:
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self(f"{domain}.enable")
        self("Page.navigate", url=page.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Evaluate in the page; the protocol may, where the page's policy lets no script run."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        extra = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def theme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self("Emulation.setEmulatedMedia", features=features)

    def picture(self) -> Image.Image:
        """Take a screenshot of the whole page."""
        taken = self("Page.captureScreenshot", captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")


@contextmanager
def browsing(page: Path, home: Path, width: int = 1280) -> Iterator[Browser]:
    """Open a page in a browser of its own."""
    to_browser, from_browser = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [
            sys.executable, "-c", _LAUNCH, str(to_browser[0]), str(from_browser[1]), chromium(),
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", f"--user-data-dir={home}", f"--window-size={width},900",
            "about:blank",
        ],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser[0])
    os.close(from_browser[1])
    browser = Browser(to_browser[1], from_browser[0])
    try:
        browser.open(page)
        yield browser
    finally:
        browser.send.close()
        browser.receive.close()
        process.terminate()
        process.wait(timeout=20)
