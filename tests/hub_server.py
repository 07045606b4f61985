"""A Hugging Face Hub on the loopback, as far as huggingface_hub can tell: model files under resolve URLs, the small
ones served directly, the large ones by a redirect to another host, with the headers and error codes that
huggingface_hub 2.4 reads (its file_download.py and utils/_http.py).

A test may set `fault(request)`, which sees every request first and answers it wrongly, or leaves it (returns None).
"""

import hashlib
import re
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

LARGE = 1 << 14  # bytes from which a file is stored apart, as LFS does


@dataclass
class Repo:
    """One model: the files of one commit, and the branches that point to it."""

    commit: str
    files: dict  # bytes by file name
    branches: tuple = ("main",)


@dataclass
class Hub:
    """What the server offers, what it was asked, and how it misbehaves."""

    repos: dict
    renamed: dict = field(default_factory=dict)  # old repository name -> new one
    fault: object = None
    requests: list = field(default_factory=list)  # (method, path, Range header or None)
    tokens: list = field(default_factory=list)  # (host, Authorization header or None), of the same requests
    url: str = ""

    def paths(self, method="GET"):
        """The files that were asked for, in order, by their last name."""
        return [path.rsplit("/", 1)[1] for asked, path, _ in self.requests if asked == method]


def etag(data):
    """The Hub's checksum of a file: SHA-256 for a large one, else git's."""
    if len(data) >= LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        hub = self.server.hub
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        hub.tokens.append((self.headers.get("Host"), self.headers.get("Authorization")))
        if hub.fault is None or not hub.fault(self):
            self.respond()

    do_GET = do_HEAD

    def respond(self):
        """Answer as the Hub does."""
        hub = self.server.hub
        if match := re.fullmatch("/cdn/([0-9a-f]{64})/.*", self.path):
            data = next((d for r in hub.repos.values() for d in r.files.values() if etag(d) == match[1]), None)
            return self.answer(404) if data is None else self.send(data)
        match = re.fullmatch("/(.+)/resolve/([^/]+)/(.+)", self.path)
        if not match:
            return self.answer(404)
        name, revision, file = match.groups()
        if name in hub.renamed:
            return self.answer(307, Location=f"/{hub.renamed[name]}/resolve/{revision}/{file}")
        repo = hub.repos.get(name)
        if repo is None:
            return self.answer(404, **{"X-Error-Code": "RepoNotFound"})
        if revision != repo.commit and revision not in repo.branches:
            return self.answer(404, **{"X-Error-Code": "RevisionNotFound"})
        if file not in repo.files:
            return self.answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
        data = repo.files[file]
        if len(data) < LARGE:
            return self.send(data, **{"X-Repo-Commit": repo.commit, "ETag": f'"{etag(data)}"'})
        linked = {"X-Linked-Etag": f'"{etag(data)}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": repo.commit}
        cdn = f"http://localhost:{self.server.server_port}/cdn/{etag(data)}/{file}"  # not the host 127.0.0.1
        self.answer(302, Location=cdn, **linked)

    def answer(self, code, **headers):
        """Answer without content."""
        return self.send(b"", code, **headers)

    def send(self, data, code=200, stop=None, pause=0, **headers):
        """Send a file, or the range of it that was asked for; break off after `stop` bytes; pause between pieces."""
        size = len(data)
        if code == 200 and (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            code, data = 206, data[int(asked[1]) :]
            headers["Content-Range"] = f"bytes {asked[1]}-{size - 1}/{size}"
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            try:
                for start in range(0, len(data[:stop]), 1 << 20):
                    self.wfile.write(data[:stop][start : start + (1 << 20)])
                    time.sleep(pause)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
        if stop is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return True

    def send_raw(self, pieces, pause=0):
        """Send bytes that need not be HTTP, with a pause after each piece, and hang up."""
        self.close_connection = True
        try:
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return True

    def is_for(self, file, method="GET"):
        """Whether this is the request for a file's content."""
        return self.command == method and self.path.endswith(f"/{file}") and "/cdn/" in self.path


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that went away is part of these tests


@contextmanager
def serving(repos, **kwargs):
    """Run a Hub while the block runs; afterwards its port refuses connections."""
    server = Server(("127.0.0.1", 0), Request)
    server.hub = Hub(repos, url=f"http://127.0.0.1:{server.server_port}", **kwargs)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
