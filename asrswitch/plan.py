"""What runs are to do, as values: made from options and the environment, and checked here."""

from __future__ import annotations

import enum
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from asrswitch import machine
from asrswitch.backend_choice import (
    OPENAI,
    BackendChoice,
    capabilities_of,
    check_capabilities,
    choose_backend,
    is_server,
    models_of_server,
)
from asrswitch.catalogue import label_and_path
from asrswitch.errors import UsageError, printable
from asrswitch.hugging_face import find_directory
from asrswitch.model import Model
from asrswitch.model_file import is_synthetic
from asrswitch.model_files import files_of
from asrswitch.prompts.sets import Prompt, read_prompts
from asrswitch.rules.thresholds import Thresholds
from asrswitch.worker.backends import DEFAULT

DEFAULT_MODELS = ("digits-small", "digits-large")
DEFAULT_CLIP = "phone-zh.wav"
DEFAULT_MAX_NEW_TOKENS = 512  # the official pipeline's
DEFAULT_TIMEOUT_S = 600.0
DEFAULT_SAMPLE_HZ = 20.0
LOG_NAME = "run.jsonl"
MOST_ITERATIONS = 1_000_000
MOST_THREADS = 1_024
MOST_TOKENS = 1 << 24
MOST_SAMPLE_HZ = 1_000.0
_MOST_BYTES = 1 << 50  # no machine has more, and the system's limits take it
NEVER = "never"  # is a server, or a worker, exchanged before a larger model
# Of `--iters auto` that names no budget. A verdict on 1,000 iterations would see 16 bytes an iteration.
DEFAULT_MOST_ITERATIONS = 1_000

# The languages that Qwen3-ASR knows. Checked here because some libraries silently ignore a name they do not
# know.
LANGUAGES = {
    "zh": "Chinese", "en": "English", "yue": "Cantonese", "ar": "Arabic", "de": "German", "fr": "French",
    "es": "Spanish", "pt": "Portuguese", "id": "Indonesian", "it": "Italian", "ko": "Korean", "ru": "Russian",
    "th": "Thai", "vi": "Vietnamese", "ja": "Japanese", "tr": "Turkish", "hi": "Hindi", "ms": "Malay",
    "nl": "Dutch", "sv": "Swedish", "da": "Danish", "fi": "Finnish", "pl": "Polish", "cs": "Czech",
    "fil": "Filipino", "fa": "Persian", "el": "Greek", "ro": "Romanian", "hu": "Hungarian",
    "mk": "Macedonian",
}  # fmt: skip


_Choice = TypeVar("_Choice", bound=enum.Enum)


class Strategy(enum.Enum):
    """How models are switched."""

    RELOAD = "reload"
    RESTART = "restart"
    RESIDENT = "resident"
    ISOLATE = "isolate"


class Order(enum.Enum):
    """In which order the models of an iteration have their turns."""

    SMALL_FIRST = "small-first"
    GIVEN = "given"
    SHUFFLE = "shuffle"
    PACKED = "packed"  # small first, then back again; models stay loaded as far as there is room


class Trimming(enum.Enum):
    """Whether malloc is asked after an unload to give back what it keeps, and of whom."""

    NEVER = "never"
    PROBE = "probe"  # a copy of the worker: the worker's memory stays as it is
    ALWAYS = "always"  # the worker


class CacheState(enum.Enum):
    """What of a model's file is in the page cache before it is loaded."""

    AS_IS = "as-is"
    COLD = "cold"  # nothing
    WARM = "warm"  # all


