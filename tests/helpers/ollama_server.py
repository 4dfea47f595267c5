"""`python ollama_server.py DIRECTORY`: a server that follows Ollama's API, and holds memory.

A process of its own, and below it one for each loaded model. ``DIRECTORY/settings.json`` says which models
there are, ``faults.json`` what goes wrong with them and how often: it outlives a restart. Written from the
API's documentation and from what Ollama's server does (docs/api.md, server/routes.go, server/sched.go of
github.com/ollama/ollama); no code is taken from there. Standard library only, for it starts many times.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUNNER = Path(__file__).with_name("ollama_runner.py")
PYTHON = (sys.executable, "-S", "-E")
NEEDS_RELOAD = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
FOR_EVER_S = 2**63 / 1e9
FAULT_AFTER_PIECES = 1  # of what goes wrong in a stream
UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
RUNNER_DIED = "llama runner process has terminated: exit status 2"
STREAM_BROKE = "an error was encountered while running the model: unexpected EOF"


class ApiError(Exception):
    """A reply other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HangUp(Exception):
    """The connection is closed without a word."""


class Loaded:
    """A model in memory: a process that holds it until its pipe is closed."""

    def __init__(self, spec: dict[str, Any], options: dict[str, Any], mapped: str | None) -> None:
        self.spec = spec
        self.options = options
        self.keep_s = 300.0
        self.users = 0
        self.used_at = time.monotonic()
        self.expires_at = datetime.now(timezone.utc)
        self.timer: threading.Timer | None = None
        self.prompt: list[str] = []  # what its prefix cache has
        theirs, self._lifeline = os.pipe()
        ready, said = os.pipe()
        words = [*PYTHON, str(RUNNER), str(spec["hold"]), *([mapped] if mapped else [])]
        actions = [(os.POSIX_SPAWN_DUP2, theirs, 0), (os.POSIX_SPAWN_DUP2, said, 1)]
        self.pid = os.posix_spawn(words[0], words, {}, file_actions=actions)
        os.close(theirs)
        os.close(said)
        came = os.read(ready, 16)
        os.close(ready)
        if not came:
            raise ApiError(500, RUNNER_DIED)

    def end(self) -> None:
        os.close(self._lifeline)
        os.waitpid(self.pid, 0)


