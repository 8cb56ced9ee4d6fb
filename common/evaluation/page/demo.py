"""A page on 127.0.0.1 on which one drops an image and audio clips and sees the model's answer.

It answers its own page alone: host, origin and a token that is new at each start must be right.
"""
import base64
import json
import secrets
import tempfile
import time
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer

from common.io import InputError, read_image

from .clips import Gallery, Sample, pack
from .galleries import Model, locate_clips, trained_on
from .report import render

MAX_BODY, MAX_POSTS = 32 * 2**20, 60  # bytes of a request, requests a minute


class Demo(TCPServer):
    """The server of a model, one request at a time, nothing is kept. Port 0 is any that is free."""
    allow_reuse_address = True

    def __init__(self, model: Model, port: int = 0):
        self.model, self.token, self.posts = model, secrets.token_urlsafe(32), deque()
        super().__init__(("127.0.0.1", port), Handler)
        self.hosts = [f"{name}:{self.server_address[1]}" for name in ("127.0.0.1", "localhost")]
        self.page = render({"title": f"{model.method}: what makes the sound?", "galleries": [],
                            "note": f"This is {model.method}, {trained_on(model.config)}.",
                            "demo": {"token": self.token, "limit": MAX_BODY}},
                           ("page.js", "demo.js"), "'self'")

    def locate(self, body: dict) -> dict:
        """{"name", "image" and "audio" in base64} → a gallery as the page has it. InputError."""
        with tempfile.TemporaryDirectory() as folder:
            files = {kind: Path(folder) / kind for kind in ("image", "audio")}
            for kind, path in files.items():
                path.write_bytes(base64.b64decode(body[kind], validate=True))
            image, name, audio = read_image(files["image"]), str(body["name"])[:100], {}
            clips = locate_clips(self.model, image, [(name, files["audio"])])
        gallery = Gallery("", [Sample(name, [image], clips)])
        return {**pack(gallery, audio), "audio": [*audio.values()]}


class Handler(BaseHTTPRequestHandler):
    timeout = 20  # seconds to wait for a client's bytes

    def handle(self):
        with suppress(ConnectionError):  # of a client that has left
            super().handle()

    def do_GET(self):
        is_page = self.path == "/" and self.headers["Host"] in self.server.hosts
        self.reply(200 if is_page else 404, self.server.page if is_page else b"not found")

    def do_POST(self):
        status, reason = self.refusal()
        if status in (0, 429):  # a browser reads no answer, 429 either, before it has sent all
            body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if not status:
                self.server.posts.append(time.monotonic())
                status, reason = 200, self.server.locate(json.loads(body))
        except InputError as error:  # without the folder
            status, reason = 400, f"{Path(error.path).name}: {error.reason}"
        except (KeyError, TypeError, ValueError, RecursionError):  # the last: [[[[…
            status, reason = 400, "not a request of this page"
        answer = reason if status == 200 else {"error": reason}
        self.reply(status, json.dumps(answer).encode(), "application/json")

    def refusal(self) -> tuple:
        """The status and the reason why the request is not read, or (0, "")."""
        headers, server, token = self.headers, self.server, self.headers["X-Token"] or ""
        while server.posts and server.posts[0] < time.monotonic() - 60:
            server.posts.popleft()
        length = headers["Content-Length"] or ""
        size = int(length) if length.isdecimal() and len(length) < 10 else MAX_BODY + 1
        is_own = headers["Host"] in server.hosts and (
            (headers["Origin"] or "").removeprefix("http://") in server.hosts)
        return next(((status, reason) for status, is_refused, reason in (
            (404, self.path != "/locate", "not found"),
            (403, not is_own, "wrong origin"),
            (403, not secrets.compare_digest(token.encode(), server.token.encode()), "wrong token"),
            (411, not length.isdecimal(), "no length"),
            (413, size > MAX_BODY, f"more than {MAX_BODY} bytes"),
            (429, len(server.posts) >= MAX_POSTS, f"more than {MAX_POSTS} requests a minute"),
        ) if is_refused), (0, ""))

    def reply(self, status: int, body: bytes, kind="text/html; charset=utf-8"):
        self.close_connection = True
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body),
                            "Connection": "close", "Cache-Control": "no-store",
                            "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Nothing is kept, no log either."""


def serve(model: Model, port: int) -> None:
    """Run the demo until it is interrupted."""
    with Demo(model, port) as server:
        print(f"{model.method}, {trained_on(model.config)}\nhttp://{server.hosts[0]} in a browser; "
              "Ctrl-C ends it", flush=True)
        server.serve_forever()
