from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sketchguide.classifiers import IconClassifier
from sketchguide.errors import OutputError
from sketchguide.evaluation.benchmark import (
    CEILING,
    SEED_STRIDE,
    Benchmark,
    Judges,
    Result,
    read_results,
)
from sketchguide.evaluation.drawings import Drawing, edges
from sketchguide.evaluation.features import Look
from sketchguide.evaluation.metrics import Interval, chamfer, edge_counts, edge_f1, ods_of
from sketchguide.evaluation.perturb import perturb
from sketchguide.evaluation.plots import plot, sheets
from sketchguide.evaluation.similarity import structure_distance
from sketchguide.evaluation.summary import Row, Summary, batched_by_drawing, by_drawing, comparison_tables, table
from sketchguide.extractors import EXTRACTORS
from sketchguide.images import open_image
from sketchguide.levels import Level
from sketchguide.methods import Batch, Method
from sketchguide.request import Request
from sketchguide.sampling import Evaluations, Moment

SIDE = 32


class Canvas:
    """A backbone whose latents are pictures: methods in these tests paint them."""

    name = "canvas"
    device = torch.device("cpu")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


def painted(at: int) -> torch.Tensor:
    """A white square on black, `at` pixels from the left."""
    picture = torch.full((3, SIDE, SIDE), -1.0)
    picture[:, 8:24, at : at + 12] = 1
    return picture


PICTURES = [painted(at) for at in (4, 10, 16)]
DRAWINGS = [
    Drawing(f"square-{i}", "a square", edges(picture), ("square",), picture=picture)
    for i, picture in enumerate(PICTURES)
]


def painter(paint: Callable[[int], torch.Tensor], calls: list[int] | None = None) -> Method:
    """A method that paints what `paint` says for the number of the drawing."""

    def method(batch: Batch) -> Iterator[Moment]:
        if calls is not None:
            calls.append(len(batch.prompts))
        numbers = [(seed - 100) % SEED_STRIDE for seed in batch.seeds]
        latent = torch.stack([paint(number) for number in numbers])
        yield Moment(latent, latent, Level(0, 1, 0, 1), Evaluations(1, 0))

    return method


def exact(number: int) -> torch.Tensor:
    return PICTURES[number]


def off(number: int) -> torch.Tensor:
    return painted(2 + number)


def benchmark(folder: Path, methods: dict[str, Method], **settings: Any) -> Benchmark:
    values: dict[str, Any] = {
        "backbone": Canvas(),
        "sets": {"squares": DRAWINGS},
        "request": Request.checked(prompt="", seed=100),
        "judges": Judges(EXTRACTORS["edges"]),
        "batch": 2,
    }
    return Benchmark(methods=methods, folder=folder, **(values | settings))


def test_figures_of_a_picture_that_follows_exactly(tmp_path: Path):
    results = list(benchmark(tmp_path, {"text": painter(off), "copy": painter(exact)}))
    assert [r.method for r in results] == [m for n in (2, 1) for m in ("text", "copy", CEILING) for _ in range(n)]
    for result in results:
        if result.method != "text":
            assert (result.f1, result.precision, result.recall, result.chamfer) == (1, 1, 1, 0)
    plain = [r for r in results if r.method == "text"]
    assert all(r.f1 is not None and r.f1 < 1 for r in plain)
    assert [r.seed for r in plain] == [100, 101, 102]


@pytest.mark.parametrize("kind", ["thick", "thin", "broken", "inverted", "stray"])
def test_pictures_of_spoiled_drawings_are_held_to_what_was_meant(tmp_path: Path, kind: str):
    spoiled = [replace(d, ink=perturb(d.ink, kind), meant=d.ink) for d in DRAWINGS]
    results = list(benchmark(tmp_path, {"copy": painter(exact)}, sets={"squares": spoiled}))
    assert [r.f1 for r in results] == [1] * 6
    asked: list[Any] = []

    def watching(batch: Batch) -> Iterator[Moment]:
        asked.extend(batch.maps)
        yield from painter(exact)(batch)

    list(benchmark(tmp_path, {"watching": watching}, sets={"squares": spoiled}))
    assert asked == [d.ink for d in spoiled]