# What the worker's environment says to its malloc, by the allocator's name.
_GLIBC_SETTINGS = {
    "glibc": {},
    "arenas-2": {"MALLOC_ARENA_MAX": "2"},
    "mmap-128k": {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)},  # pinned: it rises by itself otherwise
}
_PRELOADED = {
    "jemalloc": ("libjemalloc.so.2", "libjemalloc.so"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libtcmalloc_minimal.so", "libtcmalloc.so"),
}
ALLOCATORS = (*_GLIBC_SETTINGS, *_PRELOADED)
_LIBRARY_DIRECTORIES = ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib*")


class Clip(msgspec.Struct, frozen=True):
    """An audio file with its reference text, if that is known."""

    path: str
    reference: str | None
    bytes: int | None = None


class Plan(msgspec.Struct, frozen=True):
    """Everything that decides what a run does. All paths are absolute."""

    models: tuple[Model, ...]
    clips: tuple[Clip, ...]  # empty where the backend takes prompts
    iterations: int
    threads: int
    context: int | None  # tokens in the KV cache; None leaves it to the model
    language: str | None
    strategy: Strategy
    max_new_tokens: int
    timeout_s: float  # for one phase
    out: str
    preload: bool = False  # read the weights ahead while loading
    lock: bool = False  # pin the weights in memory
    # Logs of before these existed have neither: the defaults of a run are in Options.
    trim: Trimming = Trimming.NEVER
    sample_hz: float = 0.0  # how often memory is sampled between readings
    order: Order = Order.GIVEN  # small-first is in the order of `models` already
    seed: int = 0  # of shuffle
    allow_concurrent: bool = False
    allocator: str = "glibc"
    # Iterations are the most that there will be: the run ends once the verdict is decided.
    until_decided: bool = False
    most_s: float | None = None  # with until_decided, no iteration begins after so many seconds
    rounds: int = 1  # stretches that the iterations are divided into, each in a fresh worker
    memory_limit_bytes: int | None = None  # of the worker
    restart_above_bytes: int | None = None  # a larger model is loaded by a fresh worker, or server
    switches_per_hour: float | None = None  # what the comparison of strategies is to assume
    variant: str | None = None  # what tells this run from those that it takes turns with
    turn: int = 0  # its place among those
    environment: dict[str, str] = {}  # of the worker, besides the runner's own
    library: str | None = None  # as it was given; None where it was not
    label: str | None = None  # what the user calls the run
    metadata: dict[str, str] = {}  # what the user wants to know of it later
    rules: Thresholds = Thresholds()  # what recommendations compare figures with
    cache: CacheState = CacheState.AS_IS
    backend: BackendChoice = BackendChoice()
    prompts: tuple[Prompt, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """What each model is given in a turn: the clips' paths, or the prompts' names."""
        return [clip.path for clip in self.clips] or [prompt.name for prompt in self.prompts]

    @property
    def engine(self) -> str:
        """What runs the models, in a word or two."""
        given = self.backend.given
        return self.backend.name if given is None else f"{self.backend.name}:{given}"


class Need(msgspec.Struct, frozen=True):
    """What a strategy is to be recommended for; None where that is open."""

    memory_limit_bytes: int | None
    switches_per_hour: float | None


class Options(msgspec.Struct, frozen=True):
    """The command line as it was given; None where an option was not."""

    iterations: str  # a number, `auto` or `auto:BUDGET`
    models: Sequence[str] = ()
    type: str | None = None  # of models that are given by name
    audio: Sequence[str] = ()
    references: Sequence[str] = ()
    threads: int | None = None
    context: int | None = None
    language: str | None = None
    strategy: str = Strategy.RELOAD.value
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    timeout_s: float = DEFAULT_TIMEOUT_S
    out: str | None = None
    preload: bool = False
    lock: bool = False
    # A copy takes 4 to 5 ms after an unload of 0.6B, between phases; nothing else tells a pool's true size.
    trim: str = Trimming.PROBE.value
    sample_hz: float = DEFAULT_SAMPLE_HZ
    order: str = Order.SMALL_FIRST.value
    seed: int = 0
    allow_concurrent: bool = False
    allocator: str = "glibc"
    memory_limit: str | None = None
    restart_above: str | None = None
    switches_per_hour: float | None = None
    library: str | None = None
    label: str | None = None
    metadata: Sequence[str] = ()  # KEY=VALUE
    rules: Thresholds = Thresholds()  # of an experiment file
    cache: str = CacheState.AS_IS.value
    backend: str = DEFAULT
    prompts: str | None = None


def make_plan(options: Options, environ: Mapping[str, str], now: datetime) -> Plan:
    """Turn options and environment into a checked plan.

    An option wins over its environment variable (INFERENCE_THREADS, CONTEXT_LENGTH, ASR_LANGUAGE).

    Raises:
        UsageError: a value out of range, a missing or unreadable file, a label used twice.
    """
    threads = threads_from(options.threads, environ)
    context = context_from(options.context, environ)
    iterations, most_s = _iterations(options.iterations)
    check_new_tokens(options.max_new_tokens)
    if not (math.isfinite(options.timeout_s) and options.timeout_s > 0):
        raise UsageError(f"--timeout is {options.timeout_s:g}: give a number of seconds above 0")
    if not 0 <= options.sample_hz <= MOST_SAMPLE_HZ:
        raise UsageError(
            f"--sample-hz is {options.sample_hz:g}: give samples a second, 0 to {MOST_SAMPLE_HZ:g}; 0 is none"
        )
    need = make_need(options.memory_limit, options.switches_per_hour)
    environment = allocator_environment(options.allocator)
    if environment is None:
        names = ", ".join(_PRELOADED[options.allocator])
        raise UsageError(f"--allocator {options.allocator}: no {names} is installed; install it")
    backend = choose_backend(options.backend, environ)
    if not backend.is_default:
        _check_other_backend(options, backend)
    models = _models(options.models, options.type, environ, backend)
    clips, prompts = _inputs(options, backend)
    # A default of the environment is of speech, not of texts.
    language = language_from(options.language, {} if prompts else environ)
    if can := capabilities_of(backend):
        # Defaults of the environment that the program has no place for are left out.
        language = language if options.language or can["forces_language"] else None
        context = context if "context" in backend.placeholders or not backend.program else None
        check_capabilities(backend.name, can, options.strategy, language, "text" if prompts else "audio")
    above = restart_above_from(options.restart_above)
    if (
        above is not None
        and options.restart_above != NEVER
        and can
        and is_server(can)
        and not can.get("renews")
    ):
        raise UsageError(
            f"--restart-above {options.restart_above}: the backend {backend.name} is not told how its server "
            "is restarted; add restart to its configuration, or leave the option out"
        )
    order = _one_of(Order, "--order", options.order)
    if order is Order.PACKED and options.strategy != Strategy.RESIDENT.value:
        raise UsageError(
            f"--order {order.value}: it says which models stay loaded, and that is --strategy resident, "
            f"not {options.strategy}"
        )
    if order in (Order.SMALL_FIRST, Order.PACKED):
        models = tuple(sorted(models, key=lambda model: model.bytes or 0))
    return Plan(
        models=models,
        clips=clips,
        iterations=iterations,
        threads=threads,
        context=context,
        language=language,
        strategy=_one_of(Strategy, "--strategy", options.strategy),
        max_new_tokens=options.max_new_tokens,
        timeout_s=options.timeout_s,
        out=str(Path(options.out or f"runs/{now:%Y%m%d-%H%M%S}").absolute()),
        preload=options.preload,
        lock=options.lock,
        trim=_one_of(Trimming, "--trim", options.trim),
        sample_hz=options.sample_hz,
        order=order,
        seed=options.seed,
        allow_concurrent=options.allow_concurrent,
        until_decided=options.iterations.startswith("auto"),
        most_s=most_s,
        memory_limit_bytes=need.memory_limit_bytes,
        restart_above_bytes=backend.restart_above_bytes if above is None else above,
        switches_per_hour=need.switches_per_hour,
        allocator=options.allocator,
        environment=environment,
        library=str(Path(options.library).absolute()) if options.library else None,
        label=options.label,
        metadata=_metadata(options.metadata),
        rules=options.rules,
        cache=_one_of(CacheState, "--cache", options.cache),
        backend=backend,
        prompts=prompts,
    )


def make_need(memory_limit: str | None, switches_per_hour: float | None) -> Need:
    """Check the options of these names."""
    rate = switches_per_hour
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"--switches-per-hour is {rate:g}: give a number above 0")
    return Need(_bytes("--memory-limit", memory_limit, 1), rate)


def threads_from(given: int | None, environ: Mapping[str, str]) -> int:
    """Threads as given, or as INFERENCE_THREADS says, or the physical cores that this process may use."""
    threads = _number("--threads", given, "INFERENCE_THREADS", environ, MOST_THREADS)
    return machine.physical_cores() if threads is None else threads


def context_from(given: int | None, environ: Mapping[str, str]) -> int | None:
    """Tokens of context as given, or as CONTEXT_LENGTH says; None leaves them to the model."""
    return _number("--context", given, "CONTEXT_LENGTH", environ, MOST_TOKENS)


def check_new_tokens(given: int) -> None:
    """Refuse a number of new tokens out of range."""
    _check_range("--max-new-tokens", given, MOST_TOKENS)


def make_out_directory(out: str, resume: bool = False) -> Path:
    """Create the run's directory, refusing one that already holds a run's log unless that is to go on."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot make this directory ({error.strerror}); name another by --out"
        ) from None
    if not resume and (path / LOG_NAME).exists():
        raise UsageError(f"{path}: holds the log of an earlier run; name another directory by --out")
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: this directory is not writable; name another by --out")
    return path


def _metadata(words: Sequence[str]) -> dict[str, str]:
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise UsageError(f"--metadata {word}: write KEY=VALUE, for example host=laptop")
    return dict(word.split("=", 1) for word in words)


def _iterations(word: str) -> tuple[int, float | None]:
    """How many iterations there are to be at most, and how many seconds they may take."""
    number = str(DEFAULT_MOST_ITERATIONS) if word == "auto" else word.removeprefix("auto:")
    if number != word and (seconds := re.fullmatch(r"(\d{1,6})([smh])", number)):
        _check_range("--iters auto: the time", int(seconds[1]), 10**6)
        return MOST_ITERATIONS, float(seconds[1]) * {"s": 1, "m": 60, "h": 3600}[seconds[2]]
    if not re.fullmatch(r"-?\d{1,18}", number):
        raise UsageError(f"--iters {word}: give a number, or auto, auto:500, auto:30m")
    _check_range("--iters", int(number), MOST_ITERATIONS)
    return int(number), None


def _bytes(option: str, word: str | None, least: int) -> int | None:
    """Bytes from a size like 300M or 1.5GiB; units are powers of 1,024."""
    if word is None:
        return None
    size = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)(?:i?B)?", word, re.IGNORECASE)
    if not size or (value := int(float(size[1]) * 1024 ** " KMGT".index(size[2].upper() or " "))) < least:
        raise UsageError(f"{option} {word}: give a size, for example 300M or 1.5G")
    if value > _MOST_BYTES:
        raise UsageError(f"{option} {word}: give at most {_MOST_BYTES >> 40}T")
    return value


def restart_above_from(word: str | None) -> int | None:
    """Bytes of a size; for ``never`` more than any model has.

    Raises:
        UsageError: neither.
    """
    if word == NEVER:
        return _MOST_BYTES
    try:
        return _bytes("--restart-above", word, 0)
    except UsageError as error:
        raise UsageError(f"{error}, or {NEVER}") from None


def allocator_environment(name: str) -> dict[str, str] | None:
    """What makes a worker use the allocator; None where its library is not installed."""
    if name in _GLIBC_SETTINGS:
        return _GLIBC_SETTINGS[name]
    for pattern in _LIBRARY_DIRECTORIES:
        for directory in sorted(Path("/").glob(pattern[1:])):
            for library in _PRELOADED[name]:
                if (directory / library).is_file():
                    return {"LD_PRELOAD": str(directory / library)}
    return None


def _check_other_backend(options: Options, backend: BackendChoice) -> None:
    """Refuse what only libraries with chatllm.cpp's interface understand.

    Raises:
        UsageError: such an option was given, or a value that the program's command line has no place for.
    """
    theirs = {
        f"--library {options.library}": options.library,
        f"--type {options.type}": options.type,
        "--preload": options.preload,
        "--lock": options.lock,
    }
    if backend.is_server:
        theirs[f"--memory-limit {options.memory_limit}"] = options.memory_limit
        theirs[f"--cache {options.cache}"] = options.cache != CacheState.AS_IS.value
        theirs[f"--allocator {options.allocator}"] = options.allocator != ALLOCATORS[0]
    if backend.name == OPENAI:
        theirs[f"--context {options.context}"] = options.context is not None
    for option, given in theirs.items():
        if given:
            raise UsageError(f"{option}: the backend {backend.name} has no such option; leave it out")
    if backend.program and options.context is not None and "context" not in backend.placeholders:
        raise UsageError(
            f"--context {options.context}: the command line in {backend.given} has no {{context}}; "
            "add it there, or leave the option out"
        )


def _models(
    given: Sequence[str], type: str | None, environ: Mapping[str, str], backend: BackendChoice
) -> tuple[Model, ...]:
    if not backend.is_default:
        return _models_of_others(given, backend)
    if type is not None and not given:
        raise UsageError(f"--type {type}: the embedded models are of one type; give --model a name")
    if not given:
        return tuple(_embedded_model(label) for label in DEFAULT_MODELS)
    models: list[Model] = []
    for word in given:
        label, path = label_and_path(word, type, environ)
        if any(model.label == label for model in models):
            raise UsageError(f"--model {word}: the label {label} is used twice; give each model its own")
        if not label.isprintable():
            raise UsageError(f"--model {printable(word)}: give it a label of printable characters")
        file = readable_file(path, "--model")
        models.append(_model(label, file))
    return tuple(models)


def _models_of_others(given: Sequence[str], backend: BackendChoice) -> tuple[Model, ...]:
    """Files or directories; for some backends names too, which only they understand."""
    if backend.is_server and (found := models_of_server(backend, given)) is not None:
        return found
    if not given:
        raise UsageError(f"--model is missing: the embedded models are not of the backend {backend.name}")
    models: list[Model] = []
    for word in given:
        label, equals, named = word.partition("=")
        if not equals or Path(word).exists():
            label, named = Path(word).stem if Path(word).is_file() else Path(word).name, word
        if not named or not label.isprintable() or not label:
            raise UsageError(f"--model {printable(word)}: write PATH or LABEL=PATH, as base=ggml-base.bin")
        if any(model.label == label for model in models):
            raise UsageError(f"--model {word}: the label {label} is used twice; give each model its own")
        path = find_directory(named) if backend.takes_directories else Path(named).absolute()
        if not path.exists() and backend.program:
            raise UsageError(f"{named}: there is no such file or directory; check the path given to --model")
        if path.exists():
            models.append(Model(label, str(path), size_of(path), path.is_file() and is_synthetic(path)))
        else:
            models.append(Model(label, named))
    return tuple(models)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a directory and below it."""
    return sum(file.stat().st_size for file in files_of(path))


def _embedded_model(label: str) -> Model:
    file = Path(str(resources.files("asrswitch") / "models" / f"{label}.bin"))
    if not file.is_file():
        raise UsageError(
            f"{file}: this installation lacks the embedded model; install again, or give --model PATH"
        )
    return _model(label, file)


def _model(label: str, file: Path) -> Model:
    return Model(label, str(file), size_of(file), is_synthetic(file))


def _inputs(options: Options, backend: BackendChoice) -> tuple[tuple[Clip, ...], tuple[Prompt, ...]]:
    """Clips, or prompts where the backend takes these.

    Raises:
        UsageError: what is given is not what it takes.
    """
    clips = [*(f"--audio {word}" for word in options.audio)]
    clips += [f"--reference {word}" for word in options.references]
    prompts = [] if options.prompts is None else [f"--prompts {options.prompts}"]
    wrong = clips if backend.takes == "text" else prompts if backend.takes == "audio" else []
    if wrong:
        takes, give = ("texts", "--prompts") if backend.takes == "text" else ("audio", "--audio")
        raise UsageError(f"{wrong[0]}: the backend {backend.name} takes {takes}; give {give} instead")
    if clips and prompts:
        raise UsageError(f"{prompts[0]} with {clips[0]}: a backend takes the one or the other; leave one out")
    word = options.prompts or backend.default_prompts
    return ((), read_prompts(word)) if word else (_clips(options.audio, options.references), ())


def _clips(audio: Sequence[str], references: Sequence[str]) -> tuple[Clip, ...]:
    paths = audio or [str(resources.files("asrswitch") / "samples" / DEFAULT_CLIP)]
    if references and len(references) != len(paths):
        raise UsageError(
            f"{len(references)} --reference for {len(paths)} --audio: give one for each clip, in their order"
        )
    clips = []
    for index, word in enumerate(paths):
        path = readable_file(word, "--audio")
        reference = _reference(references[index]) if references else _text_beside(path)
        clips.append(Clip(str(path), reference, path.stat().st_size))
    return tuple(clips)


def _reference(word: str) -> str:
    if word == "@":
        raise UsageError("--reference @: name a text file after the @")
    return _read_text(readable_file(word[1:], "--reference")) if word.startswith("@") else word


def _text_beside(clip: Path) -> str | None:
    path = clip.with_suffix(".txt")
    return _read_text(path) if path.is_file() else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path}: not a readable UTF-8 text; a reference is plain text") from None


