"""What the results of a benchmark say: a row for each method and set, and one method beside each of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from sketchguide.evaluation.benchmark import CEILING, PART, Benchmark, Result
from sketchguide.evaluation.drawings import Drawing
from sketchguide.evaluation.features import SqueezeNet
from sketchguide.evaluation.metrics import Interval, bootstrap_interval, ods_of
from sketchguide.evaluation.realism import kid, kid_difference
from sketchguide.evaluation.similarity import between_seeds, structure_distance
from sketchguide.images import from_ink


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method on a set.

    `ods` is F1 at the best threshold for the set, `ratio` is F1 over that of the floor, `seconds` the same of the time
    per picture; `more_right` is how much more is recognised than of the floor, drawing by drawing; `structure` is the
    distance to the picture in which the map was found, or to the drawing itself.
    """

    method: str
    set: str
    drawings: int
    failed: int
    f1: Interval | None = None
    ods: float | None = None
    ratio: Interval | None = None
    chamfer: Interval | None = None
    right: Interval | None = None
    more_right: Interval | None = None
    kid: Interval | None = None
    diversity: float | None = None
    structure: Interval | None = None
    seconds: float | None = None

    @property
    def lost(self) -> bool:
        """Whether all its pictures failed."""
        return bool(self.failed) and not self.drawings


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a method has more than another one on the drawings and seeds of a set that both made: F1, recognised, KID.

    Drawings are drawn together for both, so these intervals are narrower than those of two rows suggest: one that
    leaves out 0 shows a difference. More KID is less realistic.
    """

    method: str
    other: str
    set: str
    drawings: int
    f1: Interval
    right: Interval | None = None
    kid: Interval | None = None


@dataclass(frozen=True)
class Seen:
    """What the features network says of a method's pictures of a set, picture by picture."""

    embeddings: Tensor  # (N, D)
    apart: Tensor  # (N,), distance to what the drawing shows
    groups: Tensor  # (N,), number of the drawing
    seeds: Tensor  # (N,)
    diversity: float | None  # between the seeds of the drawings that have all


