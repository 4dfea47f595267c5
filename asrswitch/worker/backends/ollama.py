"""Models of an Ollama server, by its own API (docs/api.md of github.com/ollama/ollama)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from asrswitch.worker.backends import Backend, BackendError, Transcription, in_a_line
from asrswitch.worker.backends.server import Server, number_of, value_of
from asrswitch.worker.protocol import Capabilities, LoadOptions

AUTO = "auto"
# Ollama's options that a run has its own for.
SET_BY_RUN = {
    "num_thread": "--threads",
    "num_ctx": "--context",
    "num_predict": "--max-new-tokens",
    "temperature": "nothing: it is 0, so that answers can be compared",
    "seed": "nothing: it is fixed, so that answers can be compared",
}
_SEED = 1
_PAUSE_S = 0.01  # between two looks at what is loaded
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIT = "|".join(_UNITS_S)
_COUNT = r"[0-9]+\.?[0-9]*|\.[0-9]+"
_MEMINFO = "/proc/meminfo"


class OllamaBackend(Backend):
    """A server's models, by the configuration that ``asrswitch.ollama`` checked."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._server = make_server(configuration)
        self._keep_alive: int | float | str = configuration["keep_alive"]
        self._chats = configuration["endpoint"] == "chat"
        self._unload_within_s: float = configuration["unload_within_s"]
        self._distinct_prompts: bool = configuration["distinct_prompts"]
        self._think: bool | str | None = configuration["think"]
        self._options: dict[str, Any] = configuration["options"]
        self.capabilities = capabilities_of(configuration)
        self._requests: dict[str, dict[str, Any]] = {}  # by label: what each request for a model has
        self._chosen: dict[str, str] = {}  # by label: how long it is kept, where that was chosen here
        self._prompts = 0

    def load(self, label: str, options: LoadOptions) -> tuple[int, int]:
        name = options["model"]
        request: dict[str, Any] = {"model": name, "keep_alive": self._keep_alive}
        if self._keep_alive == AUTO:
            request["keep_alive"], self._chosen[label] = self._choose_keep_alive(name)
        request["options"] = {
            **self._options,
            "num_thread": options["threads"],
            "num_predict": options["max_new_tokens"],
            "temperature": 0,
            "seed": _SEED,
        }
        if (context := options.get("context")) is not None:
            request["options"]["num_ctx"] = context
        self._requests[label] = request
        if self._lists(name):  # whoever loaded it: what follows would be no load
            self._let_go(name)
            if self._lists(name):
                raise BackendError(
                    f"{self._server.url}: {name} is loaded already and does not go within "
                    f"{self._unload_within_s:g} s; restart the server, or raise unload_within_s"
                )
        began = time.monotonic_ns()
        done = self._server.call("POST", "/api/generate", {**request, "stream": False})
        ended = time.monotonic_ns()
        if not isinstance(done, dict) or not done.get("done"):
            raise BackendError(
                f"{self._server.url}/api/generate: the reply to a load is {in_a_line(done)}; see its log"
            )
        return began, ended

    def infer(self, label: str, given: str) -> Transcription:
        path = "/api/chat" if self._chats else "/api/generate"
        submitted = time.monotonic_ns()
        with self._server.open("POST", path, self._asked(label, given)) as response:
            pieces, last, returned = self._listen(response, path)
        reported = figures_of(last)
        if thoughts := last["thoughts"]:
            reported["thinking_pieces"] = float(thoughts)
        why = last.get("done_reason")
        statistics = [f"done_reason: {in_a_line(why)}"] if why else []
        if label in self._chosen:
            statistics.append(self._chosen[label])
        return Transcription(submitted, returned, pieces, statistics, reported=reported)

    def restart(self, label: str) -> tuple[int, int]:
        """Nothing to do: no request has what was said before in it."""
        now = time.monotonic_ns()
        return now, now

    def unload(self, label: str) -> tuple[int, int]:
        began = time.monotonic_ns()
        request = self._requests.get(label)
        self._let_go(request["model"] if request else label)
        return began, time.monotonic_ns()

    def renew(self) -> tuple[int, int]:
        return self._server.restart()

    def processes(self) -> Sequence[int | str]:
        return self._server.processes()

    def resident(self) -> Sequence[str]:
        labels = {full_name(request["model"]): label for label, request in self._requests.items()}
        return [labels.get(full_name(model["name"]), model["name"]) for model in self._listed("/api/ps")]

    def _asked(self, label: str, prompt: str) -> dict[str, Any]:
        self._prompts += 1
        if self._distinct_prompts:
            prompt = f"({self._prompts}) {prompt}"
        asked = {**self._requests[label], "stream": True}
        if self._think is not None:
            asked["think"] = self._think
        if self._chats:
            return {**asked, "messages": [{"role": "user", "content": prompt}]}
        return {**asked, "prompt": prompt}

    def _listen(self, response: Any, path: str) -> tuple[list[tuple[int, str]], dict[str, Any], int]:
        """The pieces of a stream, its last message, and when that came.

        What is thought is no text: it makes pieces without any, which are counted (``thoughts``).
        """
        pieces: list[tuple[int, str]] = []
        last: dict[str, Any] = {}
        thoughts = returned = 0
        where = f"{self._server.url}{path}"
        for now, line in self._server.read_lines(response, path):
            try:
                text, thinks, message = piece_of(line, self._chats)
            except ValueError as error:
                raise BackendError(
                    f"{where}: {error} (pieces that came: {len(pieces)}); see its log"
                ) from None
            thoughts += thinks
            if text or not message.get("done"):
                pieces.append((now, text))
            if message.get("done"):
                last, returned = message, now
        if not last:
            raise BackendError(
                f"{where}: EOF before the answer was done (pieces that came: {len(pieces)}); see its log"
            )
        return pieces, {**last, "thoughts": thoughts}, returned

    def _let_go(self, name: str) -> None:
        """Have a model unloaded, and wait until it is not listed, or too long."""
        self._server.call("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        deadline = time.monotonic() + self._unload_within_s
        while self._lists(name) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)

    def _lists(self, name: str) -> bool:
        return any(full_name(model["name"]) == full_name(name) for model in self._listed("/api/ps"))

    def _listed(self, path: str) -> list[dict[str, Any]]:
        told = self._server.call("GET", path)
        models = told.get("models") if isinstance(told, dict) else None
        if not isinstance(models, list) or not all(_is_named(model) for model in models):
            raise BackendError(
                f"{self._server.url}{path}: {in_a_line(told)} is no list of models; is this Ollama?"
            )
        return models

    def _choose_keep_alive(self, name: str) -> tuple[int | str, str]:
        """How long a model is kept by the memory at hand, and that in words."""
        sizes = [
            number_of(model.get("size")) or 0.0
            for model in self._listed("/api/tags")
            if full_name(model["name"]) == full_name(name)
        ]
        size, available = sum(sizes), available_bytes()
        chosen = keep_alive_for(size, available)
        of = f"{size / 2**30:.1f} of {available / 2**30:.1f} GiB available"
        return chosen, f"keep_alive: {chosen}, for {of}"


