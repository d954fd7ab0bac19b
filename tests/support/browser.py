"""A headless Chromium, driven over the DevTools protocol through a pipe: no driver, no extra package.

As a command it takes the screenshots of ``docs/report.md``:

    python tests/support/browser.py OUT/report.html 'docs/report-{view}.png'
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 180.0


@dataclass
class Browser:
    """One tab.

    Attributes:
        errors: what the console, the log and the page itself complained of.
        requests: addresses that were asked for.
    """

    to: int
    back: int
    session: str = ""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _buffer: bytes = b""
    _number: int = 0
    _seen: list[str] = field(default_factory=list)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, url: str) -> None:
        """Load an address and wait until it is there."""
        self._seen.clear()
        self.send("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._seen:
            self._note(self._read())

    def show(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """Size of the window in CSS pixels, and the colour scheme that the system asks for."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = False, clip: tuple[float, float, float, float] | None = None) -> bytes:
        """PNG of what is visible, of the whole page, or of a part (x, y, width, height)."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole or clip is not None}
        if clip is not None:
            options["clip"] = dict(zip(("x", "y", "width", "height"), clip, strict=True), scale=1)
        return base64.b64decode(self.send("Page.captureScreenshot", **options)["data"])

    def pdf(self) -> bytes:
        """The page as it would be printed on A4."""
        options = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False, "preferCSSPageSize": True}
        return base64.b64decode(self.send("Page.printToPDF", **options)["data"])

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            block = os.read(self.back, 1 << 20) if ready else b""
            if not block:
                raise RuntimeError("the browser has gone, or does not answer")
            self._buffer += block
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        name, facts = event.get("method", ""), event.get("params", {})
        self._seen.append(name)
        if name == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif name == "Runtime.exceptionThrown" or (
            name == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert")
        ):
            self.errors.append(json.dumps(facts))
        elif name == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.errors.append(facts["entry"]["text"])


@contextmanager
def browser(program: str | None = CHROMIUM, libraries: Path | None = None) -> Iterator[Browser]:
    """A headless Chromium with one empty tab; it ends with the block, and nothing of it stays.

    Args:
        program: path of the browser.
        libraries: folder of libraries that it needs and the system may lack.
    """
    assert program is not None
    environment = {**os.environ, **({} if libraries is None else {"LD_LIBRARY_PATH": str(libraries)})}
    # The browser reads from its file descriptor 3 and writes to 4.
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        shell = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        process = subprocess.Popen(
            [
                *("bash", "-c", shell, program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"),
                *("--remote-debugging-pipe", f"--user-data-dir={home}", "about:blank"),
            ],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        os.close(their_in)
        os.close(their_out)
        tab = Browser(our_out, our_in)
        try:
            target = tab.send("Target.createTarget", url="about:blank")["targetId"]
            tab.session = tab.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
                tab.send(f"{domain}.enable")
            yield tab
        finally:
            os.close(our_out)
            os.close(our_in)
            process.kill()
            process.wait()


def main(report: str, pattern: str, part: str = "kept") -> None:
    """Screenshots of a report on a desktop, from some section on in dark, on a phone, and on paper."""
    with browser() as tab:
        for view, width, height, media in (
            ("desktop", 1100, 1000, ""),
            ("dark", 1100, 1150, ""),
            ("phone", 360, 760, ""),
            ("print", 794, 1123, "print"),
        ):
            tab.show(width, height, dark=view == "dark", scale=1.5 if view == "phone" else 1.0)
            if media:
                tab.send("Emulation.setEmulatedMedia", media=media, features=[])
            tab.open(Path(report).resolve().as_uri())
            top = float(tab.evaluate(f"document.getElementById({part!r}).getBoundingClientRect().top + scrollY - 16"))
            clip = (0.0, top if view == "dark" else 0.0, float(width), float(height))
            Path(pattern.format(view=view)).write_bytes(tab.screenshot(clip=clip))
        print("errors:", tab.errors, "requests:", sorted(set(tab.requests)))


if __name__ == "__main__":
    main(*sys.argv[1:])
