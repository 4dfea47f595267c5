"""What a run of a backend left in its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asrswitch.records import Record, read_log


def log_of(tmp_path: Path, out: str = "out") -> list[Record]:
    return read_log(tmp_path / out / "run.jsonl")


def summary_of(tmp_path: Path, out: str = "out") -> dict[str, Any]:
    document = json.loads((tmp_path / out / "summary.json").read_text(encoding="utf-8"))
    summary = document["runs"][0]["summary"]
    assert isinstance(summary, dict)
    return summary
