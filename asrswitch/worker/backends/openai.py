"""Any server that transcribes at ``/v1/audio/transcriptions``; it may take requests to load and unload.

The endpoint, its fields and its events are those of OpenAI's API reference ("Create transcription"). vLLM
streams events of a form of its own, which is read too.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import time
import wave
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from asrswitch.worker.backends import Backend, BackendError, Transcription
from asrswitch.worker.backends.server import Server, number_of, value_of
from asrswitch.worker.protocol import Capabilities, LoadOptions

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PAUSE_S = 0.02  # between two looks at what is resident
_OF_SERVER = ("restart", "docker", "pid", "answers_within_s")
_BLOCK_BYTES = 1 << 18  # of a clip, at a time
_SAMPLE_RATE = 16_000  # as in asrswitch.audio, which the measured process does not import
_HEADER_END = "<asr_text>"  # as in asrswitch.figures, likewise
_STREAM = "text/event-stream"
# The same in every request: what a server remembers of each new one (Python's email parser compiles a pattern
# for it, and keeps 512) would look as if its models left memory behind. Random, so that it is in no clip.
_BOUNDARY = "asrswitch-5dc1de7f062761ba63b8c37cad8875ca"
_COUNTS = {  # what a reply's usage calls them, and what the figures do
    "input_tokens": "prompt_tokens",
    "output_tokens": "tokens",
    "completion_tokens": "tokens",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")  # of a number, which becomes a figure's
_Pieces = list[tuple[int, str]]


class OpenAIBackend(Backend):
    """A server by its configuration, as ``asrswitch.openai_configuration`` checked it."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._server = Server(
            configuration["url"],
            key=_key_of(configuration["api_key_env"]),
            **{key: configuration[key] for key in _OF_SERVER},
        )
        self._path: str = configuration["path"]
        self._streams: bool = configuration["streams"]
        self._fields: dict[str, str] = configuration["fields"]
        self._load: dict[str, Any] | None = configuration["load"]
        self._unload: dict[str, Any] | None = configuration["unload"]
        self._resident: dict[str, Any] | None = configuration["resident"]
        self._options: dict[str, LoadOptions] = {}
        self.capabilities = capabilities_of(configuration)

    def load(self, label: str, options: LoadOptions) -> tuple[int, int]:
        model = options["model"]
        self._options[label] = options
        if self._unload is None:
            now = time.monotonic_ns()
            return now, now
        if self._is_listed(model):  # whoever loaded it: what follows would be no load
            self._let_go(self._unload, model)
            if self._is_listed(model):
                raise BackendError(
                    f"{self._server.url}: {model} is loaded already and does not go; restart the server"
                )
        began = time.monotonic_ns()
        if self._load is None:
            self._transcribe(options, io.BytesIO(silence()))
        else:
            self._send(self._load, model)
        within_s = (self._load or self._unload)["within_s"]
        if not self._await(model, True, within_s):
            raise BackendError(
                f"{self._server.url}: the server does not list {model} {within_s:g} s after the request"
                " to load it; see the server's own log, or raise load.within_s"
            )
        return began, time.monotonic_ns()

    def infer(self, label: str, given: str) -> Transcription:
        with Path(given).open("rb") as file:
            return self._transcribe(self._options[label], file)

    def restart(self, label: str) -> tuple[int, int]:
        now = time.monotonic_ns()  # each request stands for itself: there is nothing to forget
        return now, now

    def unload(self, label: str) -> tuple[int, int]:
        assert self._unload is not None
        options = self._options.get(label)
        began = time.monotonic_ns()
        self._let_go(self._unload, options["model"] if options else label)
        return began, time.monotonic_ns()

    def renew(self) -> tuple[int, int]:
        return self._server.restart()

    def processes(self) -> Sequence[int | str]:
        return self._server.processes()

    def resident(self) -> Sequence[str] | None:
        if self._resident is None:
            return None
        labels = {options["model"]: label for label, options in self._options.items()}
        return [labels.get(name, name) for name in self._listed()]

    def _transcribe(self, options: LoadOptions, clip: BinaryIO) -> Transcription:
        values = {"model": options["model"], "max_new_tokens": str(options["max_new_tokens"])}
        fields = {"model": options["model"], "response_format": "json", "temperature": "0"}
        if code := options.get("language_code"):
            fields["language"] = code
        if self._streams:
            fields["stream"] = "true"
        fields |= {name: fill_in(value, values) for name, value in self._fields.items()}
        headers, body = multipart(fields, clip)
        read = self._read_events if self._streams else self._read_whole
        submitted_ns = time.monotonic_ns()
        with self._server.open("POST", self._path, body, headers) as response:
            pieces, reported = read(response)
        returned_ns = time.monotonic_ns()
        return Transcription(submitted_ns, returned_ns, pieces, statistics=[], reported=reported)

    def _read_whole(self, response: http.client.HTTPResponse) -> tuple[_Pieces, dict[str, float]]:
        said = self._server.read(response, self._path)
        now = time.monotonic_ns()
        reply = self._json(said)
        text = reply.get("text") if isinstance(reply, dict) else None
        if not isinstance(text, str):
            raise self._mistaken(f"the reply has no text ({self._server.words_of(said)})")
        return [(now, text)], numbers_of(reply)

    def _read_events(self, response: http.client.HTTPResponse) -> tuple[_Pieces, dict[str, float]]:
        kind = response.headers.get_content_type()
        if kind != _STREAM:
            raise self._mistaken(f"the reply is {kind} and not {_STREAM}: leave streams = true out")
        pieces: _Pieces = []
        reported: dict[str, float] = {}
        final: tuple[int, str] | None = None
        complete = False
        for at_ns, data in events_of(self._server.read_lines(response, self._path)):
            if data == b"[DONE]":
                complete = True
                break
            event = self._json(data)
            if not isinstance(event, dict):
                raise self._mistaken(f"an event is no object ({self._server.words_of(data)})")
            if event.get("error") or "error" in (event.get("type"), event.get("object")):
                raise BackendError(
                    f"{self._server.url}{self._path}: {self._server.message_of(data)}; see the server's own "
                    "log"
                )
            reported |= numbers_of(event)
            if delta := delta_of(event):
                pieces.append((at_ns, delta))
            if event.get("type") == "transcript.text.done":
                complete = True
                if isinstance(event.get("text"), str):
                    final = at_ns, event["text"]
        if not complete:
            raise BackendError(
                f"{self._server.url}{self._path}: EOF: the stream ended before its last event; "
                "see the server's own log"
            )
        if final is not None and not _agree("".join(text for _, text in pieces), final[1]):
            pieces = [final]  # when its parts came cannot be told
        return pieces, reported

    def _json(self, said: bytes) -> Any:
        try:
            return value_of(said)
        except ValueError:
            raise self._mistaken(f"no JSON ({self._server.words_of(said)})") from None

    def _mistaken(self, problem: str) -> BackendError:
        return BackendError(f"{self._server.url}{self._path}: {problem}; is this the right server?")

    def _send(self, request: Mapping[str, Any], model: str) -> None:
        """Ask for a load or an unload; the reply's status alone tells whether it was understood."""
        path = fill_in(request["path"], {"model": quote(model, safe="/")})
        body = filled(request["body"], {"model": model})
        with self._server.open(request["method"], path, body) as response:
            self._server.read(response, path)

    def _let_go(self, unload: Mapping[str, Any], model: str) -> None:
        """Have a model unloaded; that the server still lists it then is seen by who asks what is resident."""
        self._send(unload, model)
        self._await(model, False, unload["within_s"])

    def _await(self, model: str, wanted: bool, within_s: float) -> bool:
        """Wait until the server lists the model, or lists it no more; whether it came to that."""
        if self._resident is None:
            return True
        deadline = time.monotonic() + within_s
        while self._is_listed(model, loading=wanted) is not wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        return True

    def _is_listed(self, model: str, loading: bool = False) -> bool:
        return self._resident is not None and model in self._listed(model if loading else None)

    def _listed(self, loading: str | None = None) -> list[str]:
        """The names of all models that the server holds, by its own account.

        Raises:
            BackendError: the account cannot be read, or says that the model ``loading`` could not be loaded.
        """
        account = self._resident
        assert account is not None
        where = f"{self._server.url}{account['path']}"
        reply = self._server.call("GET", account["path"])
        models = value_at(reply, account["models"])
        if not isinstance(models, list):
            raise BackendError(
                f"{where}: there is no list {_place(account['models'])}; correct resident.models"
            )
        names = []
        for model in models:
            name = value_at(model, account["name"])
            if not isinstance(name, str):
                raise BackendError(f"{where}: no name is {_place(account['name'])}; correct resident.name")
            if name == loading and account["failed"] and value_at(model, account["failed"]):
                raise BackendError(f"{where}: the server could not load {name}; see the server's own log")
            if not account["state"] or value_at(model, account["state"]) in account["loaded"]:
                names.append(name)
        return names


