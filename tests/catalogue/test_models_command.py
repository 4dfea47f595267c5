"""`models fetch` and `models list` from outside: real processes, which are killed, limited and misled."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fake_hub import Hub, serving

from support import ROOT, wait_for

pytestmark = pytest.mark.slow

# Of the real catalogue: it states no sum for this file, so that the hub's counts and any content will do.
REPOSITORY, FILE = "Luigi/Qwen3-ASR-0.6B-chatllm-quantized", "qwen3-asr-0.6b-q4_0.bin"
# What arrives is written down in pieces of 10 MiB (huggingface_hub).
CONTENT = os.urandom(1 << 20) * 24


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        server.add(REPOSITORY, "main", FILE, CONTENT)
        yield server


@pytest.fixture
def environ(hub: Hub, tmp_path: Path) -> dict[str, str]:
    places = {"HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    return {name: value for name, value in os.environ.items() if name != "ASRSWITCH_MODELS"} | places


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "asrswitch", "models", *words]


def models(environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_model_is_fetched_and_listed(environ: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "asrswitch" / "models" / FILE
    done = models(environ, "fetch", "0.6b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{target}: {len(CONTENT):,} bytes, Apache-2.0, SHA-256 ")
    assert target.read_bytes() == CONTENT
    listed = {model["where"]: model for model in json.loads(models(environ, "list", "--json").stdout)}
    assert listed[str(target)] == {
        "name": "0.6B",
        "type": "q4_0",
        "state": "here",
        "bytes": len(CONTENT),
        "licence": "Apache-2.0",
        "where": str(target),
    }
    lines = models(environ, "list").stdout.splitlines()
    assert any(line.split() == ["0.6B", "q4_0", "here", f"{len(CONTENT):,}", "Apache-2.0", str(target)]
               for line in lines)  # fmt: skip


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_fetch_that_was_stopped_goes_on_where_it_was(
    number: signal.Signals, ends: int, environ: dict[str, str], hub: Hub, tmp_path: Path
) -> None:
    hub.stall_after = 15 << 20
    folder = tmp_path / "asrswitch" / "models"
    kept = folder / f".{FILE}.download"
    with subprocess.Popen(
        command("fetch", "0.6B"), cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: kept.exists() and kept.stat().st_size == 10 << 20)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == ends
    assert len(said.splitlines()) <= 1 and "Traceback" not in said
    assert [path.name for path in folder.iterdir()] == [kept.name]
    hub.stall_after, hub.ranges = None, []
    hub.go_on.set()
    assert models(environ, "fetch", "0.6B").returncode == 0
    assert hub.ranges == [f"bytes={10 << 20}-"]
    assert (folder / FILE).read_bytes() == CONTENT
    assert not kept.exists()


def test_two_that_fetch_the_same_do_not_mix(environ: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    hub.stall_after = 15 << 20
    kept = tmp_path / "asrswitch" / "models" / f".{FILE}.download"
    with subprocess.Popen(command("fetch", "0.6B"), cwd=ROOT, env=environ, stdout=subprocess.PIPE) as first:
        wait_for(lambda: kept.exists() and kept.stat().st_size > 0)
        second = models(environ, "fetch", "0.6B")
        hub.go_on.set()
        first.communicate(timeout=20)
    assert first.returncode == 0
    assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
    assert "another process is fetching it" in second.stderr
    assert kept.with_name(FILE).read_bytes() == CONTENT


def test_a_file_size_limit_is_one_line(environ: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        command("fetch", "0.6B"),
        cwd=ROOT,
        env=environ,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, 12 << 20)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "File too large); make room" in done.stderr


def test_a_wrong_sum_is_one_line_and_leaves_nothing(
    environ: dict[str, str], hub: Hub, tmp_path: Path
) -> None:
    hub.sums[f"{REPOSITORY}/resolve/main/{FILE}"] = "0" * 64
    done = models(environ, "fetch", "0.6B")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert f"the hub's is {'0' * 64}; it was removed" in done.stderr
    assert list((tmp_path / "asrswitch" / "models").iterdir()) == []


def test_the_pinned_checkpoint_is_not_taken_from_a_mirror_that_has_another(
    environ: dict[str, str], hub: Hub, tmp_path: Path
) -> None:
    hub.add("Qwen/Qwen3-ASR-0.6B", "5eb144179a02acc5e5ba31e748d22b0cf3e303b0", "config.json", b"{}")
    done = models(environ, "fetch", "Qwen3-ASR-0.6B")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "2 bytes arrived, 6,193 were announced" in done.stderr


@pytest.mark.parametrize(
    "setting", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}], ids=lambda s: next(iter(s))
)
def test_offline_it_says_which_file_to_put_where(
    setting: dict[str, str], environ: dict[str, str], tmp_path: Path
) -> None:
    done = models(environ | setting, "fetch", "Qwen3-ASR-0.6B")
    assert done.returncode == 1
    assert list((tmp_path / "asrswitch" / "models").iterdir()) == []  # of a folder in which nothing came
    done = models(environ | setting, "fetch", "0.6B")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert f"download https://huggingface.co/{REPOSITORY}/resolve/main/{FILE}" in done.stderr
    assert f"put it at {tmp_path / 'asrswitch' / 'models' / FILE}" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fetch",), 2, "NAME"),
        (("fetch", "9B"), 2, "not in the catalogue"),
        (("fetch", "0.6B", "--type", "q9"), 2, "q9"),
        (("fetch", "0.6B", "--dest", "/dev/null/x"), 2, "--dest"),
        (("fetch", "0.6B", "--dest", "x" * 300), 2, "--dest"),
        (("fetch", "0.6B", "--dest", "/dev/null"), 2, "/dev/null: is a file; choose another place by --dest"),
        (("list", "--nothing"), 2, "--nothing"),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, tuple) else None,
)
def test_wrong_usage_is_one_line(
    words: tuple[str, ...], code: int, says: str, environ: dict[str, str]
) -> None:
    done = models(environ, *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
    assert says in done.stderr


def test_nothing_but_a_fetch_imports_the_hubs_library() -> None:
    code = "import sys, asrswitch.commands.models, asrswitch.plan; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
