"""What the verbs share: parsers, the terminal, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from asrswitch.convert.container import MAGIC
from asrswitch.errors import AsrSwitchError, UsageError, printable
from asrswitch.memory.guard import MachineLock

PLAIN_WIDTH = 160
FAILURE, LEAK, INCONCLUSIVE, INVALID = 1, 3, 4, 5
READER_GONE = 141  # 128 + SIGPIPE: what shells say of a program that ended because nobody read on


# What no result is to be written over, by how such a file begins.
_KEPT = {b'{"record":"run"': "a run's log", MAGIC: "a model"}
_KINDS = {int: "a whole number", float: "a number"}
_MAY_BE_EMPTY = ("reference",)  # of a clip in which nobody speaks


class _Help(argparse.RawDescriptionHelpFormatter):
    """Options as `-m, --model PATH`, mostly a line each; texts around them as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are ours, and which guesses no option's name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        message = re.sub(
            r"^argument (?:-\w/)?([^\s/:]+): expected one argument$",
            r"\1: give a value after it; one that begins with - as \1=-VALUE",
            message,
        )
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As for parse_args: a verb's own parser refuses what it does not know, and names its own help."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(map(printable, unknown))}")
        return found, unknown

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not isinstance(action, argparse._SubParsersAction):  # whose parser looks at each word
            check_given(action, arg_string)
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            kind = _KINDS.get(action.type, "another")  # type: ignore[call-overload]
            raise UsageError(f"{_name(action)} {arg_string}: give {kind}") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = ", ".join(map(str, action.choices))
            verb = isinstance(action, argparse._SubParsersAction)
            self.error(f"{self.prog if verb else _name(action)} {value}: use one of {names}")


class Once(argparse.Action):
    """An option that is given once: of two values none is to win without a word."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest, None) is not None:
            parser.error(f"{_name(self)} is given twice: give one")
        setattr(namespace, self.dest, values)


def check_given(action: argparse.Action, word: str) -> None:
    """Refuse a word that is empty, as of an unset variable in a script.

    Raises:
        UsageError: it is, and says something.
    """
    if not word and action.dest not in _MAY_BE_EMPTY:
        raise UsageError(f"{_name(action)} '{word}': is empty; give a value, or leave it out")


def _name(action: argparse.Action) -> str:
    """What a user calls it: the long form of an option, or what the help calls a word."""
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def add_format(parser: argparse.ArgumentParser, formats: Iterable[str], more: str = "") -> None:
    """The option that says in which of these formats the result is written; the first is the default."""
    names = tuple(formats)
    parser.add_argument("-f", "--format", type=_format, choices=names, metavar="FORMAT", default=names[0],
        help=f"{', '.join(names[:-1])} or {names[-1]}; default: {names[0]}{more}")  # fmt: skip


def _format(word: str) -> str:
    return "md" if word == "markdown" else word


def add_out(parser: argparse.ArgumentParser) -> None:
    """The option that names a file for the result."""
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, help="default: standard output")


def check_out(path: Path | None) -> None:
    """Refuse to write a result over what cannot be made again.

    Raises:
        UsageError: a run's log or a model is there.
    """
    if path and (kept := kept_kind(path)):
        raise UsageError(f"--out {path}: is {kept}, which would be lost; name another file")


def kept_kind(path: Path) -> str | None:
    """What is there and not to be written over, in words: a run's log, or a model."""
    with contextlib.suppress(OSError):  # nothing is there, or the writing tells what is wrong
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(max(map(len, _KEPT)))
            return next((kind for begin, kind in _KEPT.items() if head.startswith(begin)), None)
    return None


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for what is needed for as long as a command runs.

    Raises:
        AsrSwitchError: there is no place for one.
    """
    with _naming_the_place():
        directory = tempfile.TemporaryDirectory(prefix="asrswitch-")
    with directory as name:
        yield Path(name)


@contextlib.contextmanager
def _naming_the_place() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AsrSwitchError(
            f"no temporary directory can be made ({error.strerror}); make room, or name a place by TMPDIR"
        ) from None


def alone(allow_concurrent: bool) -> contextlib.AbstractContextManager[object]:
    """What keeps others from measuring on this machine, unless they are allowed to."""
    with _naming_the_place():
        return contextlib.nullcontext() if allow_concurrent else MachineLock()


@contextlib.contextmanager
def step_bar(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error, where that is a terminal; called before each step with what it is."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        completed = itertools.count()

        def update(what: str) -> None:
            progress.update(task, completed=next(completed), description=escape(printable(what)))

        yield update


def console() -> Console:
    """Standard output; where it is no terminal, wide enough that no figure is broken over two lines."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
