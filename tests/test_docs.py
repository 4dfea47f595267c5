"""What the pages in Markdown say: links lead somewhere, quoted messages and options exist, scripts run."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from asrswitch.cli import main
from asrswitch.compare.bounds import parse_bounds
from asrswitch.memory.probe import Memory
from support import ROOT, wait_for

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("experiments/*/README.md"),
        ROOT / "chatllm.cpp" / "README.md",
    ]
)
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
USERS_PAGES = ["README.md", *(name for name in PAGE_NAMES if name.startswith("docs/"))]
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
DEPLOYMENT = ROOT / "docs" / "deployment.md"
VERBS = ("run", "transcribe", "bench", "leak-check", "report", "compare", "models", "doctor")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FEWEST_LETTERS = 10  # of a quoted message that are fixed: less would be found anywhere


def _without_code(text: str) -> str:
    """The text less its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The names of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def test_all_pages_are_looked_at() -> None:
    assert {"README.md", "docs/method.md", "experiments/speed/README.md"} <= set(PAGE_NAMES)


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(target)
        elif anchor:
            file = file / "README.md" if file.is_dir() else file
            if anchor not in _anchors(file):
                broken.append(target)
    assert not broken


def test_broken_links_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One & two\n\n```\n# no heading\n```\n\n## `three`: [four](five.md)\n", encoding="utf-8"
    )
    assert _anchors(page) == {"one--two", "three-four"}


def _quoted_messages() -> list[str]:
    text = _without_code(TROUBLESHOOTING.read_text(encoding="utf-8"))
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    return list(dict.fromkeys(quoted for heading in headings for quoted in re.findall(r"`([^`]+)`", heading)))


def test_there_are_quoted_messages() -> None:
    assert len(_quoted_messages()) > 40


@pytest.mark.parametrize("message", _quoted_messages())
def test_quoted_message_is_printed(message: str) -> None:
    """In the order of its fixed words, with anything where … stands, it is a message of the sources."""
    fixed = message.split("…")
    assert sum(letter.isalpha() for letter in "".join(fixed)) >= FEWEST_LETTERS
    pattern = re.compile(".*".join(re.escape(part) for part in fixed), re.DOTALL)
    assert any(pattern.search(known) for known in MESSAGES), f"no source file prints {message!r}"


def test_invented_message_would_be_found() -> None:
    assert not any("the frobnicator is" in known for known in MESSAGES)
    assert any(re.search(r"no answer within .* s; the worker was killed", known) for known in MESSAGES)


def _python_messages(source: str) -> Iterator[str]:
    """String literals, each as one text with … for what is filled in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.replace("{}", "…")
        elif isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield "".join(parts).replace("{}", "…")


def _cpp_messages(source: str) -> Iterator[str]:
    """Likewise, of literals that one statement puts together."""
    source = re.sub(r"^\s*//.*$", "", source, flags=re.MULTILINE)
    message, end = "", 0
    for literal in re.finditer(r'(?<!\')"((?:[^"\\\n]|\\.)*)"', source):
        between = source[end : literal.start()]
        if ";" in between or not message:
            yield message
            message = ""
        elif between.strip():
            message += "…"
        message += literal[1].replace('\\"', '"')
        end = literal.end()
    yield message


MESSAGES = [
    *(
        message
        for file in sorted((ROOT / "asrswitch").rglob("*.py"))
        for message in _python_messages(file.read_text(encoding="utf-8"))
    ),
    *(
        message
        for file in sorted((ROOT / "chatllm.cpp" / "src").rglob("*.cpp"))
        for message in _cpp_messages(file.read_text(encoding="utf-8"))
    ),
]


def _commands(page: Path) -> list[list[str]]:
    """The command lines of asrswitch on a page, in blocks of code and within lines, as words."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _without_code(text))]
    found = []
    for line in lines:
        for part in re.split(r"&&|;|\||\$\(", line):
            _, program, rest = part.partition("python -m asrswitch")
            if program and (rest == "" or rest[0] == " "):
                with contextlib.suppress(ValueError):  # a quotation mark that the split has cut off
                    found.append(shlex.split(rest, comments=True))
    return found


def _help(verb: str, more: str = "") -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main([verb, *([more] if more else []), "--help"]) == 0
    return output.getvalue()


@pytest.mark.parametrize("name", USERS_PAGES)
def test_options_of_commands_exist(name: str) -> None:
    unknown = []
    for words in _commands(ROOT / name):
        verb = words[0] if words and words[0] in VERBS else "run"
        more = words[1] if verb == "models" and len(words) > 1 else ""
        known = _help(verb, more)
        for word in words:
            option = word.partition("=")[0]
            if re.fullmatch(r"-[a-z]|--[a-z][a-z-]+", option) and option not in re.findall(
                r"--?[\w-]+", known
            ):
                unknown.append(f"{option} of {verb}")
    assert not unknown


def test_bounds_of_fail_on_are_understood() -> None:
    bounds = [
        words[words.index("--fail-on") + 1]
        for name in USERS_PAGES
        for words in _commands(ROOT / name)
        if "--fail-on" in words
    ]
    assert bounds
    for expression in bounds:
        parse_bounds(expression)


def test_a_server_is_watched_and_judged(tmp_path: Path) -> None:
    watch, judge = re.findall(
        r"^```python\n(.*?)^```", DEPLOYMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "watch.py").write_text(watch, encoding="utf-8")
    (tmp_path / "judge.py").write_text(judge, encoding="utf-8")
    log = tmp_path / "log"
    server = subprocess.Popen([sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(60)"],
                              stdout=subprocess.PIPE)  # fmt: skip
    with server:
        try:
            assert server.stdout
            server.stdout.readline()
            words = [sys.executable, "watch.py", str(server.pid), "log", "0.01"]
            watcher = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT)
            wait_for(lambda: log.is_file() and log.read_bytes().count(b"\n") >= 20)
        finally:
            server.kill()
    assert watcher.wait(20) == 0, "it ends with the server"
    assert _judged(tmp_path).startswith("flat: no growth beyond the tolerances; ")
    _let_grow(log)
    said = _judged(tmp_path)
    assert said.startswith("leak: ")
    assert "held by: anonymous memory; readings until the limit: " in said


def _judged(directory: Path) -> str:
    command = [sys.executable, "judge.py", "log", str(1 << 30)]
    return subprocess.run(
        command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout


def _let_grow(log: Path) -> None:
    """Make each reading 1 MiB larger than the one before."""
    lines = []
    for index, line in enumerate(log.read_bytes().splitlines()):
        reading = msgspec.json.decode(line, type=Memory)
        more = index << 20
        reading = msgspec.structs.replace(
            reading,
            rss_bytes=reading.rss_bytes + more,
            anonymous_bytes=reading.anonymous_bytes + more,
        )
        lines.append(msgspec.json.encode(reading) + b"\n")
    log.write_bytes(b"".join(lines))