def test_every_picture_is_kept_with_its_figures(tmp_path: Path):
    bench = benchmark(tmp_path, {"copy:weird=/x": painter(exact)}, seeds=2)
    results = list(bench)
    assert len(results) == len(bench) == 12
    assert read_results(tmp_path) == results
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 12
    assert open_image(files[0]).size == (SIDE, SIDE)
    first = [r for r in results if r.method != CEILING and r.seed < SEED_STRIDE]
    assert torch.equal(bench.pictures(first), torch.stack(PICTURES))


def test_a_second_run_makes_nothing_again(tmp_path: Path):
    calls: list[int] = []
    first = list(benchmark(tmp_path, {"text": painter(off, calls)}))
    assert calls == [2, 1]
    again = list(benchmark(tmp_path, {"text": painter(off, calls)}))
    assert calls == [2, 1]
    assert again == first


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path):
    calls: list[int] = []
    running = iter(benchmark(tmp_path, {"text": painter(off, calls)}))
    next(running)
    del running
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"method": "text", "set": "squ')  # killed while it wrote
    results = list(benchmark(tmp_path, {"text": painter(off, calls)}))
    assert calls == [2, 1]
    assert [r.drawing for r in results if r.method == "text"] == ["square-0", "square-1", "square-2"]
    assert len({r.key for r in read_results(tmp_path)}) == 6


@pytest.mark.parametrize("old", [False, True])
def test_the_picture_of_a_drawing_that_changed_is_made_again(tmp_path: Path, old: bool):
    calls: list[int] = []
    list(benchmark(tmp_path, {"text": painter(off, calls)}))
    if old:  # results of before drawings were kept in mind
        file = tmp_path / "results.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "digest"}) + "\n" for r in lines))
    changed = [DRAWINGS[0], replace(DRAWINGS[1], ink=DRAWINGS[2].ink), DRAWINGS[2]]
    results = list(benchmark(tmp_path, {"text": painter(off, calls)}, sets={"squares": changed}))
    assert calls == ([2, 1] if old else [2, 1, 1])
    assert len(results) == 6
    list(benchmark(tmp_path, {"text": painter(off, calls)}, sets={"squares": changed}))
    assert calls == ([2, 1] if old else [2, 1, 1])


def test_more_drawings_keep_what_was_made_of_the_first(tmp_path: Path):
    calls: list[int] = []
    list(benchmark(tmp_path, {"text": painter(off, calls)}, sets={"squares": DRAWINGS[:2]}))
    list(benchmark(tmp_path, {"text": painter(off, calls)}))
    assert calls == [2, 1]


@pytest.mark.parametrize("left", [None, 0, 90], ids=["deleted", "empty", "cut short"])
def test_a_picture_that_does_not_open_is_made_again(tmp_path: Path, left: int | None):
    calls: list[int] = []
    first = list(benchmark(tmp_path, {"text": painter(off, calls)}))
    file = next(tmp_path.rglob("text/square-1*.png"))
    before = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(before[:left])
    bench = benchmark(tmp_path, {"text": painter(off, calls)})
    again = list(bench)
    assert calls == [2, 1, 1]
    assert [r.f1 for r in again] == [r.f1 for r in first]
    assert file.read_bytes() == before
    assert len(sheets(bench, again, tmp_path)) == 1


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, MemoryError, OSError, KeyboardInterrupt, OutputError])
def test_one_failure_costs_one_row_and_is_tried_anew(tmp_path: Path, kind: type[BaseException]):
    def fragile(number: int) -> torch.Tensor:
        if number == 1:
            raise kind("out of ideas")
        return off(number)

    bench = benchmark(tmp_path, {"text": painter(off), "fragile": painter(fragile)})
    if kind in (KeyboardInterrupt, OutputError):  # not for the method to answer for
        with pytest.raises(kind):
            list(bench)
        return
    results = [r for r in bench if r.method == "fragile"]
    assert [bool(r.error) for r in results] == [False, True, False]
    assert results[1].error == f"{kind.__name__}: out of ideas"
    assert results[1].f1 is None
    row = next(row for row in Summary(bench, list(read_results(tmp_path))).rows() if row.method == "fragile")
    assert (row.drawings, row.failed) == (2, 1)
    assert "2 (1 pictures failed)" in table([row])
    mended = [r for r in benchmark(tmp_path, {"text": painter(off), "fragile": painter(off)}) if r.method == "fragile"]
    assert not any(r.error for r in mended)