@dataclass(frozen=True)
class Summary:
    """Of all `results` of a benchmark. Intervals are 95 %, by bootstrap over drawings, the seeds averaged first."""

    benchmark: Benchmark
    results: Sequence[Result]
    _seen: dict[tuple[str, str], Seen] = field(default_factory=dict[tuple[str, str], Seen], init=False, repr=False)
    _places: dict[str, Mapping[str, Tensor]] = field(
        default_factory=dict[str, Mapping[str, Tensor]], init=False, repr=False
    )

    def rows(self) -> list[Row]:
        """One for each set and method, and one for the ceiling where a set has it."""
        return [self._row(label, set_name) for label, set_name in self.benchmark.labels()]

    def comparisons(self, method: str) -> list[Comparison]:
        """`method` beside every other one but the ceiling, on each set."""
        found = (
            self._comparison(method, other, set_name)
            for other, set_name in self.benchmark.labels()
            if other not in (method, CEILING)
        )
        return [one for one in found if one is not None]

    def _good(self, label: str, set_name: str) -> list[Result]:
        return [r for r in self.results if r.method == label and r.set == set_name and not r.error]

    def _row(self, label: str, set_name: str) -> Row:
        good = self._good(label, set_name)
        failed = sum(r.method == label and r.set == set_name and bool(r.error) for r in self.results)
        if not good:
            return Row(method=label, set=set_name, drawings=0, failed=failed)
        floor = self._good(self.benchmark.floor, set_name) if self.benchmark.floor else []
        f1, right = by_drawing(good, "f1"), by_drawing(good, "right")
        ours, plain = paired(good, floor)
        over = list(by_drawing(plain, "f1").values())
        seen = None if label == CEILING else self._features(label, set_name)
        return Row(
            method=label,
            set=set_name,
            drawings=len(f1),
            failed=failed,
            f1=interval(f1.values()),
            ods=ods(good),
            ratio=interval(by_drawing(ours, "f1").values(), over=over) if any(over) else None,
            chamfer=interval(by_drawing(good, "chamfer").values()),
            right=interval(right.values()) if right else None,
            more_right=less(by_drawing(ours, "right"), by_drawing(plain, "right")),
            kid=self._kid(seen),
            diversity=None if seen is None else seen.diversity,
            structure=None if seen is None else interval(mean_of_groups(seen.apart, seen.groups).tolist()),
            seconds=time_over(good, floor),
        )

    def _comparison(self, label: str, other: str, set_name: str) -> Comparison | None:
        ours, theirs = paired(self._good(label, set_name), self._good(other, set_name))
        f1 = less(by_drawing(ours, "f1"), by_drawing(theirs, "f1"))
        if f1 is None:
            return None
        seen, seen_theirs = self._features(label, set_name), self._features(other, set_name)
        reference = self.benchmark.judges.reference
        realism = None
        if seen is not None and seen_theirs is not None and reference is not None:
            both, theirs_too = torch.isin(seen.seeds, seen_theirs.seeds), torch.isin(seen_theirs.seeds, seen.seeds)
            if len(seen.groups[both].unique()) > 1:
                realism = kid_difference(
                    seen.embeddings[both],
                    seen_theirs.embeddings[theirs_too],
                    reference,
                    groups=seen.groups[both],
                    other_groups=seen_theirs.groups[theirs_too],
                )
        return Comparison(
            method=label,
            other=other,
            set=set_name,
            drawings=len({r.drawing for r in ours}),
            f1=f1,
            right=less(by_drawing(ours, "right"), by_drawing(theirs, "right")),
            kid=realism,
        )

    def _wanted(self, set_name: str, features: SqueezeNet) -> Mapping[str, Tensor]:
        """What `features` sees at each place of what a drawing of the set should look like, by its name."""
        if set_name not in self._places:
            self._places.clear()  # 1.5 MB for each drawing; one set is done before the next begins
            self._places[set_name] = {
                drawing.name: features.places(as_picture(drawing)[None])[0] for drawing in self.benchmark.sets[set_name]
            }
        return self._places[set_name]

    def _features(self, label: str, set_name: str) -> Seen | None:
        """None without a features network, or without pictures."""
        features = self.benchmark.judges.features
        if features is None or not (good := self._good(label, set_name)):
            return None
        if (label, set_name) not in self._seen:
            numbers = {drawing.name: i for i, drawing in enumerate(self.benchmark.sets[set_name])}
            places = self._wanted(set_name, features)
            embeddings: list[Tensor] = []
            apart: list[Tensor] = []
            groups: list[Tensor] = []
            seeds: list[int] = []
            varied: list[Tensor] = []
            for part in batched_by_drawing(good, PART):
                look = features.look(self.benchmark.pictures(part))
                wanted = torch.stack([places[r.drawing] for r in part])
                embeddings.append(look.embedding)
                apart.append(structure_distance(look.places, wanted))
                own = torch.tensor([numbers[r.drawing] for r in part])
                groups.append(own)
                seeds += [r.seed for r in part]
                for number, count in zip(*own.unique(return_counts=True), strict=True):
                    if count == self.benchmark.seeds > 1:
                        varied.append(between_seeds([stage[own == number] for stage in look.stages]))
            diversity = float(torch.stack(varied).mean()) if varied else None
            seen = Seen(torch.cat(embeddings), torch.cat(apart), torch.cat(groups), torch.tensor(seeds), diversity)
            self._seen[label, set_name] = seen
        return self._seen[label, set_name]

    def _kid(self, seen: Seen | None) -> Interval | None:
        reference = self.benchmark.judges.reference
        if seen is None or reference is None or len(seen.groups.unique()) < 2:
            return None
        return kid(seen.embeddings, reference, groups=seen.groups)


def ods(good: Sequence[Result]) -> float | None:
    """F1 over one method's pictures of one set, at the detector's best threshold for them; None where some were
    measured before counts were kept.
    """
    return ods_of(torch.tensor([r.counts for r in good])) if all(r.counts for r in good) else None


def as_picture(drawing: Drawing) -> Tensor:
    """What the pictures of a drawing should be built like (3, H, W): the picture it was found in, else dark lines."""
    return from_ink(1 - torch.tensor(drawing.lines.ink)[None, None])[0] if drawing.picture is None else drawing.picture


