"""valgrind's files: what is in them is found, and what is cut short or damaged is told in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.leak_check.dhat import parse_dhat, read_dhat
from asrswitch.leak_check.mappings import Mappings
from asrswitch.leak_check.massif import Snapshot, Turn, make_curve, parse_massif, read_massif
from asrswitch.leak_check.memcheck import ReportError, parse_memcheck, read_memcheck
from asrswitch.leak_check.sites import Tally
from asrswitch.stats.series import Word

MAPS = Mappings(
    "00001000-00003000 r-xp 00002000 08:01 42    /lib/my library.so\n"
    "00003000-00004000 rw-p 00000000 00:00 0 \n"
    "00005000-00006000 r--p 00000000 08:01 43    /lib/libb.so (deleted)\n"
)
KINDS = {
    "Leak_DefinitelyLost": "definitely lost",
    "Leak_IndirectlyLost": "indirectly lost",
    "Leak_PossiblyLost": "possibly lost",
    "Leak_StillReachable": "still reachable",
}
_NAMES = st.text(
    st.characters(blacklist_categories=["Cc", "Cs"], max_codepoint=0xFFFD), min_size=1, max_size=20
)


def record(unique: int, kind: str, frames: list[tuple[int, str]], n_bytes: int = 0, n_blocks: int = 0) -> str:
    stack = "".join(
        f"<frame><ip>0x{ip:X}</ip><obj>/x.so</obj><fn>{escape(name)}</fn><file>x.c</file><line>7</line></frame>"
        for ip, name in frames
    )
    what = (
        f"<xwhat><text>lost</text><leakedbytes>{n_bytes}</leakedbytes><leakedblocks>{n_blocks}</leakedblocks></xwhat>"
        if kind in KINDS
        else "<what>wrong</what>"
    )
    return f"<error><unique>0x{unique:x}</unique><kind>{kind}</kind>{what}<stack>{stack}</stack></error>"


def report(*records: str, state: str = "FINISHED", counts: str = "") -> bytes:
    return (
        '<?xml version="1.0"?><valgrindoutput><protocolversion>4</protocolversion>'
        "<protocoltool>memcheck</protocoltool><status><state>RUNNING</state></status>"
        f"{''.join(records)}<status><state>{state}</state></status>"
        f"<errorcounts>{counts}</errorcounts></valgrindoutput>\n"
    ).encode()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*KINDS, "InvalidRead"]),
            st.lists(st.tuples(st.integers(0x10000, 1 << 47), _NAMES), max_size=5),
            st.integers(0, 1 << 50),
            st.integers(0, 1 << 30),
        ),
        max_size=5,
    )
)
def test_memcheck_records_come_back(records: list[tuple[str, list[tuple[int, str]], int, int]]) -> None:
    parsed = parse_memcheck(report(*(record(index, *item) for index, item in enumerate(records))), MAPS)
    lost = [item for item in records if item[0] in KINDS]
    assert [item.held for item in parsed.allocations] == [Tally(size, count) for _, _, size, count in lost]
    assert [item.kinds for item in parsed.allocations] == [{KINDS[kind]} for kind, _, _, _ in lost]
    wrong = [item for item in records if item[0] not in KINDS]
    assert [(item.kind, item.what, item.count) for item in parsed.mistakes] == [
        ("InvalidRead", "wrong", 1)
    ] * len(wrong)
    stacks = [item.stack for item in parsed.allocations] + [item.stack for item in parsed.mistakes]
    for stack, (_, frames, _, _) in zip(stacks, lost + wrong, strict=True):
        assert [(frame.offset, frame.function, frame.object, frame.source) for frame in stack] == [
            (ip, name, "/x.so", "x.c:7") for ip, name in frames
        ]


def test_bytes_that_are_lost_with_a_block_are_not_counted_twice() -> None:
    text = "<text>384 (64 direct, 320 indirect) bytes in 1 blocks are definitely lost</text>"
    xml = report(record(0, "Leak_DefinitelyLost", [], 384, 1)).replace(b"<text>lost</text>", text.encode())
    assert parse_memcheck(xml, MAPS).allocations[0].held == Tally(64, 1)


def test_errors_are_counted_and_placed_by_the_mappings() -> None:
    counts = "<pair><count>12</count><unique>0x0</unique></pair>"
    (mistake,) = parse_memcheck(
        report(record(0, "UninitValue", [(0x1010, "f")]), counts=counts), MAPS
    ).mistakes
    assert (mistake.count, mistake.stack[0].object, mistake.stack[0].offset) == (
        12,
        "/lib/my library.so",
        0x2010,
    )


WHOLE = report(
    record(0, "Leak_DefinitelyLost", [(0x1010, "f"), (0x99999, "g")], 10, 1), record(1, "InvalidRead", [])
)


@given(st.integers(0, len(WHOLE) - 2))
def test_a_memcheck_report_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ValueError) as caught:
        parse_memcheck(WHOLE[:length], MAPS)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_damaged_memcheck_report_is_read_or_refused(at: int, byte: int) -> None:
    try:
        parsed = parse_memcheck(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :], MAPS)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert len(parsed.allocations) + len(parsed.mistakes) <= 2


@given(st.binary(max_size=200))
def test_noise_is_no_report(noise: bytes) -> None:
    for parse in (lambda text: parse_memcheck(text, MAPS), lambda text: parse_dhat(text, MAPS), parse_massif):
        with pytest.raises(ValueError):
            parse(noise)


@pytest.mark.parametrize(
    "xml",
    [
        report(state="RUNNING"),
        report(record(0, "Leak_DefinitelyLost", [], -1, 1)),
        report().replace(b">memcheck<", b">helgrind<"),
        b"<valgrindoutput/>",
        b'<?xml version="1.0" encoding="nonsense"?><valgrindoutput/>',
    ],
)
def test_what_is_no_finished_memcheck_report_is_refused(xml: bytes) -> None:
    with pytest.raises(ValueError):
        parse_memcheck(xml, MAPS)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(WHOLE[:50])
    for path in (cut, tmp_path / "missing"):
        for read in (
            lambda path: read_memcheck(path, MAPS),
            lambda path: read_dhat(path, MAPS),
            read_massif,
        ):
            with pytest.raises(ReportError, match=str(path)):
                read(path)


def profile(**changes: Any) -> bytes:
    point = {"tb": 30, "tbk": 3, "eb": 10, "ebk": 1, "fs": [1, 2, 3]}
    frames = ["[root]", "0x1010: f (x.c:7)", "0x99999: operator new(unsigned long) (in /y.so)", "0x5001: ???"]
    whole = {"dhatFileVersion": 2, "mode": "heap", "pps": [point], "ftbl": frames}
    return json.dumps(whole | changes).encode()


def test_a_dhat_profile_comes_back() -> None:
    (item,) = parse_dhat(profile(), MAPS)
    assert (item.allocated, item.held) == (Tally(30, 3), Tally(10, 1))
    assert [(frame.function, frame.object, frame.offset, frame.source) for frame in item.stack] == [
        ("f", "/lib/my library.so", 0x2010, "x.c:7"),
        ("operator new(unsigned long)", "/y.so", 0x99999, None),
        (None, "/lib/libb.so", 1, None),
    ]


@given(st.integers(0, len(profile()) - 1))
def test_a_dhat_profile_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        parse_dhat(profile()[:length], MAPS)


@pytest.mark.parametrize(
    "changes", [{"dhatFileVersion": 3}, {"mode": "copy"}, {"ftbl": []}, {"pps": [{"tb": 1}]}]
)
def test_another_dhat_profile_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        parse_dhat(profile(**changes), MAPS)


def massif(*snapshots: tuple[int, int], unit: str = "ms") -> bytes:
    text = f"desc: --time-unit={unit}\ncmd: x\ntime_unit: {unit}\n"
    for number, (at, size) in enumerate(snapshots):
        text += f"#-----------\nsnapshot={number}\n#-----------\ntime={at}\nmem_heap_B={size}\n"
        text += "mem_heap_extra_B=8\nmem_stacks_B=0\nheap_tree=empty\n"
    return text.encode()


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 50)), min_size=1, max_size=20))
def test_massif_snapshots_come_back(snapshots: list[tuple[int, int]]) -> None:
    snapshots.sort(key=lambda item: item[0])
    assert parse_massif(massif(*snapshots)) == tuple(Snapshot(*item) for item in snapshots)


def test_what_is_no_massif_profile_is_refused() -> None:
    cut = massif((1, 2), (3, 4))[:-30]
    for text in (massif(), massif((1, 2), unit="i"), massif((2, 2), (1, 2)), cut):
        with pytest.raises(ValueError):
            parse_massif(text)


@pytest.mark.parametrize(
    ("growth", "n_cycles", "word"),
    [
        (0, 6, Word.FLAT),
        (100, 6, Word.FLAT),
        (4096, 6, Word.LEAK),
        (-4096, 6, Word.FLAT),
        (4096, 4, Word.INCONCLUSIVE),
    ],
)
def test_the_curve_tells_growth_from_cycle_to_cycle(growth: int, n_cycles: int, word: Word) -> None:
    """Each cycle: 10 s of work with a peak, then a second's rest; the first two leave more than later."""
    turns, snapshots = [], []
    for cycle in range(n_cycles):
        start, warm = cycle * 11_000, 100_000 * min(cycle, 2)
        turns.append(Turn("m", start, start + 10_000, start + 11_000))
        left = 1_000_000 + warm + growth * cycle
        snapshots += [(start + 5_000, left + 5_000_000), (start + 11_050, left)]
    curve = make_curve(parse_massif(massif(*snapshots)), turns, 1)
    assert curve.word is word
    assert curve.cycles[-1].peak_bytes == snapshots[-2][1]
    assert curve.cycles[-1].after_bytes == snapshots[-1][1]
    if n_cycles > 4:
        assert curve.growth_bytes_per_cycle == growth


def test_a_rise_in_some_cycles_only_is_undecided() -> None:
    turns = [
        Turn("m", cycle * 11_000, cycle * 11_000 + 10_000, cycle * 11_000 + 11_000) for cycle in range(8)
    ]
    heap = [0, 0, 0, 9_000, 9_000, 18_000, 27_000, 36_000]
    snapshots = [Snapshot(cycle * 11_000 + 11_010, size) for cycle, size in enumerate(heap)]
    assert make_curve(snapshots, turns, 1).word is Word.INCONCLUSIVE


def test_a_curve_without_snapshots_between_cycles_is_undecided() -> None:
    turns = [
        Turn("m", cycle * 11_000, cycle * 11_000 + 10_000, cycle * 11_000 + 11_000) for cycle in range(6)
    ]
    curve = make_curve([Snapshot(0, 1)], turns, 1)
    assert (curve.word, curve.growth_bytes_per_cycle) == (Word.INCONCLUSIVE, None)