def test_a_batch_that_failed_leaves_the_memory_before_it_is_made_one_by_one(tmp_path: Path):
    batches: list[weakref.ref[torch.Tensor]] = []

    def greedy(batch: Batch) -> Iterator[Moment]:
        assert all(one() is None for one in batches), "the failed batch is still there"
        latents = torch.stack([off(0)] * len(batch.prompts))
        batches.append(weakref.ref(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("out of memory")
        yield Moment(latents.clone(), latents.clone(), Level(0, 1, 0, 1), Evaluations(1, 0))

    results = [r for r in benchmark(tmp_path, {"text": greedy}) if r.method == "text"]
    assert not any(r.error for r in results)
    assert len(batches) == 4
    assert [r.seconds is None for r in results] == [True, True, False]  # times of one by one compare with none


@pytest.mark.parametrize("letters", [b"\xc3", b"\xe2\x80"])
def test_a_line_cut_within_a_letter_is_passed_over(tmp_path: Path, letters: bytes):
    calls: list[int] = []
    first = list(benchmark(tmp_path, {"text": painter(off, calls)}))
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'{"method": "text", "prompt": "caf' + letters)
    assert list(benchmark(tmp_path, {"text": painter(off, calls)})) == first
    assert calls == [2, 1]


def test_results_are_kept_in_ascii(tmp_path: Path):
    drawings = [replace(drawing, prompt="a café") for drawing in DRAWINGS]
    results = list(benchmark(tmp_path, {"text": painter(off)}, sets={"squares": drawings}))
    assert (tmp_path / "results.jsonl").read_bytes().isascii()
    assert read_results(tmp_path) == results


def test_every_method_has_its_own_folder_of_pictures(tmp_path: Path):
    labels = ["lgp:predictor=runs/a", "lgp:predictor=runs_a", "lgp:predictor=runs_b", "lgp_predictor=runs_a"]
    labels += [f"lgp:predictor={'sehr/lang/' * 40}{end}" for end in "ab"] + ["lgp:predictor=" + "\N{SLOTH}" * 300]
    list(benchmark(tmp_path, {label: painter(exact) for label in labels}))
    folders = {folder.name for folder in (tmp_path / "pictures" / "squares").iterdir()}
    assert len(folders) == len(labels) + 1
    assert {folder.rpartition("-")[0] for folder in folders} >= {"lgp_predictor=runs_a", "ground_truth"}
    assert "lgp_predictor=runs_a" in folders
    assert max(map(len, folders)) == 89


def test_a_result_that_is_not_finite_fails(tmp_path: Path):
    results = list(benchmark(tmp_path, {"text": painter(lambda number: off(number) * float("nan"))}))
    assert {r.error for r in results if r.method == "text"} == {"ValueError: the result is not finite"}
    (row, _) = Summary(benchmark(tmp_path, {"text": painter(off)}), results).rows()
    assert (row.drawings, row.failed, row.f1) == (0, 3, None)


def test_a_picture_that_cannot_be_decoded_costs_its_own_row_alone(tmp_path: Path):
    class Overflowing(Canvas):
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return torch.stack([one / (not torch.equal(one, PICTURES[1])) for one in latents])

    results = list(benchmark(tmp_path, {"copy": painter(exact)}, backbone=Overflowing()))
    errors = [r.error for r in results if r.method == "copy"]
    assert errors == ["", "ValueError: the decoded result is not finite", ""]


def test_the_summary_averages_seeds_first_and_compares_with_the_floor(tmp_path: Path):
    bench = benchmark(tmp_path, {"text": painter(off), "copy": painter(exact)}, seeds=2)
    results = list(bench)
    text, copy, ceiling = Summary(bench, results).rows()
    mean = sum(r.f1 or 0 for r in results if r.method == "text") / 6
    assert text.f1 is not None
    assert text.f1.estimate == pytest.approx(mean)
    assert copy.ratio is not None
    assert copy.ratio.estimate == pytest.approx(1 / mean)
    assert copy.seconds is not None
    assert copy.seconds > 0
    assert ceiling.seconds is None
    assert ceiling.f1 is not None
    assert ceiling.f1.estimate == 1
    assert text.drawings == 3
    assert text.ods is not None
    assert text.ods < 1
    assert copy.ods == 1
    lines = table([text, copy, ceiling]).splitlines()
    assert len(lines) == 5
    assert lines[3].startswith("| squares | copy | 3 | 1.000 (1.000–1.000) | 1.000 |")


def figures_of(results: list[Result], method: str, name: str, values: list[list[float]]) -> list[Result]:
    """Those of the method with `values`, by drawing and seed, in place of what was measured; later drawings first."""
    own = sorted((r for r in results if r.method == method), key=lambda r: (r.drawing, r.seed), reverse=True)
    return [replace(r, **{name: values[int(r.drawing[-1])][r.seed >= SEED_STRIDE]}) for r in own]


def test_an_interval_is_that_of_drawings_and_not_of_their_pictures(tmp_path: Path):
    """Of every drawing one seed is as much above the mean as the other is below: drawings do not differ."""
    bench = benchmark(tmp_path, {"text": painter(off)}, seeds=2)
    results = [r for r in bench if r.method == "text"]
    for name in ("f1", "chamfer", "right"):
        results = figures_of(results, "text", name, [[0.0, 1.0], [0.25, 0.75], [1.0, 0.0]])
    row = Summary(bench, results).rows()[0]
    for found in (row.f1, row.chamfer, row.right):
        assert found == Interval(estimate=0.5, low=0.5, high=0.5)


def test_drawings_are_compared_each_with_itself(tmp_path: Path):
    """What a method has more is the same for every drawing, and these differ."""
    bench = benchmark(tmp_path, {"text": painter(off), "copy": painter(exact)}, seeds=2)
    text, copy = ([r for r in bench if r.method == method] for method in bench.methods)
    text = figures_of(text, "text", "f1", [[0.125, 0.125], [0.25, 0.25], [0.5, 0.0]])
    text = figures_of(text, "text", "right", [[0, 0], [1, 0], [1, 0]])
    copy = figures_of(copy, "copy", "f1", [[0.25, 0.25], [0.5, 0.5], [0.0, 1.0]])[::-1]  # twice as much
    copy = figures_of(copy, "copy", "right", [[0, 1], [1, 1], [1, 1]])[::-1]  # half as much again
    summary = Summary(bench, [*text, *copy])
    row = summary.rows()[1]
    assert row.method == "copy"
    assert row.ratio == Interval(estimate=2, low=2, high=2)
    assert row.more_right == Interval(estimate=0.5, low=0.5, high=0.5)
    (beside,) = summary.comparisons("copy")
    assert beside.right == Interval(estimate=0.5, low=0.5, high=0.5)
    text = figures_of(text, "text", "f1", [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5]])
    copy = figures_of(copy, "copy", "f1", [[0.25, 0.25], [0.5, 0.5], [0.75, 0.75]])[::-1]
    (beside,) = Summary(bench, [*text, *copy]).comparisons("copy")
    assert beside.f1 == Interval(estimate=0.25, low=0.25, high=0.25)


