"""The command line. Only this module prints and exits."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import itertools
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.text import Text

from asrswitch import __version__, audio
from asrswitch.allocators import compare_allocators
from asrswitch.bench.measure import measure, n_steps
from asrswitch.bench.plan import DEFAULT_MAX_NEW_TOKENS as DEFAULT_BENCH_TOKENS
from asrswitch.bench.plan import DEFAULT_REPETITIONS, DEFAULT_WARMUPS, BenchOptions, make_bench_plan
from asrswitch.bench.report import WRITERS, make_report, render_text
from asrswitch.convert import TYPES, convert
from asrswitch.convert.atomic import atomic_output
from asrswitch.convert.synth import PRESETS, synthesise
from asrswitch.errors import AsrSwitchError, LogError, UsageError, printable
from asrswitch.interleave import n_cycles_over, take_turns
from asrswitch.leak_check.measure import measure as measure_leaks
from asrswitch.leak_check.measure import n_steps as n_leak_check_steps
from asrswitch.leak_check.plan import (
    DEFAULT_CYCLES,
    DEFAULT_THREADS,
    LeakCheckOptions,
    Tool,
    make_leak_check_plan,
)
from asrswitch.leak_check.plan import DEFAULT_MAX_NEW_TOKENS as DEFAULT_LEAK_CHECK_TOKENS
from asrswitch.leak_check.plan import DEFAULT_TIMEOUT_S as DEFAULT_LEAK_CHECK_TIMEOUT_S
from asrswitch.leak_check.report import WRITERS as LEAK_CHECK_WRITERS
from asrswitch.leak_check.report import LeakCheckReport
from asrswitch.leak_check.report import make_report as make_leak_check_report
from asrswitch.memory.guard import MachineLock
from asrswitch.memory_prediction import (
    DEFAULT_CLIP_S,
    MemoryOptions,
    MemoryQuestion,
    make_question,
    predict_memory,
)
from asrswitch.model_facts import describe, describe_memory, model_facts
from asrswitch.native.locate import VARIABLE, find_library
from asrswitch.plan import (
    ALL,
    ALLOCATORS,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SAMPLE_HZ,
    DEFAULT_TIMEOUT_S,
    LOG_NAME,
    Need,
    Options,
    Order,
    Plan,
    Strategy,
    Trimming,
    make_need,
    make_out_directory,
    make_plans,
)
from asrswitch.records import LogWriter, Record, TornLineWarning, read_log
from asrswitch.report.console import (
    render_allocators,
    render_schedule,
    render_strategies,
    render_summary,
    show,
)
from asrswitch.report.progress import RunProgress
from asrswitch.resume import Earlier, find_logs, plan_of, read_interrupted, sort_runs
from asrswitch.runner import Runner
from asrswitch.schedule import make_schedule
from asrswitch.stats.verdict import Word
from asrswitch.strategies import compare_strategies
from asrswitch.summary import Summary, summarise
from asrswitch.worker_process import StoppedError, StopSignals

_PLAIN_WIDTH = 160
_FAILURE, _LEAK, _INCONCLUSIVE = 1, 3, 4

_DESCRIPTION = (
    "Switch between speech models again and again; measure what it costs and whether the memory comes back."
)
_EPILOG = f"""\
other commands: report RUN_DIR, bench, leak-check, models convert|synth|show; each has its own --help
examples:
  python -m asrswitch --iters 50
  python -m asrswitch --iters auto --model small=s.bin --model large=l.bin --check
