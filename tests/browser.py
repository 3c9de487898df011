"""A headless Chromium for tests, driven by its DevTools protocol: https://chromedevtools.github.io/devtools-protocol/ .

It waits for conditions, in the browser itself, and never for time.
"""

import base64
import itertools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"
"""Debian's and Ubuntu's package."""

START_TIMEOUT_S = 60.0
WAIT_TIMEOUT_S = 60.0

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # as root, which containers are, Chromium refuses to start with one
    "--disable-dev-shm-usage",  # of which containers have little
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--mute-audio",
    "--remote-debugging-port=0",
)
_ANNOUNCED = "DevTools listening on "
_ELSEWHERE = ("Inspected target navigated or closed", "Execution context was destroyed", "Cannot find context")
"""How a command fails whose page has gone elsewhere."""

KEYS = {"Tab": 9, "Enter": 13, "Home": 36, "End": 35, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}
"""Windows' codes of the keys that `Page.press` knows."""

_TEXTS = {"Enter": "\r", " ": " "}
_MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


class BrowserError(AssertionError):
    """The browser, or a script in it, failed."""


def installed() -> str | None:
    """Where a Chromium is; None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running Chromium; one connection to it, from one thread."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._pages: dict[str, Page] = {}

    @classmethod
    @contextmanager
    def started(cls, profile: Path) -> Iterator[Self]:
        """A fresh one with its profile in that folder, ended in the end."""
        program = installed()
        assert program is not None
        command = [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stderr is not None
        reading = None
        try:
            line = next((line for line in process.stderr if line.startswith(_ANNOUNCED)), None)
            if line is None:
                raise BrowserError(f"{program} ended with {process.wait()} before it listened")
            # Or a full pipe would stop the browser.
            reading = threading.Thread(target=process.stderr.read)
            reading.start()
            address = line.removeprefix(_ANNOUNCED).strip()
            with connect(address, max_size=None, proxy=None, compression=None) as connection:
                browser = cls(connection)
                yield browser
                browser.call("Browser.close")
            process.wait(START_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
            if reading is not None:
                reading.join()
            process.stderr.close()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of one command. Raises `BrowserError`; so does an answer that does not come."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self._connection.send(json.dumps(message))
        while True:
            found = json.loads(self._connection.recv(timeout=START_TIMEOUT_S))
            if found.get("id") == number:
                if "error" in found:
                    raise BrowserError(f"{method}: {found['error']['message']}")
                return found["result"]
            if page := self._pages.get(found.get("sessionId", "")):
                page.heard(found["method"], found["params"])

    @contextmanager
    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> "Iterator[Page]":
        """An empty page in a context of its own: it shares neither storage nor cache with others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        self.call("Browser.grantPermissions", browserContextId=context, permissions=["clipboardReadWrite"])
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        page.show_as(dark=dark)
        yield page
        self.call("Target.disposeBrowserContext", browserContextId=context)
        del self._pages[session]


class Page:
    """A page of a `Browser`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []
        """Errors in the console, and of scripts; refused requests among them."""
        self.hosts: set[str] = set()
        """Where anything was asked for."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command."""
        return self._browser.call(method, self._session, **parameters)

    def heard(self, event: str, details: dict[str, Any]) -> None:
        """Takes note of what the page is not asked for."""
        if event == "Runtime.exceptionThrown":
            thrown = details["exceptionDetails"]
            self.problems.append(thrown.get("exception", {}).get("description", thrown["text"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert", "warning"):
            self.problems.append(str([argument.get("value") for argument in details["args"]]))
        elif event == "Network.requestWillBeSent":
            self.hosts.add(urlsplit(details["request"]["url"]).netloc)

    def open(self, url: str) -> None:
        """Goes there, and waits until everything is loaded and its scripts have run."""
        failure = self.call("Page.navigate", url=url).get("errorText")
        if failure:
            raise BrowserError(f"{url}: {failure}")
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """What the expression `script` evaluates to, promises awaited. Raises `BrowserError` where it throws."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            thrown = found["exceptionDetails"]
            raise BrowserError(thrown.get("exception", {}).get("description", thrown["text"]))
        return found["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = WAIT_TIMEOUT_S) -> Any:
        """Returns what the expression evaluates to, a plain value, once that is something true.

        When the page goes elsewhere meanwhile, the new one is asked.
        """
        while True:
            try:
                return self._wait_for(condition, timeout_s)
            except BrowserError as error:
                if not any(words in str(error) for words in _ELSEWHERE):
                    raise

    def _wait_for(self, condition: str, timeout_s: float) -> Any:
        return self.run(
            f"""new Promise((resolve, reject) => {{
                const until = performance.now() + {timeout_s * 1000};
                const look = () => {{
                    const found = (() => {{ try {{ return {condition}; }} catch {{ return null; }} }})();
                    if (found) resolve(found);
                    else if (performance.now() > until)
                        reject(new Error("not within {timeout_s} s: " + {json.dumps(condition)}
                                         + "\\n" + document.body.innerText));
                    else setTimeout(look, 10);
                }};
                look();
            }})"""
        )

    def text(self, selector: str) -> str:
        """What a reader sees of an element, once it is there."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} !== null")
        return str(self.run(f"{found}.innerText")).strip()

    def texts(self, selector: str) -> list[str]:
        """The same of each element that is there now."""
        found = f"document.querySelectorAll({json.dumps(selector)})"
        return list(self.run(f"[...{found}].map((element) => element.innerText.trim())"))

    def type(self, text: str) -> None:
        """Types into what has the focus, a key for each character."""
        for character in text:
            self.call("Input.dispatchKeyEvent", type="char", text=character)

    def paste(self, text: str) -> None:
        """Inserts it where the focus is, as a whole."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *modifiers: str) -> None:
        """Presses and releases one of `KEYS`."""
        pressed = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": KEYS[key],
            "modifiers": sum(_MODIFIERS[modifier] for modifier in modifiers),
        }
        text = {"text": _TEXTS[key]} if key in _TEXTS and not modifiers else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def tab_to(self, selector: str, *modifiers: str) -> None:
        """Presses Tab until that element has the focus. Raises `BrowserError` when it never does."""
        for _ in range(60):
            if self.run(f"document.activeElement?.matches({json.dumps(selector)})"):
                return
            self.press("Tab", *modifiers)
        raise BrowserError(f"Tab does not reach {selector}")

    def choose_file(self, selector: str, path: Path) -> None:
        """Gives the file to an `<input type=file>`."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def show_as(self, *, dark: bool = False, reduced_motion: bool = False) -> None:
        """What the reader's system prefers."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))