@pytest.mark.parametrize("shift", [1, 2])
def test_lines_may_be_off_by_a_thirty_second_of_the_side(tmp_path: Path, shift: int):
    """Here by one pixel."""
    bench = benchmark(tmp_path, {"text": painter(lambda number: PICTURES[number].roll(shift, dims=2))})
    row = Summary(bench, list(bench)).rows()[0]
    wanted = EXTRACTORS["edges"](torch.stack(PICTURES))
    found = wanted.roll(shift, dims=3)
    assert row.f1 is not None
    assert row.f1.estimate == pytest.approx(float(edge_f1(found, wanted, tolerance=1).f1.mean()))
    assert row.ods == pytest.approx(ods_of(edge_counts(found, wanted, tolerance=1, thresholds=9)))
    assert (row.f1.estimate == 1) == (row.ods == 1) == (shift == 1)
    apart = float(chamfer(found, wanted).mean())
    assert apart > 0.005
    assert row.chamfer is not None
    assert row.chamfer.estimate == pytest.approx(apart)
    heads, _, cells = table([row]).splitlines()
    column = heads.split("|").index(" Chamfer ")
    assert cells.split("|")[column].startswith(f" {apart:.3f} (")


class Eyes:
    """A features network that sees 8 x 8 pixels as they are."""

    @staticmethod
    def places(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images + 1, 8).flatten(2).mT

    def embedding(self, images: torch.Tensor) -> torch.Tensor:
        return self.places(images).mean(dim=1)

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (images + 1,)

    def look(self, images: torch.Tensor) -> Look:
        return Look(self.stages(images), self.places(images), self.embedding(images))


