from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.memory.budget import Source, count_kills, says_out_of_memory, sources, weigh
from asrswitch.memory.cgroup import ControlGroup
from asrswitch.memory.probe import Memory

READING = Memory(
    rss_bytes=30,
    pss_bytes=None,
    uss_bytes=None,
    anonymous_bytes=20,
    file_bytes=10,
    swap_bytes=0,
    peak_rss_bytes=30,
    peak_since="reading",
    source="status",
    mappings=None,
    threads=1,
    descriptors=None,
)

all_sources = st.lists(
    st.integers(1, 1000).flatmap(
        lambda total: st.builds(
            Source,
            name=st.sampled_from("abc"),
            total_bytes=st.just(total),
            left_bytes=st.integers(0, total),
        )
    ),
    max_size=3,
)


def test_what_limits_a_process() -> None:
    assert sources(READING, 1000, None) == []
    reading = msgspec.structs.replace(
        READING, available_bytes=600, cgroup=ControlGroup(100, None, 400, left_bytes=350)
    )
    assert sources(reading, 1000, 50) == [
        Source("the machine", 1000, 600),
        Source("the control group", 400, 350),
        Source("the memory limit", 50, 20),
    ]
    assert sources(reading, 1000, 10)[-1] == Source("the memory limit", 10, 0)  # it has more already
    unlimited = msgspec.structs.replace(reading, cgroup=ControlGroup(100, None, None))
    assert [source.name for source in sources(unlimited, 1000, None)] == ["the machine"]


@given(st.integers(0, 1000), all_sources)
def test_a_need_fits_where_every_source_has_it_left(need: int, found: list[Source]) -> None:
    weighed = weigh(need, found)
    assert weighed.fits == all(need <= source.left_bytes for source in found)
    if not weighed.fits:
        assert weighed.tightest and weighed.tightest.left_bytes < need  # the one to name in a refusal


@pytest.mark.parametrize(("need", "pressure"), [(0, 0.4), (400, 0.8), (600, 1.0), (700, 1.1)])
def test_pressure_is_of_the_fullest_source(need: int, pressure: float) -> None:
    found = [Source("wide", 10_000, 9_000), Source("narrow", 1000, 600)]
    assert weigh(need, found).pressure == pytest.approx(pressure)
    assert weigh(need, found).fits == (pressure <= 1)
    assert weigh(need, []).pressure == 0 and weigh(need, []).fits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"terminate called after throwing an instance of 'std::bad_alloc'", True),
        (b"MemoryError", True),
        (b"a.bin: cannot be mapped (Cannot allocate memory)", True),
        (b"Out of memory: free memory or use a smaller model", True),
        (b"a.bin: no such file", False),
        (b"", False),
    ],
)
def test_what_tells_that_an_allocation_failed(text: bytes, expected: bool) -> None:
    assert says_out_of_memory(text) == expected


def test_the_kernels_count_of_kills(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\noom_kill_other 9\n")
    assert count_kills(tmp_path) == 3
    assert count_kills(tmp_path / "nowhere") == 0
    (tmp_path / "vmstat").write_text("pgfault 12\n")
    assert count_kills(tmp_path) == 0
