"""The records of a log by turn: one attempt at a cycle, from its load to the reading after its release."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asrswitch.memory.probe import Memory
from asrswitch.records import (
    Eviction,
    Load,
    Malloc,
    Point,
    Reading,
    Record,
    Release,
    Renewal,
    Timeline,
    Transcription,
    Trim,
)
from asrswitch.schedule import Release as ReleaseKind


class Turn(msgspec.Struct):
    """What is known of a turn; what did not come, or was not written down, is None or absent."""

    cycle: int
    model: str
    worker: int  # that had the model; the last reading is of another where the release was an exit
    load: Load | None = None
    room_ms: float = 0.0  # what it took to make room: unloads of others, a server's restart
    transcriptions: list[Transcription] = []
    release: Release | None = None
    readings: dict[Point, Memory] = {}
    gpu_bytes: dict[Point, int] = {}  # of the processes, or of all where these cannot be told apart
    malloc: Malloc | None = None  # after the release
    trim: Trim | None = None
    sampled_anonymous_bytes: int | None = None  # the most of the samples until the release
    baseline: Memory | None = None  # of the worker, before its first load
    empty: bool = False  # no model is loaded after the release

    @property
    def load_ms(self) -> float | None:
        return self.load.load_ms if self.load else None

    @property
    def release_ms(self) -> float | None:
        return self.release.release_ms if self.release else None

    @property
    def unload_ms(self) -> float | None:
        """The release where it let the model go, be it by the process's exit."""
        return (
            self.release.release_ms if self.release and self.release.how is not ReleaseKind.RESTART else None
        )

    @property
    def answer_ms(self) -> float | None:
        """From the request for the model, through its load where there was one, to the first text.

        Of embeddings, which have no first, to the end of the first.
        """
        answered_ms = self.transcriptions[0].answered_ms if self.transcriptions else None
        return None if answered_ms is None else self.room_ms + (self.load_ms or 0) + answered_ms

    @property
    def overhead_ms(self) -> float | None:
        """Load, where there was one, and release; nothing where both are in the time of a process."""
        if self.is_process:
            return 0.0
        if self.release is None:
            return None
        return self.room_ms + (self.load_ms or 0) + self.release.release_ms

    @property
    def peak_rss_bytes(self) -> int | None:
        """From load to release; what the readings saw, where the kernel's maximum is older than the turn.

        A process that came and went between readings stood beside the worker: its own peak is added.
        """
        peaks = [
            memory.peak_rss_bytes if memory.peak_since == "reading" else memory.rss_bytes
            for memory in self._loaded
        ]
        gone = [record.peak_rss_bytes for record in self.transcriptions if record.peak_rss_bytes is not None]
        if gone and "after_infer" in self.readings:
            peaks.append(self.readings["after_infer"].rss_bytes + max(gone))
        return max(peaks, default=None)

    @property
    def is_process(self) -> bool:
        """Whether each transcription was a process of its own, so that nothing was loaded or let go."""
        return self.load is None and self.release is None and "after_unload" in self.readings

    @property
    def peak_anonymous_bytes(self) -> int | None:
        """Likewise, as far as readings and samples saw it; None without samples."""
        if self.sampled_anonymous_bytes is None:
            return None
        return max(self.sampled_anonymous_bytes, *(memory.anonymous_bytes for memory in self._loaded), 0)

    @property
    def peak_above_load_bytes(self) -> int | None:
        """The peak above what there was before the load."""
        before, peak = self.readings.get("before_load"), self.peak_rss_bytes
        return None if before is None or peak is None else peak - before.rss_bytes

    @property
    def retained_bytes(self) -> int | None:
        """Resident memory after the release, once no model is loaded, above the baseline."""
        after = self._after_all
        return after.rss_bytes - self.baseline.rss_bytes if after and self.baseline else None

    @property
    def retained_anonymous_bytes(self) -> int | None:
        after = self._after_all
        return after.anonymous_bytes - self.baseline.anonymous_bytes if after and self.baseline else None

    @property
    def reclaimed(self) -> float | None:
        """Of resident memory above the baseline while the model was loaded, the part that went with it."""
        highest = max((memory.rss_bytes for memory in self._loaded), default=None)
        baseline = self.baseline.rss_bytes if self.baseline else None
        return _part(highest, baseline, self.retained_bytes)

    @property
    def reclaimed_anonymous(self) -> float | None:
        """Likewise, of anonymous memory."""
        highest = max((memory.anonymous_bytes for memory in self._loaded), default=None)
        baseline = self.baseline.anonymous_bytes if self.baseline else None
        return _part(highest, baseline, self.retained_anonymous_bytes)

    @property
    def kept_bytes(self) -> int | None:
        """What malloc keeps back once no model is loaded."""
        return self.malloc.kept_bytes if self.malloc and self.empty else None

    @property
    def trimmed_bytes(self) -> int | None:
        """Anonymous memory that malloc gave back once no model was loaded, or would have."""
        trim = self.trim
        if not self.empty or not trim or trim.anonymous_before_bytes is None or trim.anonymous_bytes is None:
            return None
        return trim.anonymous_before_bytes - trim.anonymous_bytes

    @property
    def untrimmed_bytes(self) -> int | None:
        """What a trim leaves of the retained anonymous memory."""
        retained, trimmed = self.retained_anonymous_bytes, self.trimmed_bytes
        return None if retained is None or trimmed is None else retained - trimmed

    @property
    def read_bytes(self) -> int | None:
        """From disks, from the load to the end of the transcriptions."""
        known = [memory.read_bytes for memory in self._loaded if memory.read_bytes is not None]
        return sum(known) if known and (self.load or self.is_process) else None

    def rss_above(self, high: Sequence[Point], low: Point) -> int | None:
        """The highest of some readings less another; None unless all of them are there."""
        if low not in self.readings or any(point not in self.readings for point in high):
            return None
        return max(self.readings[point].rss_bytes for point in high) - self.readings[low].rss_bytes

    def gpu_above(self, high: Point, low: Point) -> int | None:
        """Likewise one reading of GPU memory less another."""
        both = high in self.gpu_bytes and low in self.gpu_bytes
        return self.gpu_bytes[high] - self.gpu_bytes[low] if both else None

    @property
    def _loaded(self) -> list[Memory]:
        points: tuple[Point, ...] = ("after_load", "after_infer")
        return [self.readings[point] for point in points if point in self.readings]

    @property
    def _after_all(self) -> Memory | None:
        return self.readings.get("after_unload") if self.empty else None