environment: INFERENCE_THREADS, CONTEXT_LENGTH, ASR_LANGUAGE, {VARIABLE} stand in for absent options.
exit codes: 0 done, 1 failure, 2 usage, 130 stopped by Ctrl-C, 143 by SIGTERM; --check: 3 leak, 4 inconclusive
"""


class _Output(io.TextIOBase):
    """Standard output, which may be closed, full, or go away while a run goes on.

    The first failure is kept in ``error``, and what would follow it is dropped: a display that nobody sees is
    no reason to end a measurement.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error = None if stream else OSError(errno.EBADF, os.strerror(errno.EBADF))
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        if self._stream and not self.error:
            with self._noting_failure():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream and not self.error:
            with self._noting_failure():
                self._stream.flush()

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        assert self._stream
        try:
            yield
        except OSError as error:
            self.error = error
            # What is still buffered goes to nowhere when the process ends.
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), self._stream.fileno())


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors become one line on stderr."""
    output = _Output(sys.stdout)
    words = list(sys.argv[1:] if argv is None else argv)
    with contextlib.redirect_stdout(output):
        code = _answer(words)
    output.flush()
    if output.error:
        message = f"standard output: cannot be written ({output.error.strerror})"
        print(f"asrswitch: {message}; {_other_output(words)}", file=sys.stderr)
        return code or _FAILURE
    return code


def _other_output(words: Sequence[str]) -> str:
    """The remedy for a standard output that took nothing."""
    if words[:1] == ["bench"]:
        return "use --out FILE"
    if words[:1] in (["models"], ["leak-check"]):
        return "send it to a file or a pipe that is there, with room"
    return "`report RUN_DIR` prints a run's tables"


def _answer(words: Sequence[str]) -> int:
    commands = {"report": _report, "models": _models, "bench": _bench, "leak-check": _leak_check}
    try:
        _check_text(words)
        if words and words[0] in commands:
            return commands[words[0]](words[1:])
        return _run(words)
    except AsrSwitchError as error:
        return _complain(error)
    except OSError as error:  # a name too long for a file, for one
        where = "" if error.filename is None else f"{error.filename}: "
        remedy = "give a shorter name" if error.errno == errno.ENAMETOOLONG else "check it and try again"
        return _complain(AsrSwitchError(f"{where}{error.strerror or error}; {remedy}"))
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # after --help and --version
        return int(done.code or 0)


def _check_text(words: Sequence[str]) -> None:
    """Refuse names that the log, which is JSON, could not hold."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise UsageError("the current directory is gone; change to one that is there") from None
    for word in [*words, here]:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{word}: not UTF-8; rename the file or directory") from None


def _complain(error: AsrSwitchError) -> int:
    print(f"asrswitch: {printable(str(error))}", file=sys.stderr)
    return error.exit_code


def _run(words: Sequence[str]) -> int:
    parser = _run_parser()
    given = parser.parse_args(words)
    earlier = _earlier(parser, given) if given.resume is not None else []
    plans = [run.plan for run in earlier] or make_plans(_options(given), os.environ, datetime.now())
    logs = [list(run.records) for run in earlier] or [[] for _ in plans]
    console = _console()
    if given.dry_run:
        for plan in plans:
            show(console, render_schedule(plan, make_schedule(plan)))
        return 0
    library = find_library(earlier[0].library if earlier else given.library, os.environ)
    directory = Path(plans[0].out) if plans[0].variant is None else Path(plans[0].out).parent
    ended_by: AsrSwitchError | None = None
    with (
        _alone(plans[0].allow_concurrent),
        tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
        StopSignals() as stop,
    ):
        clips = [audio.prepare(Path(clip.path), Path(scratch)) for clip in plans[0].clips]
        paths = [make_out_directory(plan.out, resume=bool(earlier)) / LOG_NAME for plan in plans]
        try:
            _run_in_turns(plans, logs, paths, library, clips, stop, console)
        except AsrSwitchError as error:
            ended_by = error
    if ended_by:
        with contextlib.suppress(LogError):  # it may hold nothing at all
            _show_runs(console, directory)
        return _complain(ended_by)
    summaries = _show_runs(console, directory)
    if failures := [failure for summary in summaries for failure in summary.failures]:
        first, count = failures[0], sum(failure.attempt == 1 for failure in failures)
        where = f"iteration {first.iteration}, {first.model}, {first.phase}"
        return _complain(
            AsrSwitchError(f"{count} failure{'s' * (count > 1)}; the first: {where}: {first.message}")
        )
    return _exit_code(summaries, check=given.check)


def _alone(allow_concurrent: bool) -> contextlib.AbstractContextManager[object]:
    """What keeps others from measuring on this machine, unless they are allowed to."""
    return contextlib.nullcontext() if allow_concurrent else MachineLock()


def _run_in_turns(
    plans: Sequence[Plan],
    logs: Sequence[list[Record]],
    paths: Sequence[Path],
    library: Path,
    clips: Sequence[audio.PreparedClip],
    stop: StopSignals,
    console: Console,
) -> None:
    """Run plans stretch by stretch; ``logs`` are their earlier records, and grow where that is looked at."""
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(RunProgress(console, plans, n_cycles_over(logs)))
        runners = []
        for plan, log, path in zip(plans, logs, paths, strict=True):
            writer = stack.enter_context(LogWriter(path, resume=bool(log)))
            observers = [progress.observer(plan), *([log.append] if plan.until_decided else [])]
            runner = Runner(plan, library, clips, writer, stop, observers, earlier=log)
            runners.append(stack.enter_context(runner))
        for run, cycles in take_turns(plans, logs):
            runners[run].run(cycles)


