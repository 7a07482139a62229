"""What several methods did on the same instances, counted.

Place in the data flow: level 11, ``BenchRow -> Comparison -> tables, page``. Imports nothing heavy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.report.bench_rows import VERDICTS, BenchRow
from geolip_lirpa.report.expectations import Contradiction, Expectations, contradictions

#: Order in which methods are shown, the weak and cheap ones first; a test compares it with the library's own names.
ORDER = ("ibp", "crown", "alpha-crown", "geolip", "geolip-local", "geolip-anchored", "sdp", "combined")
BASELINES = ("crown", "alpha-crown")
Pair = tuple[str, str, str, str]


@dataclass(frozen=True)
class Counts:
    """One method on some instances.

    Args:
        method: its name.
        verdicts: number of rows by verdict, all of `VERDICTS`.
        solved: rows answered, without those that are known to be wrong.
        wrong: rows that contradict the known answer.
        seconds: all of them together.
        solved_seconds: of the solved rows.
    """

    method: str
    verdicts: dict[str, int]
    solved: int
    wrong: int
    seconds: float
    solved_seconds: float

    @property
    def rows(self) -> int:
        """Number of instances it was asked."""
        return sum(self.verdicts.values())

    @property
    def mean_seconds(self) -> float | None:
        """Of the solved rows; None where there are none."""
        return self.solved_seconds / self.solved if self.solved else None


@dataclass(frozen=True)
class Duel:
    """A method against a baseline, on the instances that both were asked.

    Args:
        method, baseline: their names.
        both, neither: number of instances that both, or none of them, solved.
        only_method, only_baseline: rows of the one that solved them.
        tighter, looser: number of instances with a larger, or a smaller bound than the baseline's.
    """

    method: str
    baseline: str
    both: int
    neither: int
    only_method: tuple[BenchRow, ...]
    only_baseline: tuple[BenchRow, ...]
    tighter: int
    looser: int


@dataclass(frozen=True)
class Comparison:
    """All rows with what is known of their answers.

    Args:
        rows: each (instance, method) once.
        expected: known answers.
        contradictions: verdicts that cannot be right, or not all be right.
    """

    rows: tuple[BenchRow, ...]
    expected: Expectations
    contradictions: tuple[Contradiction, ...]

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names, in the order of `ORDER`, then others by name."""
        return tuple(sorted({row.method for row in self.rows}, key=_place))

    @cached_property
    def benchmarks(self) -> tuple[str, ...]:
        """Names, in the order of the rows."""
        return tuple(dict.fromkeys(row.benchmark for row in self.rows))

    @cached_property
    def instances(self) -> tuple[tuple[str, str, str], ...]:
        """Benchmark, network and specification, each once."""
        return tuple(dict.fromkeys(row.instance for row in self.rows))

    @cached_property
    def wrong(self) -> frozenset[Pair]:
        """Instances with the methods whose answer contradicts the known one."""
        return frozenset(_pair(c.row) for c in self.contradictions if c.by == "expected")

    @cached_property
    def doubtful(self) -> frozenset[Pair]:
        """Instances with methods that contradict each other, where the answer is not known."""
        return frozenset(_pair(c.row) for c in self.contradictions if c.by != "expected")

    @cached_property
    def compared(self) -> int:
        """Number of answers whose truth is known."""
        return sum(row.solved and self.expected.verdict(row) is not None for row in self.rows)

    def is_wrong(self, row: BenchRow) -> bool:
        """Whether it contradicts the known answer."""
        return _pair(row) in self.wrong

    def is_doubtful(self, row: BenchRow) -> bool:
        """Whether another method says the opposite and the answer is not known."""
        return _pair(row) in self.doubtful

    def is_solved(self, row: BenchRow) -> bool:
        """Whether it counts as solved: answered, and not known to be wrong."""
        return row.solved and not self.is_wrong(row)

    def counts(self, method: str, benchmark: str | None = None) -> Counts:
        """Of one method, on one benchmark or on all."""
        rows = [r for r in self.of(method) if benchmark is None or r.benchmark == benchmark]
        found = Counter(row.verdict for row in rows)
        solved = [row for row in rows if self.is_solved(row)]
        return Counts(
            method=method,
            verdicts={verdict: found[verdict] for verdict in VERDICTS},
            solved=len(solved),
            wrong=sum(map(self.is_wrong, rows)),
            seconds=sum(row.seconds for row in rows),
            solved_seconds=sum(row.seconds for row in solved),
        )

    def solved_within(self, method: str, limits: Sequence[float]) -> list[int]:
        """How many instances it solves in at most so many seconds, for each limit."""
        times = [row.seconds for row in self.of(method) if self.is_solved(row)]
        return [sum(time <= limit for time in times) for limit in limits]

    def of(self, method: str) -> Sequence[BenchRow]:
        """Rows of one method."""
        return self._by_method[method]

    def duel(self, method: str, baseline: str) -> Duel:
        """Where one solves what the other does not."""
        pairs = self.pairs(method, baseline)
        solved = [(self.is_solved(mine), self.is_solved(its)) for mine, its in pairs]
        bounds = [(mine.bound, its.bound) for mine, its in pairs if mine.bound is not None and its.bound is not None]
        return Duel(
            method, baseline,
            both=solved.count((True, True)),
            neither=solved.count((False, False)),
            only_method=tuple(mine for (mine, _), s in zip(pairs, solved, strict=True) if s == (True, False)),
            only_baseline=tuple(its for (_, its), s in zip(pairs, solved, strict=True) if s == (False, True)),
            tighter=sum(mine > its for mine, its in bounds),
            looser=sum(mine < its for mine, its in bounds),
        )  # fmt: skip

    def pairs(self, method: str, baseline: str) -> list[tuple[BenchRow, BenchRow]]:
        """Rows of a method and of a baseline about the same instance."""
        its = {row.instance: row for row in self._by_method.get(baseline, ())}
        return [(row, its[row.instance]) for row in self.of(method) if row.instance in its]

    def baselines(self) -> tuple[str, ...]:
        """Those of `BASELINES` that took part, if another method did."""
        return tuple(name for name in BASELINES if name in self.methods and len(self.methods) > 1)

    @cached_property
    def _by_method(self) -> dict[str, list[BenchRow]]:
        found: dict[str, list[BenchRow]] = {}
        for row in self.rows:
            found.setdefault(row.method, []).append(row)
        return found