def readable_file(word: str, option: str) -> Path:
    """The file of this name, absolute.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    path = Path(word).absolute()
    if not path.is_file():
        problem = "not a file" if path.exists() else "there is no such file"
        raise UsageError(f"{word}: {problem}; check the path given to {option}")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{word}: not readable; check its permissions")
    return path


def _number(
    option: str, given: int | None, variable: str, environ: Mapping[str, str], largest: int
) -> int | None:
    name, value = option, given
    if value is None and environ.get(variable):
        name = variable
        try:
            value = int(environ[variable])
        except ValueError:
            raise UsageError(f"{variable}={environ[variable]}: give a whole number, or unset it") from None
    if value is not None:
        _check_range(name, value, largest)
    return value


def _one_of(kind: type[_Choice], option: str, word: str) -> _Choice:
    try:
        return kind(word)
    except ValueError:
        raise UsageError(
            f"{option} {word}: use one of {', '.join(choice.value for choice in kind)}"
        ) from None


def _check_range(name: str, value: int, largest: int) -> None:
    if not 1 <= value <= largest:
        raise UsageError(f"{name} is {value}: give a number from 1 to {largest}")


def language_from(given: str | None, environ: Mapping[str, str]) -> str | None:
    """The language as given, or as ASR_LANGUAGE says, by its name; None leaves it to the model."""
    word = given or environ.get("ASR_LANGUAGE")
    if not word:
        return None
    for code, name in LANGUAGES.items():
        if word.casefold() in (code, name.casefold()):
            return name
    source = f"--language {word}" if given else f"ASR_LANGUAGE={word}"
    raise UsageError(f"{source}: unknown; use one of {', '.join(LANGUAGES.values())}, or a code like zh")
