"""Get and make model files, and look into them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from asrswitch.catalogue.fetch import fetch
from asrswitch.catalogue.listing import Listed, list_models
from asrswitch.catalogue.published import DEFAULT_TYPE
from asrswitch.commands.common import Parser
from asrswitch.convert import TYPES, convert
from asrswitch.convert.synth import PRESETS, synthesise
from asrswitch.errors import printable
from asrswitch.memory_prediction import (
    DEFAULT_CLIP_S,
    MemoryOptions,
    MemoryQuestion,
    make_question,
    predict_memory,
)
from asrswitch.model_facts import describe, describe_memory, model_facts
from asrswitch.plan import DEFAULT_MAX_NEW_TOKENS
from asrswitch.worker_process import StoppedError, StopSignals

READER_MAY_LEAVE = True  # the files that it makes are there all the same
_EPILOG = """\
examples:
  python -m asrswitch models fetch 0.6B && python -m asrswitch --iters 50 -m 0.6B
  python -m asrswitch models convert Qwen3-ASR-0.6B/ 0.6b.bin --type q4_0
"""
_FETCH_EPILOG = """\
The models directory is ASRSWITCH_MODELS, or asrswitch/models in the user's cache (XDG_CACHE_HOME, ~/.cache).
What broke off goes on where it was. HF_ENDPOINT and MODELSCOPE_DOMAIN name mirrors, HF_TOKEN says who asks.
"""


def main(words: Sequence[str]) -> int:
    """Fetch, list, convert, synthesise or show models."""
    given = make_parser().parse_args(words)
    if given.verb == "show":
        options = MemoryOptions(given.clip, given.context, given.threads, given.max_new_tokens)
        return _show_model(given.file, make_question(options, os.environ), given.json)
    if given.verb == "list":
        return _show_list(given.json)
    with _raising_on_sigterm(), _transfer_bar() as progress:
        if given.verb == "fetch":
            fetch(given.name, given.type, given.dest, os.environ, _say, progress)
        elif given.verb == "convert":
            convert(given.checkpoint, given.output, given.type, progress)
        else:
            synthesise(given.output, given.preset, TYPES[given.type], given.seed, progress)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m asrswitch models",
        description="Get and make model files, and look into them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="fetch|list|convert|synth|show")
    fetched = verbs.add_parser(
        "fetch",
        help="a published model, into the models directory; what is not published is made from a checkpoint",
        epilog=_FETCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetched.add_argument("name", metavar="NAME", help="0.6B, 1.7B, or a checkpoint; see `models list`")
    fetched.add_argument("--type", choices=TYPES, help=f"of the matrices (default {DEFAULT_TYPE})")
    fetched.add_argument("--dest", type=Path, metavar="DIR", help="instead of the models directory")
    listed = verbs.add_parser("list", help="which models are here, and which can be fetched")
    listed.add_argument("--json", action="store_true", help="the same as JSON")
    checkpoint = verbs.add_parser("convert", help="a .bin file from a Hugging Face checkpoint")
    checkpoint.add_argument(
        "checkpoint", metavar="HF_DIR", type=Path, help="directory with config.json and safetensors"
    )
    synth = verbs.add_parser("synth", help="a .bin file of true shapes with random weights, to measure with")
    synth.add_argument("--preset", choices=PRESETS, required=True, help="whose shapes; tiny is for tests")
    synth.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the weights (default %(default)s)"
    )
    for verb, type in ((checkpoint, "q8_0"), (synth, "q4_0")):
        verb.add_argument("output", metavar="OUT.bin", type=Path)
        verb.add_argument("--type", choices=TYPES, default=type, help="of the matrices (default %(default)s)")
    show_file = verbs.add_parser("show", help="what is in a .bin file")
    show_file.add_argument("file", metavar="FILE", type=Path)
    show_file.add_argument("--json", action="store_true", help="the same as JSON")
    show_file.add_argument("--clip", type=float, default=DEFAULT_CLIP_S, metavar="SECONDS",
        help="predict the memory for a clip of that length (default %(default)g)")  # fmt: skip
    show_file.add_argument("--context", type=int, metavar="TOKENS", help="likewise (default: the model's)")
    show_file.add_argument("--threads", type=int, metavar="N",
        help="likewise (default: the physical cores this process may use)")  # fmt: skip
    show_file.add_argument("--max-new-tokens", type=int, default=DEFAULT_MAX_NEW_TOKENS, metavar="N",
        help="likewise (default %(default)s)")  # fmt: skip
    return parser


@contextlib.contextmanager
def _raising_on_sigterm() -> Iterator[None]:
    """While entered, SIGTERM ends the block by ``StoppedError``: what was half made is removed."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _transfer_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error, where that is a terminal; called with bytes done, in all, tensor.

    It appears with the first call.
    """
    with contextlib.ExitStack() as stack:
        console = Console(stderr=True)
        progress = Progress(console=console, disable=not console.is_terminal)

        def update(done: int, total: int, name: str) -> None:
            if not progress.tasks:
                stack.enter_context(progress)
                progress.add_task("")
            progress.update(
                progress.task_ids[0], completed=done, total=total, description=escape(printable(name))
            )

        yield update


def _show_model(path: Path, question: MemoryQuestion, as_json: bool) -> int:
    facts = model_facts(path)
    with StopSignals() as stop:
        prediction = predict_memory(path, facts.file_bytes, question, os.environ, stop)
    if as_json:
        everything = msgspec.structs.asdict(facts) | {"predicted_memory": prediction}
        print(msgspec.json.format(msgspec.json.encode(everything)).decode())
        return 0
    for heading, lines in [*describe(facts), describe_memory(prediction, facts.decoder.max_length)]:
        print(heading)
        width = max((len(name) for name, _ in lines), default=0)
        for name, value in lines:
            print(f"  {name:{width}}  {value}")
    return 0


def _say(line: str) -> None:
    print(printable(line), flush=True)


def _show_list(as_json: bool) -> int:
    models = list_models(os.environ)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(models)).decode())
        return 0
    rows = [("name", "type", "state", "bytes", "licence", "where"), *(_row(model) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        name, type, state, size, licence = (
            f"{text:>{width}}" if column == 3 else f"{text:{width}}"
            for column, (text, width) in enumerate(zip(row, widths, strict=False))
        )
        print(f"{name}  {type}  {state}  {size}  {licence}  {row[-1]}")
    return 0


def _row(model: Listed) -> tuple[str, ...]:
    size = "" if model.bytes is None else f"{model.bytes:,}"
    licence, where = model.licence or "", printable(model.where)
    return printable(model.name), model.type or "", model.state.value, size, licence, where
