"""Where the inference library lies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path

from asrswitch.errors import LibraryError, NoSuchLibraryError

VARIABLE = "ASRSWITCH_LIBRARY"
_FILE = "asrswitch/native/libchatllm.so"


def find_library(given: str | None, environ: Mapping[str, str]) -> Path:
    """Find the library: as given, as the environment says, in this package, or in the installed distribution.

    The last is for ``python -m asrswitch`` in a clone's root, where the sources hide the installed package
    and only the latter holds what was built.

    Raises:
        NoSuchLibraryError: none is there that was named.
        LibraryError: none was found; the message says how to build or name one.
    """
    named = given or environ.get(VARIABLE)
    if named:
        path = Path(named).absolute()
        if not path.is_file():
            problem = "not a file" if path.exists() else "there is no such library"
            raise NoSuchLibraryError(f"{named}: {problem}; check --library or {VARIABLE}")
        return path
    for built in (_in_package(), _in_distribution()):
        if built is not None and built.is_file():
            return built
    raise LibraryError(
        f"libchatllm.so was not found: build it by `pip install .`, or name it by --library or {VARIABLE}"
    )


def _in_package() -> Path:
    return Path(str(resources.files("asrswitch") / "native" / "libchatllm.so"))


def _in_distribution() -> Path | None:
    try:
        files = metadata.distribution("asrswitch").files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.as_posix() == _FILE:
            return Path(str(file.locate()))
    return None
