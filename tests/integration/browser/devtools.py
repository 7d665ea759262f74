"""A browser to test pages in: headless Chromium, driven by its own protocol (DevTools).

Pages are used as people use them, with a mouse and a keyboard, and looked at as they are.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

# A page that does not get as far as a test expects within this time never will.
GUARD_SECONDS = 60

_OPTIONS = [
    "--headless",
    "--no-sandbox",  # it does not work for root; the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]

# Runs a program until standard input ends, as it does however the tests end.
_WHILE_WE_LIVE = ["sh", "-c", '"$@" & cat; kill $!; wait', "sh"]

_MARKER = "DevTools listening on "

# What a page is told about a key. Enter and the space bar also make text.
_KEYS = {"Tab": ("", 9), "Enter": ("\r", 13), "Escape": ("", 27), "Space": (" ", 32)}


@contextmanager
def browser(program: str | Path) -> Iterator[Browser]:
    """Run Chromium for the block."""
    with tempfile.TemporaryDirectory(prefix="kp-browser-", ignore_cleanup_errors=True) as profile:
        command = [*_WHILE_WE_LIVE, str(program), *_OPTIONS, f"--user-data-dir={profile}"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as process:
            try:
                assert process.stderr is not None
                line = next(line for line in process.stderr if _MARKER in line)
                url = line.partition(_MARKER)[2].strip()
                with connect(url, max_size=None, proxy=None, compression=None) as socket:
                    yield Browser(socket)
            finally:
                process.communicate(timeout=GUARD_SECONDS)  # which closes its input


class Failed(Exception):
    """The browser could not do what it was told."""


class Browser:
    """Chromium, for as long as it runs."""

    def __init__(self, socket: ClientConnection) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        self._numbers = itertools.count(1)

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """Send a command; return its result."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        self._socket.send(json.dumps(command))
        deadline = time.monotonic() + GUARD_SECONDS
        while True:  # events come all the time
            message = json.loads(self._socket.recv(timeout=deadline - time.monotonic()))
            if message.get("id") != number:
                self.events.append(message)
            elif "error" in message:
                raise Failed(f"{method}: {message['error']['message']}")
            else:
                return message["result"]

    @contextmanager
    def page(self, width: int = 1200, height: int = 800) -> Iterator[Page]:
        """Open a page for the block, in a window of its own that shares nothing with others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        try:
            target = self.call("Target.createTarget", url="about:blank", browserContextId=context)[
                "targetId"
            ]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            page = Page(self, attached["sessionId"])
            for domain in ("Page", "Runtime", "Log"):
                page.call(f"{domain}.enable")
            page.resize(width, height)
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """A page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command about this page; return its result."""
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """Have the reader prefer ``"light"`` or ``"dark"``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def go_offline(self, offline: bool) -> None:
        self.call("Network.enable")
        self.call(
            "Network.emulateNetworkConditions",
            offline=offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def open(self, url: str) -> None:
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def reload(self) -> None:
        self.evaluate("window.isOld = true")
        self.call("Page.reload")
        self.wait("window.isOld === undefined && document.readyState == 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; wait for it if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression in the page is true."""
        look = f"() => ({condition}) ? done() : setTimeout(look, 10)"
        while True:
            try:
                self.evaluate(f"new Promise((done) => {{ const look = {look}; look(); }})")
            except Failed as error:  # the page was left while it was waited for
                if not re.search("context|navigated", str(error)):
                    raise
            else:
                return

    def text(self, selector: str = "body") -> str:
        """Return what a reader sees of an element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """Click an element, where it is; fail when something else is there."""
        element = f"document.querySelector({json.dumps(selector)})"
        x, y, is_there = self.evaluate(
            f"""(() => {{
                const element = {element};
                element.scrollIntoView({{ block: "center" }});
                const box = element.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                return [x, y, element.contains(document.elementFromPoint(x, y))];
            }})()"""
        )
        assert is_there, f"{selector} is hidden"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        text, code = _KEYS[key]
        shared = {"key": text if key == "Space" else key, "code": key}
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            windowsVirtualKeyCode=code,
            **shared,
            **({"text": text} if text else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=code, **shared)

    def complaints(self) -> list[str]:
        """Return what the browser has logged about this page: errors, and what it has refused."""
        found: list[str] = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            if event["method"] == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
        return found

    def names(self, role: str) -> list[str]:
        """Return the names of all elements of a role, as a screen reader says them."""
        self.call("Accessibility.enable")
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            node["name"]["value"]
            for node in nodes
            if not node["ignored"] and node["role"]["value"] == role
        ]

    def screenshot(self, path: Path) -> None:
        self.call("Emulation.setScrollbarsHidden", hidden=True)  # or they cut the right edge off
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