def _options(given: argparse.Namespace) -> Options:
    if given.iters is None:
        raise UsageError("--iters is missing: give a number of iterations, or auto; see --help")
    return Options(
        iterations=given.iters,
        models=given.model,
        audio=given.audio,
        references=given.reference,
        threads=given.threads,
        context=given.context,
        language=given.language,
        strategy=given.strategy,
        max_new_tokens=given.max_new_tokens,
        timeout_s=given.timeout,
        out=given.out,
        preload=given.preload,
        lock=given.lock,
        trim=given.trim,
        sample_hz=given.sample_hz,
        order=given.order,
        seed=given.seed,
        allow_concurrent=given.allow_concurrent,
        allocator=given.allocator,
        memory_limit=given.memory_limit,
        restart_above=given.restart_above,
        switches_per_hour=given.switches_per_hour,
    )


def _earlier(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[Earlier]:
    """The runs to go on with; they go on as they began, so that no other option has a meaning."""
    defaults = vars(parser.parse_args([]))
    for name, value in vars(given).items():
        if value != defaults[name] and name not in ("resume", "check", "dry_run"):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} with --resume: the run goes on as it began; leave {option} out")
    return read_interrupted(Path(given.resume))


def _report(words: Sequence[str]) -> int:
    parser = _Parser(prog="python -m asrswitch report", description="Print the tables of an earlier run.")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's --out directory, or its log")
    parser.add_argument("--memory-limit", metavar="SIZE", help="recommend a strategy for so much memory")
    parser.add_argument(
        "--switches-per-hour", type=float, metavar="N", help="recommend a strategy for so many switches"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit 1 on failures, 3 on a leak, 4 when inconclusive"
    )
    given = parser.parse_args(words)
    need = make_need(given.memory_limit, given.switches_per_hour)
    summaries = _show_runs(_console(), given.run_dir, need)
    return _exit_code(summaries, check=True) if given.check else 0


def _show_runs(console: Console, path: Path, need: Need | None = None) -> list[Summary]:
    """Show a run, or the comparison of those that took turns; ``need`` is what that is to recommend for."""
    logs = [path] if path.is_file() else find_logs(path) or [path / LOG_NAME]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornLineWarning)
        runs = sort_runs([read_log(log) for log in logs])
    summaries = [summarise(records) for records in runs]
    plans = [plan_of(records) for records in runs]
    if len(runs) == 1:
        show(console, render_summary(summaries[0]))
    elif len({plan.strategy for plan in plans}) > 1:
        need = need or Need(plans[0].memory_limit_bytes, plans[0].switches_per_hour)
        comparison = compare_strategies(
            list(zip(plans, summaries, strict=True)), need.memory_limit_bytes, need.switches_per_hour
        )
        show(console, render_strategies(comparison))
    else:
        names = [plan.allocator for plan in plans]
        show(console, render_allocators(compare_allocators(list(zip(names, summaries, strict=True)))))
    parts = [Text(f"warning: {printable(str(warning.message))}", style="yellow") for warning in caught]
    place = f"log: {printable(str(logs[0]))}"
    if len(logs) > 1:
        place = (
            f"logs: {printable(str(path))}/*/{LOG_NAME}; `report {printable(str(path))}/NAME` shows one run"
        )
    show(console, [*parts, Text(place)])
    return summaries


def _bench(words: Sequence[str]) -> int:
    given = _bench_parser().parse_args(words)
    options = BenchOptions(
        models=given.model,
        audio=given.audio,
        threads=given.threads,
        max_new_tokens=given.max_new_tokens,
        repetitions=given.repetitions,
        warmups=given.warmups,
        libraries=given.library,
        timeout_s=given.timeout,
    )
    plan = make_bench_plan(options, os.environ)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(atomic_output(given.out)) if given.out else None
        with (
            _alone(given.allow_concurrent),
            tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
            StopSignals() as stop,
            _step_bar(n_steps(plan)) as progress,
        ):
            started_at = datetime.now()
            measured = measure(plan, Path(scratch), stop, progress)
        report = make_report(plan, measured, started_at)
        if output:
            output.write(WRITERS[given.format](report, _PLAIN_WIDTH).encode())
        elif given.format == "text":
            show(_console(), render_text(report))
        else:
            print(WRITERS[given.format](report, _PLAIN_WIDTH), end="")
    return 0