class Models:
    """What can be loaded, what is, and what goes wrong."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        settings = json.loads((directory / "settings.json").read_text())
        self.specs: dict[str, dict[str, Any]] = {spec["name"]: spec for spec in settings["models"]}
        self.max_loaded: int = settings["max_loaded"]
        self.most_bytes: int | None = settings["most_bytes"]  # that all models may hold
        self.loaded: dict[str, Loaded] = {}
        self.hidden: list[Loaded] = []  # that are said to be gone
        self.lock = threading.RLock()  # of what is above
        self.loading = threading.Lock()  # one load at a time

    def find(self, name: str) -> dict[str, Any]:
        full = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        for known, spec in self.specs.items():
            if known.lower() == full.lower():
                return spec
        raise ApiError(404, f"model '{name}' not found")

    def fault(self, name: str, *kinds: str) -> str | None:
        """The next fault of one of these kinds, once less from now on."""
        with self.lock:
            path = self.directory / "faults.json"
            faults = json.loads(path.read_text())
            for fault in faults:
                if fault["model"] == name and fault["kind"] in kinds and fault["times"] > 0:
                    fault["times"] -= 1
                    replacement = path.with_suffix(".new")
                    replacement.write_text(json.dumps(faults))
                    replacement.replace(path)
                    return str(fault["kind"])
        return None

    def use(self, spec: dict[str, Any], options: dict[str, Any], keep_s: float | None) -> Loaded:
        """Load a model where it is not, or not with these options; it stays until ``finish``."""
        name = spec["name"]
        wanted = {key: options[key] for key in NEEDS_RELOAD if key in options}
        with self.loading:
            with self.lock:
                there = self.loaded.get(name)
            if there is not None and there.options != wanted:
                self._unload_idle(there)
                there = None
            if there is None:
                self._fail_to_load(name)
                while len(self.loaded) >= self.max_loaded:
                    self._unload_idle(min(self.loaded.values(), key=lambda one: one.used_at))
                self._refuse_what_does_not_fit(spec["hold"])
                time.sleep(spec.get("load_s", 0))
                there = Loaded(spec, wanted, self._blob(spec))
            with self.lock:
                self.loaded[name] = there
                there.users += 1
                there.used_at = time.monotonic()
                if there.timer:
                    there.timer.cancel()
                if keep_s is not None:
                    there.keep_s = keep_s
        return there

    def finish(self, model: Loaded) -> None:
        """A request ended: the model goes when its time has come."""
        with self.lock:
            model.users -= 1
            if model.users or self.loaded.get(model.spec["name"]) is not model:
                return
            model.expires_at = datetime.now(timezone.utc) + timedelta(seconds=model.keep_s)
            if model.keep_s <= 0:
                self._drop_in(model, model.spec.get("unload_s", 0))
            elif model.keep_s < FOR_EVER_S:
                model.timer = self._drop_in(model, model.keep_s)

    def expire(self, spec: dict[str, Any]) -> None:
        """What ``keep_alive: 0`` asks for; the reply does not wait for it."""
        name = spec["name"]
        with self.lock:
            model = self.loaded.get(name)
            fault = self.fault(name, "keeps", "pretends") if model else None
            if model is None or fault == "keeps":
                return
            model.keep_s = 0
            if fault == "pretends":
                self.hidden.append(self.loaded.pop(name))
            elif not model.users:
                self._drop_in(model, spec.get("unload_s", 0))
            # Else it goes when the request that uses it ends: a reply may be read before that.

    def _unload_idle(self, model: Loaded) -> None:
        while model.users:
            time.sleep(0.005)
        self._drop(model)

    def _drop_in(self, model: Loaded, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._drop, [model])
        timer.daemon = True
        timer.start()
        return timer

    def _drop(self, model: Loaded) -> None:
        with self.lock:
            if not model.users and self.loaded.get(model.spec["name"]) is model:
                model.end()
                del self.loaded[model.spec["name"]]

    def _fail_to_load(self, name: str) -> None:
        kind = self.fault(name, "load-500", "load-eof", "load-hang", "load-dies")
        if kind == "load-500":
            raise ApiError(500, RUNNER_DIED)
        if kind == "load-eof":
            raise HangUp
        if kind == "load-dies":
            os.kill(os.getpid(), signal.SIGKILL)
        while kind == "load-hang":  # and no other model is loaded meanwhile
            time.sleep(60)

    def _refuse_what_does_not_fit(self, need: int) -> None:
        if self.most_bytes is not None:
            held = sum(model.spec["hold"] for model in [*self.loaded.values(), *self.hidden])
            free = self.most_bytes - held
            if need > free:
                mib = 1 << 20
                needs = f"model requires more system memory ({need / mib:.1f} MiB)"
                raise ApiError(500, f"{needs} than is available ({free / mib:.1f} MiB)")

    def _blob(self, spec: dict[str, Any]) -> str | None:
        if not spec.get("mapped"):
            return None
        path = self.directory / f"{spec['digest']}.blob"
        with path.open("ab") as file:
            file.truncate(spec["mapped"])
        return str(path)


class Answer(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        models = self.server.models
        if self.path == "/":
            self._reply(200, b"Ollama is running", "text/plain; charset=utf-8")
        elif self.path == "/api/version":
            self._json(200, {"version": "0.0.0"})
        elif self.path == "/api/tags":
            self._json(200, {"models": [{**described(s), "size": s["size"]} for s in models.specs.values()]})
        elif self.path == "/api/ps":
            with models.lock:
                listed = [*models.loaded.values()]
            told = [
                {
                    **described(model.spec),
                    "size": model.spec["size"],
                    "size_vram": 0,
                    "expires_at": model.expires_at.isoformat(),
                    "context_length": model.options.get("num_ctx", 4096),
                }
                for model in listed
            ]
            self._json(200, {"models": told})
        else:
            self._reply(404, b"404 page not found", "text/plain")

    def do_POST(self) -> None:
        if self.path not in ("/api/generate", "/api/chat"):
            self._reply(404, b"404 page not found", "text/plain")
            return
        try:
            self._answer(chat=self.path == "/api/chat")
        except ApiError as error:
            self._json(error.status, {"error": str(error)})
        except (HangUp, ConnectionError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, chat: bool) -> None:
        began = time.perf_counter_ns()
        models = self.server.models
        asked = self._asked(models.directory)
        name = asked.get("model", "")
        if chat and not name:
            raise ApiError(400, "model is required")
        keep_s = seconds_of(asked.get("keep_alive"))
        prompt = asked.get("prompt") or ""
        if chat:
            prompt = "\n".join(message["content"] for message in asked.get("messages") or ())
        spec = models.find(name)
        words = prompt.split()
        if not words and keep_s == 0:
            models.expire(spec)
            self._json(200, self._message(name, chat, "", done_reason="unload"))
            return
        if "completion" not in spec["capabilities"]:
            raise ApiError(400, f'"{name}" does not support {"chat" if chat else "generate"}')
        if asked.get("think") and "thinking" not in spec["capabilities"]:
            raise ApiError(400, f'"{name}" does not support thinking')
        options = asked.get("options") or {}
        model = models.use(spec, options, keep_s)
        try:
            if not words:
                self._json(200, self._message(name, chat, "", done_reason="load"))
                return
            loaded = time.perf_counter_ns()
            if models.fault(spec["name"], "generate-500"):
                raise ApiError(500, RUNNER_DIED)
            pieces = self._generate(model, words, asked, options, chat, began, loaded)
            if asked.get("stream", True):
                self._stream(pieces, models.fault(spec["name"], "stream-error", "stream-eof", "stream-dies"))
            else:
                told = [*pieces]
                text = "".join(one["message"]["content"] if chat else one["response"] for one in told)
                self._json(200, told[-1] | self._message(name, chat, text))
        finally:
            models.finish(model)

    def _asked(self, directory: Path) -> dict[str, Any]:
        said = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not said.strip():
            raise ApiError(400, "missing request body")
        try:
            asked: dict[str, Any] = json.loads(said)
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        with (directory / "requests.jsonl").open("a") as file:
            file.write(json.dumps({"path": self.path, **asked}) + "\n")
        return asked

    def _generate(
        self,
        model: Loaded,
        words: list[str],
        asked: dict[str, Any],
        options: dict[str, Any],
        chat: bool,
        began: int,
        loaded: int,
    ) -> Iterator[dict[str, Any]]:
        """The messages of a reply: thinking, text, and at last the counters."""
        spec, name = model.spec, asked["model"]
        known = 0
        while known < min(len(words) - 1, len(model.prompt)) and words[known] == model.prompt[known]:
            known += 1  # at least one word is always evaluated
        time.sleep((len(words) - known) * spec.get("word_s", 0.0))
        model.prompt = words
        evaluated = time.perf_counter_ns()
        tokens = re.findall(r"\s*\S+", answer_to(spec, " ".join(words)))
        thoughts = ["Hm"] * spec["thoughts"] if asked.get("think", True) else []
        most = options.get("num_predict", -1)
        made = 0
        for thinking, token in [(True, thought) for thought in thoughts] + [(False, one) for one in tokens]:
            if 0 <= most <= made:
                break
            time.sleep(spec.get("pause_s", 0.0))
            made += 1
            yield self._message(name, chat, "" if thinking else token, token if thinking else "", done=False)
        ended = time.perf_counter_ns()
        model.prompt = words + [token.strip() for token in tokens[:made]]
        yield {
            **self._message(name, chat, ""),
            "done_reason": "stop" if made == len(thoughts) + len(tokens) else "length",
            "total_duration": ended - began,
            "load_duration": loaded - began,
            "prompt_eval_count": len(words),
            "prompt_eval_duration": evaluated - loaded,
            "eval_count": made,
            "eval_duration": ended - evaluated,
        }

    def _message(
        self,
        name: str,
        chat: bool,
        text: str,
        thinking: str = "",
        done: bool = True,
        done_reason: str | None = None,
    ) -> dict[str, Any]:
        told = {"model": name, "created_at": datetime.now(timezone.utc).isoformat(), "done": done}
        if done_reason:
            told["done_reason"] = done_reason
        thought = {"thinking": thinking} if thinking else {}
        if chat:
            return {**told, "message": {"role": "assistant", "content": text, **thought}}
        return {**told, "response": text, **thought}

    def _stream(self, pieces: Iterator[dict[str, Any]], fault: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for index, piece in enumerate(pieces):
            if fault and index == FAULT_AFTER_PIECES:
                if fault == "stream-dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "stream-eof":
                    raise HangUp
                self._chunk({"error": STREAM_BROKE})
                break
            self._chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, told: dict[str, Any]) -> None:
        line = json.dumps(told).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _json(self, status: int, told: object) -> None:
        self._reply(status, json.dumps(told).encode(), "application/json; charset=utf-8")

    def _reply(self, status: int, said: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, models: Models) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.models = models


def described(spec: dict[str, Any]) -> dict[str, Any]:
    details = {"parent_model": "", "format": "gguf", "family": "fake", "parameter_size": "1M"}
    known = {"name": spec["name"], "model": spec["name"], "digest": spec["digest"], "details": details}
    return {**known, "modified_at": "2026-01-01T00:00:00Z", "capabilities": spec["capabilities"]}


def answer_to(spec: dict[str, Any], prompt: str) -> str:
    """Of a prompt that has a known part, what belongs to it; or else what it always says."""
    for part, answer in spec["answers"].items():
        if part in prompt:
            return str(answer)
    return str(spec["says"])


def seconds_of(keep_alive: object) -> float | None:
    """What Go's ParseDuration, or a number of seconds, says; for ever where that is below 0."""
    if keep_alive is None:
        return None
    if isinstance(keep_alive, str):
        unit = "|".join(UNITS_S)
        if not re.fullmatch(rf"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)({unit}))+|[+-]?0", keep_alive):
            problem = "missing unit in" if re.fullmatch(r"[+-]?[0-9.]+", keep_alive) else "invalid"
            raise ApiError(400, f'time: {problem} duration "{keep_alive}"')
        parts = re.findall(rf"([0-9.]+)({unit})", keep_alive)
        total = sum(float(count) * UNITS_S[unit] for count, unit in parts)
        seconds = -total if keep_alive.startswith("-") else total
    elif isinstance(keep_alive, int | float):
        seconds = float(keep_alive)
    else:
        raise ApiError(400, f"Unsupported type: '{type(keep_alive).__name__}'")
    return FOR_EVER_S if seconds < 0 else seconds


def serve(directory: Path) -> None:
    """Answer until killed; the port is the one of before, where there was one."""
    (directory / "pid").write_text(str(os.getpid()))
    at = directory / "port"
    server = Server(int(at.read_text()) if at.exists() else 0, Models(directory))
    new = at.with_suffix(".new")
    new.write_text(str(server.server_address[1]))
    new.replace(at)
    server.serve_forever(0.05)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
