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
from rich.text import Text

from asrswitch.catalogue import label_and_path
from asrswitch.catalogue.fetch import fetch
from asrswitch.catalogue.listing import Listed, list_models
from asrswitch.catalogue.published import DEFAULT_TYPE
from asrswitch.commands.common import Parser, console, kept_kind
from asrswitch.convert import TYPES, convert
from asrswitch.convert.synth import PRESETS, synthesise
from asrswitch.errors import UsageError, printable
from asrswitch.memory_prediction import (
    DEFAULT_CLIP_S,
    MemoryOptions,
    MemoryQuestion,
    make_question,
    predict_memory,
)
from asrswitch.model_facts import describe, describe_memory, model_facts
from asrswitch.plan import DEFAULT_MAX_NEW_TOKENS, readable_file
from asrswitch.report.console import show
from asrswitch.worker_process import StoppedError, StopSignals

_INTERLEAVED = "q4_0_16x4: q4_0 in an order that decodes faster where memory is fast, for this engine only"
READER_MAY_LEAVE = True  # the files that it makes are there all the same
_EPILOG = """\
examples:
  asrswitch models list
  asrswitch models fetch 0.6B && asrswitch --iters 50 -m 0.6B
  asrswitch models convert Qwen3-ASR-0.6B/ 0.6b.bin --type q4_0
Each has its own help, as `asrswitch models fetch --help`.
"""
_FETCH_EPILOG = """\
examples:
  asrswitch models fetch 0.6B
  asrswitch models fetch 1.7B --type q8_0 --dest models/
The models directory is ASRSWITCH_MODELS, or asrswitch/models in the user's cache (XDG_CACHE_HOME, ~/.cache).
What broke off goes on where it was. HF_ENDPOINT and MODELSCOPE_DOMAIN name mirrors, HF_TOKEN says who asks.
"""


def main(words: Sequence[str]) -> int:
    """Fetch, list, convert, synthesise or show models."""
    given = make_parser().parse_args(words)
    if given.verb == "show":
        options = MemoryOptions(given.clip, given.context, given.threads, given.max_new_tokens)
        question = make_question(options, os.environ)
        return _show_model(_file_of(given.file), question, given.json)
    if given.verb == "list":
        return _show_list(given.json)
    with _raising_on_sigterm(), _transfer_bar() as progress:
        if given.verb == "fetch":
            fetch(given.name, given.type, given.dest, os.environ, _say, progress)
        elif given.verb == "convert":
            if not given.checkpoint.is_dir():
                raise UsageError(f"{given.checkpoint}: there is no such directory; name a checkpoint's")
            _check_output(given.output, given.force)
            convert(given.checkpoint, given.output, given.type, progress)
        else:
            _check_output(given.output, given.force)
            synthesise(given.output, given.preset, TYPES[given.type], given.seed, progress)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="asrswitch models",
        description="Get and make model files, and look into them.",
        epilog=_EPILOG,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="fetch|list|convert|synth|show")
    fetched = verbs.add_parser(
        "fetch",
        help="a published model, into the models directory, or made from a checkpoint there",
        description="A published model, into the models directory; others are made from a checkpoint there.",
        epilog=_FETCH_EPILOG,
    )
    fetched.add_argument("name", metavar="NAME", help="0.6B, 1.7B, or a checkpoint; see `models list`")
    fetched.add_argument(
        "--type", choices=TYPES, help=f"of the matrices (default {DEFAULT_TYPE}); {_INTERLEAVED}"
    )
    fetched.add_argument("--dest", type=Path, metavar="DIR", help="instead of the models directory")
    listed = _with_examples(
        verbs,
        "list",
        "which models are here, and which can be fetched",
        "asrswitch models list",
        "asrswitch models list --json",
    )
    listed.add_argument("--json", action="store_true", help="the same as JSON")
    checkpoint = _with_examples(
        verbs,
        "convert",
        "a .bin file from a Hugging Face checkpoint",
        "asrswitch models convert Qwen3-ASR-0.6B/ 0.6b.bin --type q4_0",
    )
    checkpoint.add_argument(
        "checkpoint", metavar="HF_DIR", type=Path, help="directory with config.json and safetensors"
    )
    synth = _with_examples(
        verbs,
        "synth",
        "a .bin file of true shapes with random weights, to measure with",
        "asrswitch models synth --preset 0.6b --type q4_0 0.6b.bin",
    )
    synth.add_argument("--preset", choices=PRESETS, required=True, help="whose shapes; tiny is for tests")
    synth.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the weights (default %(default)s)"
    )
    for verb, type in ((checkpoint, "q8_0"), (synth, "q4_0")):
        verb.add_argument("output", metavar="OUT.bin", type=Path, help="the file that is made")
        verb.add_argument(
            "--type",
            choices=TYPES,
            default=type,
            help=f"of the matrices (default %(default)s); {_INTERLEAVED}",
        )
        verb.add_argument("--force", action="store_true", help="write over a model that is there")
    show_file = _with_examples(
        verbs,
        "show",
        "what is in a .bin file, and the memory that it will take",
        "asrswitch models show 0.6B",
        "asrswitch models show 0.6b.bin --clip 300 -t 4",
    )
    show_file.add_argument("file", metavar="FILE", help="or a name as in `models list`")
    show_file.add_argument("--json", action="store_true", help="the same as JSON")
    show_file.add_argument("--clip", type=float, default=DEFAULT_CLIP_S, metavar="SECONDS",
        help="predict the memory for a clip of that length (default %(default)g)")  # fmt: skip
    show_file.add_argument(
        "-c", "--context", type=int, metavar="TOKENS", help="likewise (default: the model's)"
    )
    show_file.add_argument("-t", "--threads", type=int, metavar="N",
        help="likewise (default: the physical cores this process may use)")  # fmt: skip
    show_file.add_argument("-n", "--max-new-tokens", type=int, default=DEFAULT_MAX_NEW_TOKENS, metavar="N",
        help="likewise (default %(default)s)")  # fmt: skip
    return parser


