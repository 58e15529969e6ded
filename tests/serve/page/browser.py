"""Headless Chromium controlled by DevTools: opens pages, types, clicks, and records console and requests."""

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
# Containers have no user namespaces for the sandbox.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-dev-shm-usage --no-first-run"
    " --disable-extensions --disable-background-networking --disable-component-update --force-color-profile=srgb"
    " --remote-debugging-port=0"
)
TIMEOUT_S = 30.0
ROWS, WORDS = "#results ol button", "#results ol .word"
_KEYS = {"Enter": 13, "Tab": 9, "ArrowDown": 40}
_ROLES = {"button", "textbox", "combobox", "link", "searchbox", "listbox", "checkbox", "spinbutton"}


class Browser:
    """Chromium process with its own profile and port; stops at the end of its block."""

    def __init__(self, profile):
        self._profile, self._ids, self._pages = Path(profile), itertools.count(1), {}

    def __enter__(self):
        command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={self._profile}", "about:blank"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True)
        port_file = self._profile / "DevToolsActivePort"
        try:
            wait_for(lambda: port_file.exists() and "\n" in port_file.read_text(), "Chromium opens its port")
            port, path = port_file.read_text().split()
            self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(WebSocketException, TimeoutError, subprocess.TimeoutExpired):
            self.call("Browser.close")
            self._process.wait(10)
            self._socket.close()
        self._kill()

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):  # the process group of this object
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def page(self):
        """Open a new page with separate cookies and storage."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            page.call(f"{domain}.enable")
        page.resize(1000, 900)
        return page

    def call(self, method, session=None, **parameters):
        """Call a protocol method and return its result; events in the meantime are passed to their pages."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=TIMEOUT_S))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if page := self._pages.get(answer.get("sessionId")):
                page.handle_event(answer["method"], answer["params"])


class Page:
    """Page of a browser.

    Attributes:
        complaints: errors and warnings on the console, except those about response statuses.
        requests: requested URLs.
    """

    def __init__(self, browser, session, context):
        self._browser, self._session, self._context = browser, session, context
        self.complaints, self.requests = [], []

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def handle_event(self, method, event):
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
        """Return the origins of all requests, except data URLs and the like."""
        parts = [urlsplit(url) for url in self.requests]
        return {f"{part.scheme}://{part.netloc}" for part in parts if part.scheme not in {"data", "blob", "about"}}

    def resize(self, width, height, *, mobile=False):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, **features):
        """Set media features, such as `prefers_color_scheme="dark"`."""
        shown = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=shown)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """Return the value of an expression in the page, after awaiting promises."""
        response = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in response:
            raise RuntimeError(response["exceptionDetails"].get("exception", {}).get("description", script))
        return response["result"].get("value")

    def until(self, condition):
        """Wait until an expression is true."""

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
        return self.all(selector, "one.innerText")

    def all(self, selector, expression):
        """Return the values of an expression about each matching element `one`."""
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => {expression})")

    def value(self, selector, value):
        self.run(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(value)}")

    def click(self, selector, index=0):
        """Click the center of an element with the mouse."""
        x, y = self.run(
            f"(() => {{ const one = document.querySelectorAll({json.dumps(selector)})[{index}];"
            " one.scrollIntoView({block: 'center', behavior: 'instant'}); const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        """Type into the focused element."""
        self.call("Input.insertText", text=text)

    def press(self, key):
        event = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        character = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **character)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def controls(self):
        """Return role and name of all interactive elements from the accessibility tree."""
        nodes = [node for node in self.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
        controls = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
        return [(role, name) for role, name in controls if role in _ROLES]

    # The page at /ui

    def visit(self, site, path="/ui"):
        """Open the page of a service, given its URL or a `FakeService`."""
        self.open(f"{getattr(site, 'address', site)}{path}")
        self.until("document.querySelector('#count').options.length > 0")

    def write(self, sentence):
        """Replace the sentence."""
        self.run("document.querySelector('#text').select()")
        self.type(sentence)

    def send(self, sentence):
        """Write a sentence, and wait for an answer or a problem."""
        self.write(sentence)
        self.press("Enter")
        self.wait_for_answer()

    def ask(self, site, sentence, path="/ui"):
        """Open the page, and send a sentence."""
        self.visit(site, path)
        self.send(sentence)

    def wait_for_answer(self):
        self.until("document.querySelector('#results').ariaBusy === 'false'")

    def wait_for_rows(self, count):
        self.until(f"document.querySelectorAll('{ROWS}').length === {count}")

    @property
    def sentence(self):
        return self.run("document.querySelector('#text').value")

    @property
    def focus(self):
        return self.run("document.activeElement.innerText || document.activeElement.id")

    def close(self):
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
