from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asrswitch.worker_process import StopSignals, WorkerProcess
from helpers.commands import load
from support import ROOT, alive, wait_for

ALLOWED = {"cffi", "_cffi_backend", "pycparser"}
OURS = {"asrswitch", "asrswitch.native"}


def test_the_measured_process_imports_only_the_standard_library_and_cffi() -> None:
    # what the interpreter's own start brings in, such as an editable install's finders, is not our choice
    code = "import sys; before = {*sys.modules}; import asrswitch.worker.__main__; "
    code += "print('\\n'.join({*sys.modules} - before))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {name for name in loaded.stdout.split() if name.split(".")[0] not in ALLOWED}
    ours = {name for name in names if name.split(".")[0] == "asrswitch"}
    assert {name for name in ours if not name.startswith("asrswitch.worker")} == OURS
    assert {name.split(".")[0] for name in names - ours} <= set(sys.stdlib_module_names)


def speak(library: Path, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "asrswitch.worker", str(library)]
    said = "".join(json.dumps(command) + "\n" for command in commands)
    done = subprocess.run(
        words, cwd=ROOT, input=said, capture_output=True, text=True, timeout=30, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_of_any_length_is_read(tmp_path: Path) -> None:
    hello = '{"pid": 1, "malloc": null, "capabilities": {"streams": true, "loads": true, "restarts": true,'
    hello += '"forces_language": true, "runs_processes": false}, "more": "'
    program = tmp_path / "worker.py"
    program.write_text(
        f"import sys\nsys.stdout.write({hello!r} + 'x' * (16 << 20) + '\"}}\\n')\n"
        'sys.stdout.write(\'{"said": 1}\\n{"said"\')\nsys.stdout.flush()\n'
        "sys.stdin.readline()\nprint(': 2}', flush=True)\nsys.stdin.readline()\n"
    )
    with StopSignals() as stop:
        worker = WorkerProcess([sys.executable, "-S", str(program)], tmp_path / "log", stop, 60)
        assert worker.hello["pid"] == 1
        said = [worker.request({"command": "state"}, dict[str, int], 20) for _ in range(2)]
        assert said == [{"said": 1}, {"said": 2}]
        worker.close()


def test_a_library_that_prints_does_not_disturb_the_protocol(
    fake_library: Path, script: Callable[..., str]
) -> None:
    model = script("a", text="ok", noise=1)
    hello, loaded, spoken, unloaded = speak(
        fake_library, load(model), {"command": "transcribe", "audio": "/a.wav"}, {"command": "unload"}
    )
    assert hello["pid"]
    assert loaded["started_ns"] <= loaded["ended_ns"] <= spoken["submitted_ns"] <= spoken["returned_ns"]
    assert spoken["pieces"][0][1] == "ok"
    assert spoken["submitted_ns"] <= spoken["pieces"][0][0] <= spoken["returned_ns"]
    assert unloaded["ended_ns"] >= spoken["returned_ns"]


def test_the_heap_is_accounted_for_after_an_error_too(fake_library: Path, script: Callable[..., str]) -> None:
    model = script("a", error="transcribe", error_leak=50_000)
    loaded, failed = speak(fake_library, load(model), {"command": "transcribe", "audio": "/a.wav"})[1:]
    assert failed["error"] == "told to fail"
    assert (
        failed["malloc"]["held_bytes"] - loaded["malloc"]["held_bytes"] >= 49_000
    )  # malloc's own blocks move


def test_a_character_split_over_callbacks_belongs_to_the_one_that_completes_it(
    fake_library: Path, script: Callable[..., str]
) -> None:
    model = script("a", text="零九", pieces=2)  # six bytes: 2 + 2 + 2
    spoken = speak(fake_library, load(model), {"command": "transcribe", "audio": "/a.wav"})[2]
    assert [text for _, text in spoken["pieces"]] == ["", "零", "九"]


def test_the_words_given_to_the_library(fake_library: Path, script: Callable[..., str]) -> None:
    model = script("a", text="OPTIONS", pieces=4000)
    options = load(model, context=700, language="Chinese")
    spoken = speak(fake_library, options, {"command": "transcribe", "audio": "/a.wav"})[2]
    given = spoken["pieces"][0][1]
    for words in (
        f"[-m][{model.partition('=')[2]}]",
        "[-n][3]",
        "[--temp][0]",
        "[--max_new_tokens][9]",
        "[--multimedia_file_tags][{{][}}]",
        "[-l][700]",
        "[--set][language][Chinese]",
    ):
        assert words in given
    assert "preload" not in given and "lock" not in given  # other libraries do not know these words
    options = load(model, preload=True, lock=True)
    spoken = speak(fake_library, options, {"command": "transcribe", "audio": "/a.wav"})[2]
    assert spoken["pieces"][0][1].endswith("[--preload][--lock]")
    model = script("b", text="INPUT", pieces=4000)
    spoken = speak(fake_library, load(model), {"command": "transcribe", "audio": "/a.wav"})[2]
    assert spoken["pieces"][0][1] == "{{audio:/a.wav}}"


def test_the_heap_is_accounted_for(fake_library: Path, script: Callable[..., str]) -> None:
    model = script("a", text="x", leak=50_000)
    cycle = [load(model), {"command": "transcribe", "audio": "/a.wav"}, {"command": "unload"}]
    replies = speak(fake_library, *cycle * 20)
    held = [reply["malloc"]["held_bytes"] for reply in replies[3::3]]
    steps = [after - before for before, after in itertools.pairwise(held[10:])]  # the interpreter's own first
    assert len(steps) == 9
    # What Python itself holds at a reading may take turns between two levels.
    assert all(48_000 < step < 52_000 for step in steps), steps
    assert 49_800 < sum(steps) / len(steps) < 50_200, steps


def test_the_worker_dies_with_its_runner(
    fake_library: Path, script: Callable[..., str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    model = script("a", hang="load", ready=ready)
    line = json.dumps(load(model)).encode() + b"\n"
    code = (
        "import subprocess, sys, time\n"
        f"w = subprocess.Popen([sys.executable, '-m', 'asrswitch.worker', {str(fake_library)!r}],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)\n"
        f"w.stdin.write({line!r}); w.stdin.flush()\n"
        "print(w.pid, flush=True); time.sleep(60)\n"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert runner.stdout
    worker = int(runner.stdout.readline())
    wait_for(ready.exists)
    runner.kill()
    runner.communicate()
    wait_for(lambda: not alive(worker))