def failures(results: Iterable[Result]) -> list[str]:
    """A sentence for every reason that a method failed for on a set."""
    failed: dict[tuple[str, str, str], dict[str, None]] = {}
    for result in results:
        if result.error:
            failed.setdefault((result.method, result.set, result.error), {})[result.drawing] = None
    sentences: list[str] = []
    for (method, name, reason), drawings in failed.items():
        first, *others = drawings
        where = f"{len(drawings)} drawings of {name} (the first: {first})" if others else f"{first} of {name}"
        sentences.append(f"{method} failed on {where}: {reason}")
    return sentences


def batched_by_drawing(results: Sequence[Result], count: int) -> Iterator[list[Result]]:
    """All of the results in parts of about `count`, those of one drawing together."""
    part: list[Result] = []
    for _, own in groupby(sorted(results, key=lambda r: r.drawing), key=lambda r: r.drawing):
        part += own
        if len(part) >= count:
            yield part
            part = []
    if part:
        yield part


def paired(ours: Sequence[Result], others: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """Those of both that are of the same set, drawing and seed, in the same order."""
    same = {other.key[1:]: other for other in others}
    both = [(result, same[result.key[1:]]) for result in ours if result.key[1:] in same]
    return [result for result, _ in both], [other for _, other in both]


def time_over(ours: Sequence[Result], others: Sequence[Result]) -> float | None:
    """The time per picture as a multiple of that of the others; None where no picture of both was timed."""
    pairs = zip(*paired(ours, others), strict=True)
    timed = [(own.seconds, other.seconds) for own, other in pairs if own.seconds and other.seconds]
    return sum(own for own, _ in timed) / sum(other for _, other in timed) if timed else None


def by_drawing(results: Sequence[Result], field: str) -> dict[str, float]:
    """The mean over seeds of a figure, for the drawings that have it."""
    values: dict[str, list[float]] = {}
    for result in results:
        value: float | None = getattr(result, field)
        if value is not None:
            values.setdefault(result.drawing, []).append(value)
    return {name: sum(many) / len(many) for name, many in values.items()}


def less(figures: Mapping[str, float], others: Mapping[str, float]) -> Interval | None:
    """`figures` less `others`, drawing by drawing; None where no drawing has both."""
    both = [name for name in figures if name in others]
    return interval([figures[name] - others[name] for name in both]) if both else None


def mean_of_groups(values: Tensor, groups: Tensor) -> Tensor:
    """(G,), one for each group there is."""
    return torch.stack([values[groups == group].mean() for group in groups.unique()])


def interval(values: Iterable[float], *, over: Sequence[float] | None = None) -> Interval:
    return bootstrap_interval(torch.tensor(list(values)), over=None if over is None else torch.tensor(over))


def shown(value: Interval | None, digits: int) -> str:
    if value is None:
        return "–"
    ends = (value.estimate, value.low, value.high)
    estimate, low, high = (None if end is None else f"{round(end, digits) + 0.0:.{digits}f}" for end in ends)  # no -0.0
    if low is None or high is None:
        return str(estimate)
    return f"{estimate} ({low}{' to ' if low.startswith('-') else '–'}{high})"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    names = ["set", "method", "drawings", "F1", "ODS", "× text", "Chamfer", "recognised", "more than text", "KID"]
    names += ["structure", "diversity", "time × text"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        count = f"{row.drawings}" + (f" ({row.failed} pictures failed)" if row.failed else "")
        plain = ["–" if v is None else f"{v:.2f}" for v in (row.diversity, row.seconds)]
        measured = [(row.f1, 3), (row.ratio, 2), (row.chamfer, 3), (row.right, 3), (row.more_right, 3), (row.kid, 3)]
        measured.append((row.structure, 4))
        figures = [shown(value, digits) for value, digits in measured]
        figures.insert(1, "–" if row.ods is None else f"{row.ods:.3f}")
        lines.append("| " + " | ".join([row.set, row.method, count, *figures, *plain]) + " |")
    return "\n".join(lines) + "\n"


def comparison_tables(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as Markdown, a table for each method that others stand beside; without any, nothing."""
    tables: list[str] = []
    for method, own in groupby(comparisons, key=lambda one: one.method):
        lines = [f"| set | {method} less | drawings | F1 | recognised | KID |", "|---" * 6 + "|"]
        for one in own:
            figures = [shown(value, 3) for value in (one.f1, one.right, one.kid)]
            lines.append("| " + " | ".join([one.set, one.other, str(one.drawings), *figures]) + " |")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)
