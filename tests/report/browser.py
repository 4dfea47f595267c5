"""Chromium without a screen, driven over a pipe by its DevTools protocol: what pages log, and ask for."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT_S = 60


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in a browser of its own, whose every host name leads nowhere."""

    def __init__(self, program: str, scratch: Path) -> None:
        ours_in, its_out = os.pipe()
        its_in, self._out = os.pipe()
        self._in = os.fdopen(ours_in, "rb")
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={scratch}",
        ]  # fmt: skip
        script = f'exec "$0" "$@" 3<&{its_in} 4>&{its_out}'  # where the protocol has them
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *options, "about:blank"],
            pass_fds=(its_in, its_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_in)
        os.close(its_out)
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.call("Browser.close")
        self._in.close()
        os.close(self._out)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, page: Path, width: int, height: int) -> None:
        """Load a file and wait until its charts are drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._events.clear()
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + _TIMEOUT_S
        while not self.evaluate(
            "document.readyState == 'complete' && !!window.Bokeh && Bokeh.documents.length > 0 && "
            "Bokeh.documents.every(d => d.is_idle)"
        ):
            assert time.monotonic() < deadline, "the charts were not drawn"
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, to: Path) -> None:
        picture = self.call("Page.captureScreenshot", format="png")
        to.write_bytes(base64.b64decode(picture["data"]))

    def print(self, to: Path) -> None:
        printed = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        to.write_bytes(base64.b64decode(printed["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, of scripts, and of the browser about the page."""
        found = []
        for event in self._events:
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(params))
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(params["args"]))
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(json.dumps(params["entry"]))
        return found

    @property
    def requests(self) -> list[str]:
        """What the page asked for."""
        asked = [e["params"] for e in self._events if e["method"] == "Network.requestWillBeSent"]
        return [request["request"]["url"][:200] for request in asked]

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._in.read(1)) not in (b"\0", b""):
            message += byte
        assert message, "the browser ended"
        answer: dict[str, Any] = json.loads(message)
        if "method" in answer:
            self._events.append(answer)
        return answer
