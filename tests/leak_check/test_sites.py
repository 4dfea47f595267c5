"""Whose a site is, and what is called a leak."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.leak_check.sites import (
    Allocation,
    Frame,
    Holder,
    Stack,
    Tally,
    before_python,
    compare,
    holder_of,
    judge,
)
from asrswitch.stats.series import Word

LIBRARY = Path("/opt/venv/lib/python3.11/site-packages/asrswitch/native/libchatllm.so")
MALLOC = Frame(1, "malloc", "/usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so")
STRDUP = Frame(2, "strdup", "/usr/lib/x86_64-linux-gnu/libc.so.6")
NEW = Frame(3, "operator new", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30")
OURS = Frame(4, "chatllm_start", str(LIBRARY))
BESIDE = Frame(5, "ggml_init", str(LIBRARY.with_name("libggml.so")))
OPENMP = Frame(6, "GOMP_parallel", "/usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0")
PYTHON = Frame(7, "PyObject_Malloc", "/usr/lib/libpython3.11.so.1.0")
PROGRAM = Frame(8, "_PyEval_EvalFrameDefault", "/usr/bin/python3.12")
MODULE = Frame(
    9, "b_dlopen", "/opt/venv/lib/python3.11/site-packages/_cffi_backend.cpython-311-x86_64-linux-gnu.so"
)
LOADER = Frame(10, "call_init", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")


@pytest.mark.parametrize(
    ("stack", "holder"),
    [
        ((MALLOC, OURS, MODULE, PYTHON), Holder.LIBRARY),
        ((MALLOC, STRDUP, OURS, MODULE), Holder.LIBRARY),
        ((MALLOC, NEW, OURS, MODULE), Holder.LIBRARY),
        ((MALLOC, BESIDE, OURS, MODULE), Holder.OTHER),
        ((MALLOC, OPENMP, OURS, PYTHON), Holder.OTHER),
        ((MALLOC, PYTHON, MODULE, OURS, PYTHON), Holder.PYTHON),  # in a callback
        ((MALLOC, PROGRAM), Holder.PYTHON),
        ((MALLOC, LOADER, MODULE, PYTHON), Holder.PYTHON),
        ((MALLOC, Frame(11)), Holder.OTHER),
    ],
)
def test_the_innermost_frame_beyond_the_runtime_decides(stack: Stack, holder: Holder) -> None:
    assert holder_of(stack, LIBRARY) is holder


def test_a_library_named_through_a_link_is_found(tmp_path: Path) -> None:
    real = tmp_path / "real" / "libreal.so"
    real.parent.mkdir()
    real.touch()
    link = tmp_path / "lib.so"
    link.symlink_to(real)
    for path in (real, link):
        assert holder_of((MALLOC, Frame(1, "f", str(path))), link) is Holder.LIBRARY


def test_a_library_beside_the_interpreter_leaves_it_its_own() -> None:
    for path in (PYTHON, Frame(12, "ffi_call", "/usr/lib/libffi.so.8.1.2")):
        assert holder_of((MALLOC, path), Path("/usr/lib/libchatllm.so")) is Holder.PYTHON


def test_a_stack_is_cut_where_python_called() -> None:
    assert before_python((MALLOC, STRDUP, OURS, MODULE, PYTHON), LIBRARY) == (MALLOC, STRDUP, OURS)
    assert before_python((MALLOC, OURS), LIBRARY) == (MALLOC, OURS)


def allocation(frame: Frame, n_bytes: int, n_blocks: int) -> Allocation:
    return Allocation((MALLOC, frame), Tally(n_bytes, n_blocks), frozenset({"definitely lost"}))


def verdict(short: list[Allocation], long: list[Allocation], extra_cycles: int = 4) -> Word:
    return judge(compare(short, long, extra_cycles, lambda stack: holder_of(stack, LIBRARY)))


@given(
    once=st.integers(1, 1 << 40),
    each=st.integers(1, 1 << 30),
    short=st.integers(1, 50),
    extra=st.integers(1, 50),
)
def test_what_grows_is_a_leak_and_what_stays_is_not(once: int, each: int, short: int, extra: int) -> None:
    def run(cycles: int, leaking: Frame) -> list[Allocation]:
        return [allocation(BESIDE, once, 1), allocation(leaking, each * cycles, cycles)]

    for leaking, word in ((OURS, Word.LEAK), (OPENMP, Word.LEAK), (PYTHON, Word.FLAT)):
        assert verdict(run(short, leaking), run(short + extra, leaking), extra) is word
    sites = compare(
        run(short, OURS), run(short + extra, OURS), extra, lambda stack: holder_of(stack, LIBRARY)
    )
    assert [(site.bytes_per_cycle, site.blocks_per_cycle) for site in sites] == [(each, 1), (0, 0)]
    assert verdict(run(short, OURS), run(short, OURS), extra) is Word.FLAT


def test_growth_in_fewer_cycles_is_undecided() -> None:
    assert verdict([], [allocation(OURS, 4096, 1)]) is Word.INCONCLUSIVE
    assert verdict([allocation(OURS, 16, 1)], [allocation(OURS, 64, 1)]) is Word.INCONCLUSIVE
    assert verdict([allocation(OURS, 16, 1)], []) is Word.FLAT


def test_one_stack_in_several_records_is_one_site() -> None:
    parts = [allocation(OURS, 10, 1), allocation(OURS, 20, 2)]
    (site,) = compare([], parts, 1, lambda stack: holder_of(stack, LIBRARY))
    assert site.long == Tally(30, 3)
