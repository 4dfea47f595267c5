"""What backends on Hugging Face's libraries share: torch, models as directories, this process's memory.

The libraries are imported when a backend is made, which takes seconds and some hundred MiB that stay: both
are of the process, and not of the first model that it loads.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import re
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from asrswitch.worker.backends import Backend, BackendError, Transcription, in_a_line
from asrswitch.worker.protocol import LoadOptions

_T = TypeVar("_T")
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # a model is a directory, and no load waits for a network
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",  # a text at a time needs no pool of threads, which would stay
}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")
_OUT_OF_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|can't allocate memory|not enough memory", re.I
)
# A line of the report that transformers writes about weights: a tensor, or several as layer.{0, 1}.weight.
_MISSING = re.compile(r"^(\S.*?) +\| +MISSING\b", re.MULTILINE)
_UNUSED = "pooler."  # of checkpoints of encoders often left out, and of no use to embeddings or text


class HuggingFaceBackend(Backend):
    """Models that are held by this process, by their labels; subclasses say how one is opened and asked."""

    def __init__(
        self,
        configuration: Mapping[str, Any],
        package: str,
        gives: Literal["text", "embedding"],
        uses: Sequence[str] = (),
    ) -> None:
        """Import what models need.

        Args:
            configuration: ``device`` and ``dtype``, as ``asrswitch.hugging_face`` checked them.
            package: the library's module.
            gives: what it makes of a text.
            uses: names that the library imports only when they are asked for.

        Raises:
            BackendError: a library is not installed, or there is no such device.
        """
        os.environ.update(_ENVIRONMENT)
        self.capabilities = {
            "streams": gives == "text",
            "loads": True,
            "restarts": True,
            "forces_language": False,
            "runs_processes": False,
            "takes": "text",
            "gives": gives,
        }
        self._device: str = configuration["device"]
        self._dtype: str = configuration["dtype"]
        self._on_gpu = self._device.startswith("cuda")
        self._torch = _import("torch")
        self._check_device()
        transformers = _import("transformers")
        self._library = _import(package)
        for name in uses:
            getattr(self._library, name)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_warning()  # its report on weights is a warning
        self._report = _Report()
        logging.getLogger("transformers").addHandler(self._report)
        self._models: dict[str, Any] = {}
        # What is there now stays as long as the process: a collection need not look at it again.
        gc.collect()
        gc.freeze()

    @abstractmethod
    def open(self, directory: Path, options: LoadOptions) -> Any:
        """A loaded model; whatever it raises is told as a failure to load."""

    @abstractmethod
    def ask(self, model: Any, text: str) -> Transcription:
        """What a model makes of a text; whatever it raises is told as a failure of the model."""

    def load(self, label: str, options: LoadOptions) -> tuple[int, int]:
        directory = Path(options["model"])
        check_directory(directory)
        if label in self._models:
            self.unload(label)
        self._torch.set_num_threads(options["threads"])
        self._report.said.clear()
        started_ns = time.monotonic_ns()
        self._models[label] = self._try(
            lambda: self.open(directory, options),
            f"{directory}: cannot be loaded",
            "copy or fetch it again, or install newer libraries",
        )
        self._wait()
        ended_ns = time.monotonic_ns()
        if lacking := self._report.missing():
            del self._models[label]
            raise BackendError(
                f"{directory}: its weights lack {lacking[0]} and {len(lacking) - 1} more: it is a model for "
                "something else, or not whole; copy or fetch it again, or give another"
            )
        return started_ns, ended_ns

    def infer(self, label: str, given: str) -> Transcription:
        model = self._models.get(label)
        if model is None:
            raise BackendError(f"no model is loaded as {label}; load one first")
        remedy = "give another text or model"
        return self._try(lambda: self.ask(model, given), f"{label}: the model failed", remedy)

    def restart(self, label: str) -> tuple[int, int]:
        now = time.monotonic_ns()  # nothing is kept from one text to the next
        return now, now

    def unload(self, label: str) -> tuple[int, int]:
        started_ns = time.monotonic_ns()
        self._models.pop(label, None)
        gc.collect()
        if self._on_gpu:
            self._wait()
            self._torch.cuda.empty_cache()
        return started_ns, time.monotonic_ns()

    def renew(self) -> tuple[int, int]:
        raise BackendError("models are held by the worker itself: there is nothing else to start anew")

    def processes(self) -> Sequence[int | str]:
        return ()

    def resident(self) -> Sequence[str]:
        return [*self._models]

    def _wait(self) -> None:
        """Until the device has done what it was told."""
        if self._on_gpu:
            self._torch.cuda.synchronize()

    def _check_device(self) -> None:
        try:
            self._torch.empty(1, device=self._device)
        except Exception as error:  # an AssertionError without CUDA, a RuntimeError without such a device
            raise BackendError(
                f'device {self._device}: it cannot be used ({in_a_line(error)}); write device = "cpu"'
            ) from None

    def _try(self, call: Callable[[], _T], what: str, remedy: str) -> _T:
        """Call it; whatever the libraries raise becomes a line, and the worker's log has the rest."""
        try:
            return call()
        except BackendError:
            raise
        except Exception as error:
            traceback.print_exc()
            said = in_a_line(error)
            if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
                raise BackendError(
                    f"{what}: out of memory ({said}); use a smaller model, or give it more"
                ) from None
            if "trust_remote_code" in str(error):
                raise BackendError(
                    f"{what}: it brings code of its own, which is never run here; give another"
                ) from None
            raise BackendError(f"{what} ({said}); {remedy}") from None


def check_directory(directory: Path) -> None:
    """Refuse what can be told from the names of files.

    Raises:
        BackendError: no such directory, none of a model, or one whose configuration names code of its own.
    """
    if not directory.is_dir():
        problem = "not a directory" if directory.exists() else "there is no such model"
        raise BackendError(f"{directory}: {problem}; give a model's directory by --model, or fetch it first")
    modules = directory / "modules.json"
    config = directory / "config.json"
    if not config.is_file() and not modules.is_file():
        raise BackendError(
            f"{directory}: no model of Hugging Face's libraries, for it has no config.json; give one that is"
        )
    if modules.is_file():
        _check_modules(modules)
    # Without them the libraries make an empty one, and every word is unknown.
    if config.is_file() and not any(any(directory.glob(name)) for name in _TOKENIZER_FILES):
        raise BackendError(f"{directory}: it has no tokenizer.json; copy or fetch the model again")


def _check_modules(path: Path) -> None:
    """Before version 6, sentence-transformers runs code that lies in a local model's directory."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        kinds = [module["type"] for module in modules]
    except (OSError, ValueError, TypeError, KeyError):
        raise BackendError(f"{path}: no list of modules; copy or fetch the model again") from None
    for kind in kinds:
        if not str(kind).startswith("sentence_transformers."):
            raise BackendError(f"{path}: it names code of its own ({kind}), which is never run; give another")


class _Report(logging.Handler):
    """What transformers says of a load: weights that a file lacks are made up at random, with a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def missing(self) -> list[str]:
        """The names of tensors that the model needs and its files do not have."""
        names = [name for text in self.said for name in _MISSING.findall(text)]
        return [name for name in names if _UNUSED not in name]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        said = in_a_line(error)
        raise BackendError(
            f"{name} cannot be imported ({said}); pip install 'asrswitch[hugging-face]'"
        ) from None