def capabilities_of(configuration: Mapping[str, Any]) -> Capabilities:
    """What a server of this configuration can do."""
    return {
        "streams": configuration["streams"],
        "loads": configuration["unload"] is not None,
        "keeps": configuration["unload"] is None,
        "restarts": True,
        "forces_language": True,
        "runs_processes": True,
        "takes": "audio",
        "gives": "text",
        "renews": bool(configuration["restart"] or configuration["docker"]),
    }


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """The text with what its placeholders stand for."""
    return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def filled(body: Any, values: Mapping[str, str]) -> Any:
    """Likewise every text in a JSON value."""
    if isinstance(body, str):
        return fill_in(body, values)
    if isinstance(body, dict):
        return {key: filled(value, values) for key, value in body.items()}
    return [filled(value, values) for value in body] if isinstance(body, list) else body


def value_at(value: Any, path: str) -> Any:
    """What is at a dotted path in a JSON value; None where nothing is."""
    for key in path.split(".") if path else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value


def multipart(fields: Mapping[str, str], clip: BinaryIO) -> tuple[dict[str, str], Iterator[bytes]]:
    """The headers and the body of a form (RFC 7578) with the clip as its file, read as it is sent."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="audio.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    head, tail = "".join(parts).encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()
    length = len(head) + clip.seek(0, io.SEEK_END) + len(tail)

    def body() -> Iterator[bytes]:
        yield head
        clip.seek(0)
        while block := clip.read(_BLOCK_BYTES):
            yield block
        yield tail

    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Content-Length": str(length)}
    return headers, body()


def silence() -> bytes:
    """A second of it, as WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as clip:
        clip.setparams((1, 2, _SAMPLE_RATE, _SAMPLE_RATE, "NONE", ""))
        clip.writeframes(bytes(2 * _SAMPLE_RATE))
    return file.getvalue()


