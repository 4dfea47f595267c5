"""What the verbs share: parsers, the terminal, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from asrswitch.errors import UsageError, printable
from asrswitch.memory.guard import MachineLock

PLAIN_WIDTH = 160
FAILURE, LEAK, INCONCLUSIVE, INVALID = 1, 3, 4, 5
READER_GONE = 141  # 128 + SIGPIPE: what shells say of a program that ended because nobody read on


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are ours, and which guesses no option's name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def alone(allow_concurrent: bool) -> contextlib.AbstractContextManager[object]:
    """What keeps others from measuring on this machine, unless they are allowed to."""
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