class SharpEyes(Eyes):
    """What they see of a picture as a whole tells where things are in it."""

    def embedding(self, images: torch.Tensor) -> torch.Tensor:
        return self.places(images).flatten(1)


def test_what_the_features_network_sees(tmp_path: Path):
    eyes: Any = Eyes()
    judges = Judges(EXTRACTORS["edges"], features=eyes, reference=eyes.embedding(torch.stack(PICTURES * 2)))
    bench = benchmark(tmp_path, {"text": painter(off), "copy": painter(exact)}, seeds=2, judges=judges)
    text, copy, ceiling = Summary(bench, list(bench)).rows()
    assert text.structure is not None
    assert copy.structure is not None
    assert copy.structure.estimate == 0 < text.structure.estimate
    assert copy.diversity == 0
    assert copy.kid is not None
    assert ceiling.structure is None
    free = [replace(drawing, picture=None) for drawing in DRAWINGS]  # now the lines are what is followed
    bench = benchmark(tmp_path / "free", {"copy": painter(exact)}, sets={"squares": free}, judges=judges)
    (row,) = Summary(bench, list(bench)).rows()
    assert row.structure is not None
    assert row.structure.estimate > 0
    assert row.diversity is None


def test_what_drawings_should_look_like_is_kept_for_one_set_at_a_time(tmp_path: Path):
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    class Watched(Eyes):
        def look(self, images: torch.Tensor) -> Look:
            alive.append(sum(one() is not None for one in seen))
            return super().look(images)

        def places(self, images: torch.Tensor) -> torch.Tensor:
            found = Eyes.places(images)
            if len(images) == 1:
                seen.append(weakref.ref(found.untyped_storage()))
            return found

    eyes: Any = Watched()
    judges, sets = Judges(EXTRACTORS["edges"], features=eyes), {"squares": DRAWINGS, "twins": DRAWINGS}
    bench = benchmark(tmp_path, {"text": painter(off), "copy": painter(exact)}, sets=sets, judges=judges)
    summary = Summary(bench, list(bench))
    summary.rows()
    summary.comparisons("copy")
    assert len(seen) == 6  # each drawing once, whatever the number of methods
    assert max(alive) == 3


def test_the_structure_of_a_drawing_is_that_of_all_its_seeds(tmp_path: Path):
    """Of every drawing the first picture is exact and the second one off by as much: drawings do not differ."""

    def halves(batch: Batch) -> Iterator[Moment]:
        latent = torch.stack([painted(4 if seed < SEED_STRIDE else 10) for seed in batch.seeds])
        yield Moment(latent, latent, Level(0, 1, 0, 1), Evaluations(1, 0))

    eyes: Any = Eyes()
    alike = [replace(DRAWINGS[0], name=drawing.name) for drawing in DRAWINGS]
    judges = Judges(EXTRACTORS["edges"], features=eyes)
    bench = benchmark(tmp_path, {"text": halves}, sets={"squares": alike}, seeds=2, judges=judges)
    row = Summary(bench, list(bench)).rows()[0]
    wanted = float(structure_distance(*(Eyes.places(painted(at)[None]) for at in (4, 10)))) / 2
    assert wanted > 0.01
    assert row.structure is not None
    assert [row.structure.low, row.structure.estimate, row.structure.high] == pytest.approx([wanted] * 3, rel=0.01)