def _with_examples(
    verbs: argparse._SubParsersAction[Parser], name: str, help: str, *examples: str
) -> argparse.ArgumentParser:
    """A verb of `models`, with command lines that show how it is used."""
    return verbs.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog="\n  ".join(["examples:", *examples]),
    )


def _check_output(path: Path, force: bool) -> None:
    """Refuse to write over anything but a model, and over that one unless it is meant.

    Raises:
        UsageError: another file is there, or a model without ``force``.
    """
    with contextlib.suppress(OSError):  # what is wrong with the place, the writing tells
        if path.is_file() and path.stat().st_size:
            if kept_kind(path) != "a model":
                raise UsageError(f"{path}: is a file, and no model; name another for the model")
            if not force:
                raise UsageError(f"{path}: a model is there; name another file, or give --force")


def _file_of(word: str) -> Path:
    """The file of this name, or of the model that goes by it."""
    try:
        _, named = label_and_path(word)
    except UsageError as error:
        raise UsageError(str(error).removeprefix("--model ")) from None
    return readable_file(named, "models show")


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
    output: list[Text] = []
    for heading, lines in [*describe(facts), describe_memory(prediction, facts.decoder.max_length)]:
        output.append(Text(heading))
        width = max((len(name) for name, _ in lines), default=0)
        output += [Text(f"  {name:{width}}  {value}") for name, value in lines]
    show(console(), output)
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
    terminal = console()
    longest = sum(widths) + 2 * len(widths) + max(len(row[-1]) for row in rows)
    between = "\n    " if terminal.is_terminal and longest > terminal.width else "  "
    lines = []
    for row in rows:
        name, type, state, size, licence = (
            f"{text:>{width}}" if column == 3 else f"{text:{width}}"
            for column, (text, width) in enumerate(zip(row, widths, strict=False))
        )
        lines.append(Text(f"{name}  {type}  {state}  {size}  {licence}{between}{row[-1]}"))
    show(terminal, lines)
    return 0


def _row(model: Listed) -> tuple[str, ...]:
    size = "" if model.bytes is None else f"{model.bytes:,}"
    licence, where = model.licence or "", printable(model.where)
    return printable(model.name), model.type or "", model.state.value, size, licence, where
