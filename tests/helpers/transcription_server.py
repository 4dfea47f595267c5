"""`python transcription_server.py start|restart|stop DIRECTORY`: our engine behind an HTTP server.

It transcribes at /v1/audio/transcriptions, and loads, unloads and lists models by the routes of the programs
that asrswitch has presets for; these are written from the programs' documentation and sources, and no code is
theirs. ``DIRECTORY/port`` and ``DIRECTORY/pid`` say where it is. POST /faults has something go wrong. A model
holds ``BALLAST_BYTES`` besides its own memory, so that it is seen whether that is given back.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

BALLAST_BYTES = 24 << 20
NAMES = {f"org/digits-{size}": f"digits-{size}" for size in ("small", "large")}
GRACE_S = 10
THREADS = 6
HEAP_BYTES = 32 << 20
ROOT = Path(__file__).resolve().parents[2]


class Refusal(Exception):
    """A reply other than 200."""

    def __init__(self, status: int, said: object) -> None:
        super().__init__(status)
        self.status = status
        self.said = said


class Held:
    """A model in memory."""

    def __init__(self, name: str) -> None:
        import asrswitch

        self.model = asrswitch.load(NAMES.get(name, name), threads=1)
        self.ballast = mmap.mmap(-1, BALLAST_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, BALLAST_BYTES, mmap.PAGESIZE):
            self.ballast[page] = 1

    def close(self) -> None:
        self.model.close()
        self.ballast.close()


class Holder:
    """What is loaded, what is to go wrong, and what came."""

    def __init__(self) -> None:
        self.models: dict[str, Held] = {}
        self.unlisted: list[Held] = []
        self.states: dict[str, dict[str, Any]] = {
            name: {"value": "unloaded"} for name in NAMES
        }  # of a router
        self.faults: Counter[str] = Counter()
        self.key = ""
        self.requests: list[dict[str, str]] = []  # the fields of each transcription's form
        self._lock = threading.RLock()

    def fails(self, what: str) -> bool:
        """Whether this is to go wrong now."""
        with self._lock:
            if not self.faults[what]:
                return False
            self.faults[what] -= 1
            return True

    def load(self, name: str) -> None:
        with self._lock:
            if self.fails("load"):
                raise Refusal(500, {"error": {"message": "out of memory"}})
            if name not in NAMES and name not in NAMES.values():
                raise Refusal(404, {"error": {"message": f"there is no model {name}"}})
            if name not in self.models:
                self.models[name] = Held(name)

    def unload(self, name: str) -> None:
        with self._lock:
            if name not in self.models:
                raise Refusal(404, {"message": f"{name} is not loaded"})
            if self.fails("stays"):
                return
            held = self.models.pop(name)
            if self.fails("pretends"):
                self.unlisted.append(held)
            else:
                held.close()


class Server(ThreadingHTTPServer):
    """As many threads as it ever needs, from the start: how many stacks there are is then left to no race."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.holder = Holder()
        self.threads = ThreadPoolExecutor(THREADS)
        all_of_them = threading.Barrier(THREADS)
        wait([self.threads.submit(all_of_them.wait) for _ in range(THREADS)])

    def process_request(self, request: Any, client_address: Any) -> None:
        self.threads.submit(self.process_request_thread, request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of ours."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def answer(self) -> None:
        holder = self.server.holder
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/faults":
                wanted = json.loads(body)
                holder.key = wanted.pop("key", holder.key)
                holder.faults = Counter(wanted)
                return self.send(200, {})
            if self.path == "/requests":
                return self.send(200, holder.requests)
            if holder.key and self.headers.get("Authorization") != f"Bearer {holder.key}":
                given = self.headers.get("Authorization", "")
                raise Refusal(401, {"error": {"message": f"Incorrect API key provided: {given[7:]}"}})
            if self.path == "/v1/audio/transcriptions":
                return self.transcribe(form_of(self.headers["Content-Type"], body))
            self.send(200, self.manage(json.loads(body) if body else {}))
        except Refusal as refusal:
            self.send(refusal.status, refusal.said)

    def send(self, status: int, said: object) -> None:
        data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def manage(self, body: dict[str, Any]) -> object:
        """Loads, unloads and lists, as each of the programs does."""
        holder = self.server.holder
        route, path = self.command, self.path
        if route == "GET" and path == "/running":  # llama-swap
            return {"running": [{"model": name, "state": "ready"} for name in holder.models]}
        if route == "GET" and (found := re.fullmatch(r"/upstream/(.+)/health", path)):
            holder.load(unquote(found[1]))
            return {"status": "ok"}
        if route == "POST" and (found := re.fullmatch(r"/api/models/unload/(.+)", path)):
            holder.unload(unquote(found[1]))
            return "OK"
        if route == "GET" and path == "/models":  # llama-server as a router
            return {"data": [{"id": name, "status": state} for name, state in holder.states.items()]}
        if route == "POST" and path == "/models/load":
            self.server.threads.submit(self.load_as_router, body["model"])
            holder.states[body["model"]] = {"value": "loading", "args": ["llama-server"]}
            return {"success": True}
        if route == "POST" and path == "/models/unload":
            holder.unload(body["model"])
            if body["model"] not in holder.models:
                holder.states[body["model"]] = {"value": "unloaded"}
            return {"success": True}
        if path == "/api/ps":  # speaches
            return {"models": [*holder.models]}
        if found := re.fullmatch(r"/api/ps/(.+)", path):
            name = unquote(found[1])
            if route == "POST" and name in holder.models:
                raise Refusal(409, {"message": f"Model '{name}' is already loaded."})
            (holder.load if route == "POST" else holder.unload)(name)
            return {"message": "done"}
        if path == "/system":  # LocalAI
            return {"backends": [], "loaded_models": [{"id": name} for name in holder.models]}
        if path == "/backend/load":
            holder.load(body["model"])
            return {"loaded": [body["model"]], "message": "model loaded"}
        if path == "/backend/shutdown":
            holder.unload(body["model"])
            return {"message": "model stopped"}
        if path == "/":
            return {}
        raise Refusal(404, {"detail": "Not Found"})

    def load_as_router(self, name: str) -> None:
        """A router answers a load at once, and its list says later how that went."""
        time.sleep(0.05)
        try:
            self.server.holder.load(name)
        except Refusal:
            self.server.holder.states[name] = {"value": "unloaded", "failed": True, "exit_code": 1}
        else:
            self.server.holder.states[name] = {"value": "loaded"}

    def transcribe(self, form: dict[str, bytes]) -> None:
        holder = self.server.holder
        fields = {name: value.decode() for name, value in form.items() if name != "file"}
        holder.requests = [*holder.requests[-9:], fields]
        if holder.fails("die"):
            os._exit(3)
        if holder.fails("hang"):
            time.sleep(600)
        if holder.fails("500"):
            raise Refusal(500, {"error": {"message": "CUDA error:\nan illegal address"}})
        if holder.fails("junk"):
            return self.send(200, "<html>Welcome</html>")
        if holder.fails("wordless"):
            return self.send(200, {"segments": []})
        holder.load(fields["model"])
        held = holder.models[fields["model"]]
        stream = held.model.transcribe(io.BytesIO(form["file"]), stream=True)
        if fields.get("stream") == "true":
            return self.send_events(fields, stream)
        text = "".join(stream)
        result = stream.result
        usage = {"type": "tokens", "input_tokens": result.prompt_tokens, "output_tokens": result.tokens}
        reply = json.dumps({"text": text, "usage": usage}).encode()
        if holder.fails("eof"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply[:10])
            self.close_connection = True
            return None
        return self.send(200, json.loads(reply))

    def send_events(self, fields: dict[str, str], stream: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in self.events(fields, stream):
            data = event.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        if not self.server.holder.fails("eof"):
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def events(self, fields: dict[str, str], stream: Any) -> Iterator[str]:
        holder = self.server.holder
        chunks = fields.get("form") == "chunks"  # vLLM's
        said = ""
        yield ": ping\n\n"
        for piece in stream:
            said += piece
            event: dict[str, Any] = {"type": "transcript.text.delta", "delta": piece}
            if chunks:
                event = {"object": "transcription.chunk", "choices": [{"delta": {"content": piece}}]}
            yield f"data: {json.dumps(event)}\n\n"
            if holder.faults["eof"]:
                return
            if holder.fails("error event"):
                yield 'data: {"error": {"message": "the worker died", "code": 500}}\n\n'
                return
            if holder.fails("broken event"):
                yield "data: {half\n\n"
                return
        result = stream.result
        counts = {"input_tokens": result.prompt_tokens, "output_tokens": result.tokens}
        if chunks:
            counts = {"prompt_tokens": result.prompt_tokens, "completion_tokens": result.tokens}
            yield f"data: {json.dumps({'choices': [], 'usage': counts})}\n\n"
        else:
            text = "another text" if holder.fails("other text") else said
            yield f"data: {json.dumps({'type': 'transcript.text.done', 'text': text, 'usage': counts})}\n\n"
        yield "data: [DONE]\n\n"


def form_of(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a form."""
    boundary = content_type.partition("boundary=")[2].encode()
    fields = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        (name,) = re.findall(rb' name="([^"]+)"', head)
        fields[name.decode()] = value.removesuffix(b"\r\n")
    return fields


def start(directory: Path) -> None:
    """Start a server that outlives this process, and wait until it answers."""
    port = directory / "port"
    with (directory / "server.log").open("ab") as log:
        words = [
            sys.executable,
            __file__,
            "serve",
            port.read_text() if port.is_file() else "0",
            str(directory),
        ]
        # One heap, which only grows, for the interpreter too: what it takes now and then is no model's.
        still = {"MALLOC_ARENA_MAX": "1", "PYTHONMALLOC": "malloc"}
        still |= dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(1 << 30))
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **still}
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
        )
    wait_for(lambda: bool(port.is_file() and port.read_text()) and answers(int(port.read_text())))


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=GRACE_S).status == 200)
    return False


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + GRACE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("waited in vain")
        time.sleep(0.01)


def serve(port: int, directory: Path) -> None:
    import asrswitch.transcription.api  # now, so that it is in no model's memory  # noqa: F401

    bytearray(b"x") * HEAP_BYTES  # as large at the start as the heap ever is
    server = Server(port)
    (directory / "pid").write_text(str(os.getpid()))
    (directory / "port").write_text(str(server.server_address[1]))
    server.serve_forever()


if __name__ == "__main__":
    from ollama_restart import end  # beside this program

    match sys.argv[1:]:
        case ["serve", port, directory]:
            serve(int(port), Path(directory))
        case ["start", directory]:
            start(Path(directory))
        case ["stop", directory]:
            end(Path(directory))
        case ["restart", directory]:
            end(Path(directory))
            start(Path(directory))
        case _:
            sys.exit(__doc__)