def _leak_check(words: Sequence[str]) -> int:
    given = _leak_check_parser().parse_args(words)
    options = LeakCheckOptions(
        tool=given.tool,
        library=given.library,
        models=given.model,
        audio=given.audio,
        cycles=given.cycles,
        threads=given.threads,
        max_new_tokens=given.max_new_tokens,
        timeout_s=given.timeout,
        driver=given.driver,
        out=given.out,
    )
    plan = make_leak_check_plan(options, os.environ)
    started_at = datetime.now()
    with (
        _alone(given.allow_concurrent),
        tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
        StopSignals() as stop,
        _step_bar(n_leak_check_steps(plan)) as progress,
    ):
        measured = measure_leaks(plan, Path(scratch), stop, progress)
    report = make_leak_check_report(plan, measured, started_at)
    print(LEAK_CHECK_WRITERS[given.format](report), end="")
    return _leak_check_code(report) if given.check else 0


def _leak_check_code(report: LeakCheckReport) -> int:
    if report.word is Word.LEAK:
        return _LEAK
    if report.library_mistakes:
        return _FAILURE
    return _INCONCLUSIVE if report.word is Word.INCONCLUSIVE else 0


@contextlib.contextmanager
def _step_bar(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error, where that is a terminal; called before each step with what it is."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        completed = itertools.count()

        def update(what: str) -> None:
            progress.update(task, completed=next(completed), description=escape(printable(what)))

        yield update


def _models(words: Sequence[str]) -> int:
    parser = _Parser(prog="python -m asrswitch models", description="Make model files, and look into them.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="convert|synth|show")
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
    given = parser.parse_args(words)
    if given.verb == "show":
        options = MemoryOptions(given.clip, given.context, given.threads, given.max_new_tokens)
        return _show_model(given.file, make_question(options, os.environ), given.json)
    with _raising_on_sigterm(), _transfer_bar() as progress:
        if given.verb == "convert":
            convert(given.checkpoint, given.output, given.type, progress)
        else:
            synthesise(given.output, given.preset, TYPES[given.type], given.seed, progress)
    return 0


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


def _console() -> Console:
    """Standard output; where it is no terminal, wide enough that no figure is broken over two lines."""
    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def _exit_code(summaries: Sequence[Summary], check: bool) -> int:
    if any(summary.failures for summary in summaries):
        return _FAILURE
    words = {summary.word for summary in summaries}
    if not check:
        return 0
    return _LEAK if Word.LEAK in words else _INCONCLUSIVE if Word.INCONCLUSIVE in words else 0


def _bench_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m asrswitch bench",
        description="Measure what this machine can do at best, and each stage of the engine against it.",
    )
    add = parser.add_argument
    add("-m", "--model", action="append", default=[], metavar="[LABEL=]PATH",
        help="repeatable; default: the two embedded ones")  # fmt: skip
    add("--audio", metavar="FILE", help="default: 11 seconds of an embedded sample")
    add("--threads", metavar="N[,N...]", help="default: the physical cores this process may use")
    add("--max-new-tokens", type=int, default=DEFAULT_BENCH_TOKENS, metavar="N", help="default: %(default)s")
    add(
        "-r", "--repetitions", type=int, default=DEFAULT_REPETITIONS, metavar="N", help="default: %(default)s"
    )
    add("--warmups", type=int, default=DEFAULT_WARMUPS, metavar="N",
        help="repetitions before those, which do not count; default: %(default)s")  # fmt: skip
    add("--library", action="append", default=[], metavar="FILE",
        help="another library with the same C interface; give two to compare them, run by run")  # fmt: skip
    add("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S",
        help="for a step; default: %(default)g seconds")  # fmt: skip
    add("--allow-concurrent", action="store_true", help="run beside others that measure here")
    add(
        "--format", choices=WRITERS, default="text", help="default: %(default)s; json holds every measurement"
    )
    add("--out", metavar="FILE", type=Path, help="instead of standard output")
    return parser


def _leak_check_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m asrswitch leak-check",
        description="Load, transcribe, unload under valgrind: what is lost in each cycle, and where it was "
        "allocated. Two runs of different length tell what grows from what is made once.",
    )
    add = parser.add_argument
    add("--tool", choices=[tool.value for tool in Tool], default=Tool.MEMCHECK.value,
        help="memcheck: lost blocks and errors; massif: the heap over time; dhat: who allocates how much; "
        "default: %(default)s")  # fmt: skip
    add("--library", metavar="FILE", help="another library with the same C interface")
    add("-m", "--model", action="append", default=[], metavar="LABEL=PATH",
        help="repeatable; default: the two embedded ones")  # fmt: skip
    add("--audio", metavar="FILE", help="default: the embedded telephone number")
    add("--cycles", type=int, default=DEFAULT_CYCLES, metavar="N",
        help="of each model, in the longer run; default: %(default)s")  # fmt: skip
    add("--threads", type=int, default=DEFAULT_THREADS, metavar="N", help="default: %(default)s")
    add(
        "--max-new-tokens",
        type=int,
        default=DEFAULT_LEAK_CHECK_TOKENS,
        metavar="N",
        help="default: %(default)s",
    )
    add("--driver", metavar="FILE",
        help="what makes the cycles, not our worker: FILE N MODEL_A MODEL_B CLIP, a line each")  # fmt: skip
    add("--timeout", type=float, default=DEFAULT_LEAK_CHECK_TIMEOUT_S, metavar="S",
        help="for a phase; default: %(default)g seconds")  # fmt: skip
    add(
        "--format",
        choices=LEAK_CHECK_WRITERS,
        default="text",
        help="default: %(default)s; json holds every site",
    )
    add("--allow-concurrent", action="store_true", help="run beside others that measure here")
    add("--out", metavar="DIR", help="keep valgrind's own files there")
    add(
        "--check",
        action="store_true",
        help="exit 3 on a leak, 1 on errors in the library, 4 when inconclusive",
    )
    return parser


