"""Chromium without a window, driven through its DevTools protocol by the standard library alone."""

import base64
import io
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --mute-audio
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars
    --use-fake-device-for-media-stream --use-fake-ui-for-media-stream
    --autoplay-policy=no-user-gesture-required --remote-debugging-port=0"""
TIMEOUT = 60


class Page:
    """A tab. `errors`: what it wrote to the console or threw."""

    def __init__(self, url):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT)
        self.file, self.ids, self.errors = self.socket.makefile("rb"), itertools.count(1), []
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while self.file.readline().strip():
            pass
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **params) -> dict:
        """A command → its result; what happens meanwhile goes to `errors`."""
        number = next(self.ids)
        self.write(json.dumps({"id": number, "method": method, "params": params}).encode())
        while True:
            message = json.loads(self.read())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.watch(message)

    def watch(self, message):
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown" or (
            message.get("method") == "Runtime.consoleAPICalled"
            and params["type"] in ("error", "warning", "assert")
        ):
            self.errors.append(params)
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"])

    def write(self, data):
        """A text frame, masked with zeros."""
        length = bytes([0xFF]) + struct.pack(">Q", len(data))
        if len(data) < 2**16:
            length = bytes([0xFE]) + struct.pack(">H", len(data))
        if len(data) < 126:
            length = bytes([0x80 | len(data)])
        self.socket.sendall(b"\x81" + length + bytes(4) + data)

    def read(self) -> bytes:
        data, is_last = b"", False
        while not is_last:
            first, length = self.file.read(2)
            is_last = first & 0x80
            if length >= 126:
                kind, size = (">H", 2) if length == 126 else (">Q", 8)
                (length,) = struct.unpack(kind, self.file.read(size))
            data += self.file.read(length)
        return data

    def run(self, script):
        """The value of a JavaScript expression; promises are awaited."""
        result = self.send(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script):
        """Until the expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def open(self, url, width=1280, height=900, dark=False):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def screenshot(self, path=None, **clip) -> bytes:
        """A PNG of the window, or of x, y, width, height of the whole page."""
        part = {"clip": {**clip, "scale": 1}, "captureBeyondViewport": True} if clip else {}
        result = self.send("Page.captureScreenshot", format="png", **part)
        data = base64.b64decode(result["data"])
        if path:
            Path(path).write_bytes(data)
        return data


@contextmanager
def chromium():
    """A Page of a browser that is ended, and whose profile is deleted, at the end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            file, end = Path(folder) / "DevToolsActivePort", time.monotonic() + TIMEOUT
            while not (file.exists() and file.read_text().count("\n")):
                assert time.monotonic() < end and process.poll() is None, "chromium did not start"
                time.sleep(0.05)
            port = int(file.read_text().splitlines()[0])
            yield Page(find_tab(port))
        finally:
            process.terminate()
            process.wait()
            time.sleep(0.2)  # its children still write to the profile


def find_tab(port) -> str:
    while True:
        tabs = json.load(urlopen(f"http://127.0.0.1:{port}/json", timeout=TIMEOUT))
        if pages := [tab for tab in tabs if tab["type"] == "page"]:
            return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)


def main():
    """`python -m tests.browser PAGE OUT.png GALLERY`: a picture of a page, of gallery number
    GALLERY down to its first row of samples; OUT.png has 256 colours and is 1280 wide.
    """
    page, out, gallery = sys.argv[1:]
    edge = "{}.getBoundingClientRect().{} + scrollY"
    with chromium() as tab:
        tab.open(Path(page).resolve().as_uri(), 1280)
        section = f"document.querySelectorAll('section')[{gallery}]"
        top = tab.run(edge.format(section, "top")) - 8
        end = tab.run(edge.format(f"{section}.querySelector('.card')", "bottom")) + 16
        picture = tab.screenshot(x=0, y=top, width=1280, height=end - top)
        Image.open(io.BytesIO(picture)).quantize(256).save(out, optimize=True)
    assert not tab.errors, tab.errors


if __name__ == "__main__":
    main()