def compare_rows(rows: Iterable[BenchRow], expected: Expectations) -> Comparison:
    """Put rows together with known answers."""
    kept = tuple(rows)
    return Comparison(kept, expected, tuple(contradictions(kept, expected)))


def joined(sources: Sequence[tuple[str, Sequence[BenchRow]]]) -> list[BenchRow]:
    """Rows of several files; a method that answers the same instance in two of them is named after its file too.

    Args:
        sources: label and rows of each file.

    Raises:
        SpecificationError: one file answers an instance twice by the same method.
    """
    seen: dict[Pair, int] = {}
    clashing: set[str] = set()
    for number, (label, rows) in enumerate(sources):
        for row in rows:
            first = seen.setdefault(_pair(row), number)
            if first != number:
                clashing.add(row.method)
        if len({_pair(row) for row in rows}) < len(rows):
            twice = next(pair for pair, count in Counter(map(_pair, rows)).items() if count > 1)
            raise SpecificationError(
                f"{label}: {twice[1]}, {twice[2]} by {twice[3]} is there twice; expected is one line for each. "
                "Remove one of them."
            )
    return [
        replace(row, method=f"{row.method} ({label})") if row.method in clashing else row
        for label, rows in sources
        for row in rows
    ]


def _pair(row: BenchRow) -> Pair:
    return *row.instance, row.method


def _place(method: str) -> tuple[int, str]:
    plain = method.partition(" (")[0]
    return (ORDER.index(plain) if plain in ORDER else len(ORDER)), method