def turns_of(records: Sequence[Record]) -> list[Turn]:
    """Gather the turns of a log, complete or cut off, in order; a cycle that was tried twice has two."""
    turns: list[Turn] = []
    baselines: dict[int, Memory] = {}
    loaded: dict[int, set[str]] = {}  # models by worker
    room_ms = 0.0
    for record in records:
        if isinstance(record, Renewal):
            loaded.pop(record.worker, None)
            room_ms += record.ms if record.reason == "large" else 0.0
        if isinstance(record, Eviction):
            loaded.get(record.worker, set()).discard(record.evicted)
            room_ms += record.release_ms
        if not isinstance(record, Reading | Load | Transcription | Release | Trim | Timeline):
            continue
        if isinstance(record, Timeline) and record.until == "before_load":
            continue
        if not turns or not _belongs(record, turns[-1]):
            turns.append(Turn(record.cycle, record.model, record.worker, room_ms=room_ms))
            room_ms = 0.0
        turn = turns[-1]
        if isinstance(record, Reading):
            if record.point == "before_load" and not record.resident:  # a server may have models of others
                baselines.setdefault(record.worker, record.memory)
            if record.point == "after_unload":
                turn.malloc = record.malloc
                if turn.release is None:
                    turn.baseline = baselines.get(record.worker)
                    turn.empty = not loaded.get(record.worker)
            turn.readings[record.point] = record.memory
            if gpu := record.gpu:
                known = gpu.processes_bytes
                turn.gpu_bytes[record.point] = gpu.used_bytes if known is None else known
        elif isinstance(record, Load):
            turn.load = record
            loaded.setdefault(record.worker, set()).add(record.model)
        elif isinstance(record, Transcription):
            turn.transcriptions.append(record)
        elif isinstance(record, Release):
            turn.release = record
            turn.baseline = baselines.get(record.worker)
            models = loaded.get(record.worker, set())
            if record.how is not ReleaseKind.RESTART:
                models.discard(record.model)
            turn.empty = not models
        elif isinstance(record, Trim):
            turn.trim = record
        elif turn.release is None:
            sampled = max(record.samples.anonymous_bytes, default=0)
            turn.sampled_anonymous_bytes = max(turn.sampled_anonymous_bytes or 0, sampled)
    return turns


def switch_ms(before: Turn, turn: Turn) -> float | None:
    """Unload of the model of one turn, or of what made room, plus load of the next one's, in one worker."""
    if before.worker != turn.worker or turn.load is None:
        return None
    if turn.room_ms:
        return turn.room_ms + turn.load.load_ms
    if before.release is None or before.release.how is not ReleaseKind.DESTROY:
        return None
    return before.release.release_ms + turn.load.load_ms


def _part(highest: int | None, baseline: int | None, retained: int | None) -> float | None:
    """What is not retained of what was taken above the baseline; None where nothing was."""
    if highest is None or baseline is None or retained is None or highest <= baseline:
        return None
    return 1 - retained / (highest - baseline)


def _belongs(record: Reading | Load | Transcription | Release | Trim | Timeline, turn: Turn) -> bool:
    """Whether a record goes on with a turn: a new attempt is in another worker, and begins with a reading."""
    if isinstance(record, Reading) and record.point == "before_load":
        return False
    exited = turn.release is not None and turn.release.how is ReleaseKind.EXIT
    return record.cycle == turn.cycle and (record.worker == turn.worker or exited)
