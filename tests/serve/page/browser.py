"""Chromium without a window, driven by its DevTools protocol: opens pages, types, clicks, and hears what they do."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.serve.waiting import wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 30.0
_KEYS = {"Enter": 13, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "Escape": 27}


class Browser:
    """One Chromium on a port that it chooses, with a profile of its own; it ends with its block."""

    def __init__(self, profile):
        self._profile = Path(profile)
        self._ids = itertools.count(1)
        self._pages = {}

    def __enter__(self):
        arguments = [
            "--headless",
            "--no-sandbox",  # of the browser's own processes: a container has no user namespaces
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--force-color-profile=srgb",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._profile}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            [str(CHROMIUM), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._socket = connect(self._address(), max_size=None, compression=None)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(WebSocketException, TimeoutError):
            self.call("Browser.close")
            self._process.wait(10)
        with contextlib.suppress(WebSocketException, TimeoutError):
            self._socket.close()
        self._kill()

    def _address(self):
        written = self._profile / "DevToolsActivePort"
        wait_for(lambda: written.exists() and "\n" in written.read_text(), "Chromium opens its port")
        port, path = written.read_text().split()
        return f"ws://127.0.0.1:{port}{path}"

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):  # the group that this object started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def page(self, **size):
        """A new page with cookies and storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        page.start(**size)
        return page

    def call(self, method, session=None, **parameters):
        """Calls a method of the protocol and gives its result; what happens meanwhile is told to its page."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if page := self._pages.get(answer.get("sessionId")):
                page.hear(answer["method"], answer["params"])


class Page:
    """One page.

    Attributes:
        complaints: errors and warnings on its console, but for answers that are not 200.
        requests: addresses that it asked for.
    """

    def __init__(self, browser, session, context):
        self._browser, self._session, self._context = browser, session, context
        self.complaints, self.requests = [], []

    def start(self, *, width=1000, height=900):
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def hear(self, method, event):
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in {"error", "warning", "assert"}:
            self.complaints.append(str([one.get("value") or one.get("description") for one in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in {"error", "warning"}:
            if event["entry"]["source"] != "network":
                self.complaints.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])

    def origins(self):
        """Where it asked for anything; addresses that hold their own content do not count."""
        parts = [urlsplit(url) for url in self.requests]
        return {f"{part.scheme}://{part.netloc}" for part in parts if part.scheme not in {"data", "blob", "about"}}

    def resize(self, width, height, *, scale=1, mobile=False):
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, **features):
        """Sets media features, as `prefers_color_scheme="dark"`."""
        shown = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=shown)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """The value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", script))
        return found["result"].get("value")

    def until(self, condition):
        """Waits until an expression is true."""

        def holds():
            try:
                return self.run(condition)
            except RuntimeError as error:
                if "context" in str(error):  # the page is being replaced
                    return False
                raise

        wait_for(holds, condition)

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText")

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.innerText)")

    def click(self, selector, index=0):
        """Clicks with the mouse, in the middle."""
        script = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        x, y = self.run(
            f"(() => {{ const one = {script}; one.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        """Types at the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key, *, shift=False):
        event = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": 8 if shift else 0}
        character = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **character)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def controls(self):
        """Role and name of everything that can be operated, as a screen reader is told."""
        roles = {"button", "textbox", "combobox", "link", "searchbox", "listbox", "checkbox", "spinbutton"}
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
        return [(role, name) for role, name in told if role in roles]

    def screenshot(self, file):
        """The whole page as PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        Path(file).write_bytes(base64.b64decode(taken["data"]))

    def close(self):
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
