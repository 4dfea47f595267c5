"""The examples of docs/python-api.md give what stands below them."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
import soundfile

from asrswitch.audio import SAMPLE_RATE
from asrswitch.catalogue import find_model
from support import ROOT
from transcription.speech import SAMPLES, spoken

TEXT = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", TEXT, re.DOTALL | re.MULTILINE)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == TEXT.count("```python") >= 5
    assert sum(bool(output) for _, output in EXAMPLES) == TEXT.count("```text")


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_examples(code: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = find_model("digits-large")
    assert model
    shutil.copy(model, tmp_path / "model.bin")
    shutil.copy(SAMPLES / "phone-en.wav", tmp_path / "a.wav")
    soundfile.write(tmp_path / "long.flac", spoken("phone-en", "phone-zh", pause_s=0.2), SAMPLE_RATE)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/python-api.md", "exec"), {})
    assert printed.getvalue() == output