def capabilities_of(configuration: Mapping[str, Any]) -> Capabilities:
    """What a server of this configuration can do."""
    return {
        "streams": True,
        "loads": True,
        "restarts": True,
        "forces_language": False,
        "runs_processes": True,
        "takes": "text",
        "gives": "text",
        "renews": bool(configuration["restart"] or configuration["docker"]),
    }


def make_server(configuration: Mapping[str, Any]) -> Server:
    names = ("restart", "docker", "pid", "answers_within_s")
    return Server(configuration["url"], **{name: configuration[name] for name in names})


def piece_of(line: bytes, chats: bool) -> tuple[str, bool, dict[str, Any]]:
    """A line of a stream: its text, whether it has a thought, and all of it.

    Raises:
        ValueError: it tells of an error, or is no line of such a stream; in words.
    """
    try:
        message = value_of(line)
    except ValueError:
        raise ValueError(f"a line is no JSON: {in_a_line(line)}") from None
    if isinstance(message, dict) and "error" in message:
        raise ValueError(in_a_line(message["error"]))
    said = message.get("message", {}) if chats and isinstance(message, dict) else message
    text = said.get("content" if chats else "response", "") if isinstance(said, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"a line is no piece of an answer: {in_a_line(line)}")
    return text, bool(said.get("thinking")), message


def figures_of(last: Mapping[str, Any]) -> dict[str, float]:
    """The server's own account, of a stream's last message: its durations are in ns."""
    figures = {}
    for name in ("load", "prompt_eval", "eval", "total"):
        if (told := number_of(last.get(f"{name}_duration"))) is not None:
            figures[f"{name}_ms"] = told / 1e6
    for name, key in (("tokens", "eval_count"), ("prompt_tokens", "prompt_eval_count")):
        if (told := number_of(last.get(key))) is not None:
            figures[name] = told
    if figures.get("eval_ms") and "tokens" in figures:
        figures["tokens_per_s"] = figures["tokens"] / (figures["eval_ms"] / 1e3)
    return figures


def full_name(name: str) -> str:
    """A model's name with its tag and without the host and namespace that all have, in lower case."""
    short = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


def seconds_of(keep_alive: int | float | str) -> float | None:
    """A number of seconds, or a duration as Go writes it: 1h30m; None where it is neither."""
    if not isinstance(keep_alive, str):
        return float(keep_alive)
    if not re.fullmatch(rf"[+-]?(?:(?:{_COUNT})(?:{_UNIT}))+", keep_alive):
        return 0.0 if keep_alive == "0" else None
    parts = re.findall(rf"({_COUNT})({_UNIT})", keep_alive)
    seconds = sum(float(count) * _UNITS_S[unit] for count, unit in parts)
    return -seconds if keep_alive.startswith("-") else seconds


def keep_alive_for(size: float, available: int) -> int | str:
    """For ever where two such models fit; Ollama's own 5 minutes where one does; else half a minute.

    A model that is in use is never kept for less: the run says when it goes, and this only what becomes of it
    when the run does not.
    """
    if 2 * size <= available:
        return -1
    return "5m" if size <= available else "30s"


def available_bytes() -> int:
    """MemAvailable of proc_meminfo(5)."""
    with open(_MEMINFO, encoding="ascii") as file:  # noqa: PTH123 (no pathlib in the measured process)
        found = re.search(r"^MemAvailable: +([0-9]+) kB", file.read(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _is_named(model: object) -> bool:
    return isinstance(model, dict) and isinstance(model.get("name"), str)
