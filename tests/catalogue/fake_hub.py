"""A server that speaks as much of Hugging Face's and ModelScope's protocols as a fetch needs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE_BYTES = 1 << 14


class Hub(ThreadingHTTPServer):
    """Files by path, as ``owner/name/resolve/revision/file``, and how the server misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.sums: dict[str, str] = {}  # what is stated of a file instead of its sum
        self.cut_after: list[int] = []  # bytes after which the next answers break off
        self.stall_after: int | None = None  # bytes after which answers wait until they are let go
        self.go_on = threading.Event()
        self.redirects: dict[str, str] = {}
        self.ignores_ranges = False
        self.refuses: int | None = None  # the status of all answers to requests for content
        self.ranges: list[str | None] = []  # of the requests for content, in their order
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, repository: str, revision: str, name: str, content: bytes) -> str:
        """Serve a file; its SHA-256."""
        self.files[f"{repository}/resolve/{revision}/{name}"] = content
        return hashlib.sha256(content).hexdigest()


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, with_content: bool) -> None:
        hub, address = self.server, urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(address.path).strip("/")
        hub.asked.append(f"{self.command} {path}")
        query = dict(urllib.parse.parse_qsl(address.query))
        if path in hub.redirects:
            self.send_response(302)
            self._headers(hub.redirects[path], hub.files[hub.redirects[path]])
            self.send_header("Location", f"/{hub.redirects[path]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.startswith("api/v1/models/"):
            path = path.removeprefix("api/v1/models/")
            if path.endswith("/repo/files"):
                self._list(path.removesuffix("/repo/files"))
                return
            path = f"{path.removesuffix('/repo')}/resolve/{query['Revision']}/{query['FilePath']}"
        content = hub.files.get(path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif with_content:
            self._send(path, content)
        else:
            self.send_response(200)
            self._headers(path, content)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

    def _headers(self, path: str, content: bytes) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        stated = self.server.sums.get(path, hashlib.sha256(content).hexdigest())
        if stated:
            self.send_header("X-Linked-Etag", f'"{stated}"')
            self.send_header("ETag", f'"{stated}"')
        self.send_header("X-Linked-Size", str(len(content)))

    def _send(self, path: str, content: bytes) -> None:
        hub, asked = self.server, self.headers.get("Range")
        hub.ranges.append(asked)
        if hub.refuses:
            self.send_response(hub.refuses)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = 0
        if asked and not hub.ignores_ranges:
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            assert match, asked
            begin = int(match[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self._headers(path, content)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end = begin + hub.cut_after.pop(0) if hub.cut_after else len(content)
        with contextlib.suppress(ConnectionError):
            for place in range(begin, min(end, len(content)), PIECE_BYTES):
                if hub.stall_after is not None and place >= hub.stall_after:
                    self.wfile.flush()
                    hub.go_on.wait(30)
                self.wfile.write(content[place : min(place + PIECE_BYTES, end)])
            self.wfile.flush()
        if end < len(content):
            self.close_connection = True

    def _list(self, repository: str) -> None:
        files = [
            {
                "Path": path.rpartition("/")[2],
                "Size": len(content),
                "Sha256": self.server.sums.get(path, hashlib.sha256(content).hexdigest()),
            }
            for path, content in self.server.files.items()
            if path.startswith(f"{repository}/")
        ]
        answer = json.dumps({"Code": 200, "Data": {"Files": files}}).encode()
        self.send_response(200 if files else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            hub.shutdown()
            thread.join()
