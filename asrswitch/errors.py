"""The errors a user can meet. Each message is one line that names what is wrong and what to do about it."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text in one line: what is not printable (control characters, broken UTF-8) as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


class AsrSwitchError(Exception):
    """Something failed; the command ends with ``exit_code``."""

    exit_code = 1


class UsageError(AsrSwitchError):
    """The command line, the environment or a file named there asks for something impossible."""

    exit_code = 2


class AudioError(AsrSwitchError):
    """A clip that cannot be used."""


class LibraryError(AsrSwitchError):
    """No inference library, or one without the expected interface."""


class NoSuchLibraryError(LibraryError, UsageError):
    """A library was named that is not there."""


class LogError(AsrSwitchError):
    """A run log that cannot be written or read."""
