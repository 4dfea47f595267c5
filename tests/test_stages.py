"""The engine's account of its stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.stages import Account, Stage, StatisticsError, parse_account
from helpers.accounts import accounts


def written(account: Account) -> list[str]:
    lines = []
    for stage in account.stages:
        operations = "".join(f", {count} operations {kind}" for kind, count in stage.operations.items())
        size = f", {stage.bytes} bytes" if stage.bytes else ""
        lines.append(f"stage {stage.name}: {stage.ms:.3f} ms{operations}{size}")
    lines.append(
        f"tokens: generated {account.generated_tokens}, prompt {account.prompt_tokens}, "
        f"audio {account.audio_tokens}"
    )
    return [*lines, f"audio: {account.audio_s:.2f} s"]


@given(accounts)
def test_what_is_written_is_read(account: Account) -> None:
    assert parse_account(written(account)) == account


def test_lines_as_the_engine_prints_them() -> None:
    account = parse_account(
        [
            "kernels: avx512, threads: 2",
            "stage mel: 1.5 ms",
            "stage convolutions: 123.456 ms, 46300000000 operations bf16, 8294400 bytes",
            "stage encoder: 45.123 ms, 50123456789 operations int8, 712345678 operations f32, 61000000 bytes",
            "stage first_token: 7 ms, 335000000 bytes",
            "stage decode: 300.0 ms, 5000000000 bytes",
            "tokens: generated 48, prompt 158, audio 143",
            "audio: 11.00 s",
        ]
    )
    assert [stage.name for stage in account.stages] == [
        "mel", "convolutions", "encoder", "first_token", "decode"
    ]  # fmt: skip
    encoder = account.stage("encoder")
    assert encoder == Stage("encoder", 45.123, {"int8": 50123456789, "f32": 712345678}, 61000000)
    assert [stage.name for stage in account.to_first_token()][-1] == "first_token"
    assert len(account.to_first_token()) == 4
    assert (account.audio_tokens, account.prompt_tokens, account.generated_tokens) == (143, 158, 48)
    assert account.audio_s == 11.0


def test_the_same_kind_told_twice_adds_up() -> None:
    line = "stage prefill: 1.0 ms, 3 operations int8, 4 operations f32, 5 operations int8"
    assert parse_account([line]).stages[0].operations == {"int8": 8, "f32": 4}


@given(st.lists(st.text()))
def test_foreign_lines_give_an_empty_account(lines: list[str]) -> None:
    foreign = [line for line in lines if not line.startswith(("stage ", "tokens: ", "audio: "))]
    assert parse_account(foreign) == Account()


def test_lines_of_chatllm_cpp_give_an_empty_account() -> None:
    lines = [
        "prompt eval time =  120.00 ms /   158 tokens",
        "eval time = 400.00 ms / 48 tokens",
        "stage 1: go",
    ]
    assert parse_account(lines) == Account()


@pytest.mark.parametrize(
    "line",
    [
        "stage mel",
        "stage mel: ms",
        "stage mel: -1 ms",
        "stage mel: 1e3 ms",
        "stage mel: nan ms",
        "stage mel: 1.0 ms, 5 bytes, 4 operations f32",
        "stage mel: 1.0 ms, 5 operations int4",
        "stage mel: 1.0 ms, 5.5 operations f32",
        "stage mel: 1.0 ms, 5 bytes, 5 bytes",
        "stage mel: 1.0 ms and more",
        "stage mel: ١ ms",
        f"stage mel: {'9' * 400} ms",
        f"stage mel: 1.0 ms, {'9' * 30} bytes",
        f"stage mel: 1.0 ms, {'9' * 5000} operations f32",
    ],
)
def test_a_stage_that_breaks_the_grammar_is_refused(line: str) -> None:
    with pytest.raises(StatisticsError, match="stage's line"):
        parse_account([line])


def test_a_stage_told_twice_is_refused() -> None:
    with pytest.raises(StatisticsError, match="twice"):
        parse_account(["stage mel: 1.0 ms", "stage mel: 2.0 ms"])