def test_a_method_beside_the_others(tmp_path: Path):
    def fragile(number: int) -> torch.Tensor:
        if number == 1:
            raise RuntimeError("out of ideas")
        return off(number)

    eyes: Any = SharpEyes()
    judges = Judges(EXTRACTORS["edges"], features=eyes, reference=eyes.embedding(torch.stack(PICTURES * 2)))
    methods = {"text": painter(off), "copy": painter(exact), "twin": painter(exact), "fragile": painter(fragile)}
    bench = benchmark(tmp_path, methods, seeds=2, judges=judges)
    summary = Summary(bench, list(bench))
    text, copy, *_ = summary.rows()
    beside = {one.other: one for one in summary.comparisons("copy")}
    assert list(beside) == ["text", "twin", "fragile"]
    assert {name: one.drawings for name, one in beside.items()} == {"text": 3, "twin": 3, "fragile": 2}
    assert copy.f1 is not None
    assert text.f1 is not None
    assert beside["text"].f1.estimate == pytest.approx(copy.f1.estimate - text.f1.estimate)
    assert (beside["twin"].f1.low, beside["twin"].f1.high) == (0, 0)
    kids = [one.kid for one in (copy, text, beside["text"], beside["twin"], beside["fragile"])]
    mine, theirs, less, none, fewer = (kid for kid in kids if kid is not None)
    assert less.estimate == pytest.approx(mine.estimate - theirs.estimate)
    assert (none.low, none.high) == (0, 0)
    assert less.estimate < 0
    assert fewer.estimate != pytest.approx(less.estimate)
    lines = comparison_tables(summary.comparisons("copy")).splitlines()
    assert lines[0].startswith("| set | copy less | drawings |")
    assert lines[3].startswith("| squares | twin | 3 | 0.000 (0.000–0.000) | – | 0.000 (0.000–0.000) |")
    assert comparison_tables([]) == ""
    both = [*summary.comparisons("copy"), *summary.comparisons("text")]
    assert [line for line in comparison_tables(both).splitlines() if "less" in line] == [
        "| set | copy less | drawings | F1 | recognised | KID |",
        "| set | text less | drawings | F1 | recognised | KID |",
    ]


def test_only_known_classes_count_as_recognised(tmp_path: Path):
    classifier = IconClassifier(("circle", "square"), size=SIDE, channels=(4,)).eval()
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor([0.0, 1.0]))  # says square, whatever it sees
    known, unknown, wrong = (("square", "cube"), ("cube",), ("circle",))
    drawings = [replace(d, answers=a) for d, a in zip(DRAWINGS, (known, unknown, wrong), strict=True)]
    bench = benchmark(
        tmp_path, {"text": painter(off)}, sets={"squares": drawings}, judges=Judges(EXTRACTORS["edges"], classifier)
    )
    results = list(bench)
    assert [r.right for r in results if r.method == "text"] == [1, None, 0]
    row = Summary(bench, results).rows()[0]
    assert row.right is not None
    assert row.right.estimate == 0.5
    worse = [replace(r, method="worse", right=None if r.right is None else 0) for r in results if r.method == "text"]
    bench = replace(bench, methods={"text": painter(off), "worse": painter(off)})
    shutil.copytree(tmp_path / "pictures/squares/text", tmp_path / "pictures/squares/worse")
    row = Summary(bench, [*results, *worse]).rows()[1]
    assert row.more_right is not None
    assert (row.more_right.low, row.more_right.estimate, row.more_right.high) == (-1, -0.5, 0)
    assert "-0.500 (-1.000 to 0.000)" in table([row])


def test_parts_keep_the_pictures_of_a_drawing_together():
    results = [Result(method="m", set="s", drawing=name, prompt="", seed=seed) for seed in (1, 2) for name in "abcde"]
    parts = [[(r.drawing, r.seed) for r in part] for part in batched_by_drawing(results, 3)]
    assert [[name for name, _ in part] for part in parts] == [list("aabb"), list("ccdd"), list("ee")]
    assert sorted(one for part in parts for one in part) == sorted((r.drawing, r.seed) for r in results)


def test_by_drawing_leaves_out_what_was_not_measured():
    base = Result(method="m", set="s", drawing="a", prompt="", seed=1, f1=0.5)
    results = [base, replace(base, seed=2, f1=1.0), replace(base, drawing="b", f1=None)]
    assert by_drawing(results, "f1") == {"a": 0.75}


def test_plots_are_whole_files_or_named_as_what_cannot_be_written(tmp_path: Path):
    some = Interval(estimate=0.5, low=0.4, high=0.6)
    rows = [Row(method="text", set="squares", drawings=3, failed=0, f1=some, right=some)]
    rows += [Row(method="one", set="squares", drawings=1, failed=0, f1=Interval(estimate=0.5), right=some)]
    (file,) = plot(rows, tmp_path)
    assert open_image(file).size == (540, 480)
    file.unlink()
    file.mkdir()
    with pytest.raises(OutputError, match=r"f1-right\.png is a folder"):
        plot(rows, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"results\.jsonl cannot be read"):
        list(benchmark(tmp_path, {"text": painter(off)}))


def test_results_are_lines_of_json(tmp_path: Path):
    list(benchmark(tmp_path, {"text": painter(off)}))
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) >= {"method", "set", "drawing", "prompt", "seed", "error", "f1", "right"}
