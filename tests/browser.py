"""A headless Chromium for tests, spoken to through a pipe in its DevTools protocol: nothing to install but the browser.

https://chromedevtools.github.io/devtools-protocol: JSON messages, each ended by a zero byte, on the browser's file
descriptors 3 and 4 (--remote-debugging-pipe), so no port is opened. A Tab collects what a page should not have: console
messages, exceptions, and requests for anything but the file itself.
"""

import base64
import json
import math
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, "Tab": 9}
KEYS |= {"PageUp": 33, "PageDown": 34}
PATIENCE = 60  # seconds for any one answer


def find():
    """The path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        flags = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.folder.name}", "--no-first-run"]
        flags += ["--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-background-networking"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root, which containers often are
        # a shell gives the two pipes the numbers that the protocol fixes
        renumbered = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'
        self.process = subprocess.Popen(
            ["sh", "-c", renumbered, "sh", find(), *flags, "about:blank"],
            stdin=theirs_in, stdout=theirs_out, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in), os.close(theirs_out)
        self.buffer, self.number, self.events = b"", 0, []
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
        except (OSError, RuntimeError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out), os.close(self.into)
        self.folder.cleanup()

    def call(self, method, session=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data) :]
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def receive(self, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while b"\0" not in self.buffer:
            if not select.select([self.into], [], [], max(0, deadline - time.monotonic()))[0]:
                raise RuntimeError("the browser does not answer")
            chunk = os.read(self.into, 1 << 16)
            if not chunk:
                raise RuntimeError("the browser has gone")
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url, **settings):
        return Tab(self, url, **settings)


class Tab:
    """A page in a window of its own size. scheme is "light" or "dark", media "print" shows it as on paper."""

    def __init__(self, browser, url, width=1000, height=800, scheme="light", media="", scripts=True):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.width, self.height, self.url = width, height, url
        self.resize(height)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=url)
        self.until("Page.loadEventFired")

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def until(self, method):
        while not any(event.get("method") == method for event in self.of_this_page()):
            self.browser.events.append(self.browser.receive())

    def of_this_page(self):
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    @property
    def problems(self):
        """What the page should not have done so far, list[str]: messages, exceptions, requests for anything else."""
        self.run("0")  # after the answer, everything that happened before is here
        found = []
        for event in self.of_this_page():
            method, params = event["method"], event["params"]
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(params)[:500])
            elif method == "Network.requestWillBeSent" and params["request"]["url"] != self.url:
                found.append(f"request for {params['request']['url']:.200}")
            elif method in ("Page.javascriptDialogOpening", "Page.windowOpen", "Page.downloadWillBegin"):
                found.append(method)
        return found

    def run(self, expression):
        """The value of a JavaScript expression (works where the page's own scripts are disabled too)."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def hover(self, selector, number=0):
        """Move the pointer to the middle of the element, the way a person does."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **self.middle(selector, number))

    def click(self, selector, number=0):
        spot = self.middle(selector, number) | {"button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **spot)

    def middle(self, selector, number):
        x, y = self.run(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{number}];"
            "e.scrollIntoView({block: 'center', inline: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return {"x": x, "y": y}

    def press(self, key, ctrl=False):
        about = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 2 if ctrl else 0}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **about)

    def screenshot(self):
        """The whole page as a PNG, however high it is."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        self.resize(math.ceil(size["height"]))
        data = self.call("Page.captureScreenshot")["data"]
        self.resize(self.height)
        return base64.b64decode(data)

    def resize(self, height):
        size = {"width": self.width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