def _run_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m asrswitch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        # Wide enough for the longest option, so that each has one line and all fit a screen.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=25),
        usage="%(prog)s --iters N [options]",
    )
    add = parser.add_argument
    several: Any = {"action": "append", "default": []}
    add("--iters", metavar="N", help="turns of each model; auto[:500|:30m] until decided")
    add("--model", **several, metavar="LABEL=PATH", help="repeatable; default: the two embedded ones")
    add("--audio", **several, metavar="FILE", help="repeatable; default: an embedded telephone number")
    add("--reference", **several, metavar="TEXT", help="or @FILE, one a clip; default: .txt beside it")
    add("--language", metavar="NAME", help="force it: Chinese, zh, English, en, and so on")
    add("--threads", type=int, metavar="N", help="default: the physical cores this process may use")
    add("--context", type=int, metavar="TOKENS", help="size of the KV cache; default: the model's")
    tokens = DEFAULT_MAX_NEW_TOKENS
    add("--max-new-tokens", type=int, default=tokens, metavar="N", help="default: %(default)s")
    strategies, allocators = [*(s.value for s in Strategy), ALL], [*ALLOCATORS, ALL]
    add("--strategy", choices=strategies, default="reload", metavar="NAME",
        help="reload (default), restart, resident, isolate, all")  # fmt: skip
    add("--allocator", choices=allocators, default=ALLOCATORS[0], metavar="NAME",
        help=", ".join(allocators))  # fmt: skip
    add("--memory-limit", metavar="SIZE", help="of a worker, as 300M or 2G; models are held to it")
    add("--restart-above", metavar="SIZE", help="fresh worker for larger models; default: if tight")
    add("--switches-per-hour", type=float, metavar="N", help="what to recommend a strategy for")
    add("--order", choices=[o.value for o in Order], default=Order.SMALL_FIRST.value, metavar="NAME",
        help="small-first (default), given, or shuffle by --seed")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of shuffle; default: %(default)s")
    add("--allow-concurrent", action="store_true", help="run beside others that measure here")
    add("--preload", action="store_true", help="read the whole model file ahead while loading")
    add("--lock", action="store_true", help="pin the weights in memory")
    add("--trim", choices=[t.value for t in Trimming], default=Trimming.PROBE.value, metavar="NAME",
        help="after unloads: probe a copy (default), always, never")  # fmt: skip
    add("--sample-hz", type=float, default=DEFAULT_SAMPLE_HZ, metavar="N",
        help="samples of memory between readings; default: %(default)g")  # fmt: skip
    add("--out", metavar="DIR", help="for the log; default: runs/<time>")
    add("--resume", metavar="DIR", help="go on with the interrupted run of that --out")
    add("--library", metavar="FILE", help="another library with the same C interface")
    timeout = DEFAULT_TIMEOUT_S
    add("--timeout", type=float, default=timeout, metavar="S", help="for a phase; default: %(default)g s")
    add("--check", action="store_true", help="exit 3 on a leak, 4 when inconclusive")
    add("--dry-run", action="store_true", help="print the schedule and stop")
    add("--version", action="version", version=f"asrswitch {__version__}", help="print it and stop")
    return parser