def events_of(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The data of server-sent events (HTML standard, 9.2.6), with when the last line of each was there."""
    data: list[bytes] = []
    at_ns = 0
    for now, line in lines:
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            at_ns = now
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield at_ns, b"\n".join(data)
            data = []


def delta_of(event: Mapping[str, Any]) -> str:
    """The text that an event adds, in OpenAI's form or in vLLM's; empty where it adds none."""
    delta = event.get("delta") if event.get("type") == "transcript.text.delta" else None
    choices = event.get("choices")
    if isinstance(choices, list) and choices:
        delta = value_at(choices[0], "delta.content")
    return delta if isinstance(delta, str) else ""


def numbers_of(reply: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a reply says of itself: those of its usage, and llama.cpp's timings."""
    found: dict[str, float] = {}
    for part in ("usage", "timings"):
        numbers: Any = reply.get(part)
        for key, number in numbers.items() if isinstance(numbers, dict) else ():
            name = str(key)
            if _NAME.fullmatch(name) and (told := number_of(number)) is not None:
                found[_COUNTS.get(name, name)] = told
    return found


def _place(path: str) -> str:
    return f"at {path}" if path else "where one should be"


def _agree(streamed: str, final: str) -> bool:
    """Whether two texts are the same but for spaces, and for Qwen3-ASR's header, which one may lack."""
    first, second = ("".join(text.rpartition(_HEADER_END)[2].split()) for text in (streamed, final))
    return first == second


def _key_of(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "")
    if not key or not (key.isascii() and key.isprintable()):
        raise BackendError(f"{variable} has no key that can be sent; set it, or take api_key_env out")
    return key
