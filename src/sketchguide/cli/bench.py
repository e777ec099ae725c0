"""`sketchguide bench`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.session import is_folder
from sketchguide.defaults import MODEL, SEED
from sketchguide.errors import FailureError, OutputError, UsageError
from sketchguide.files import locked, write_text

if TYPE_CHECKING:
    from sketchguide.backbones.base import Backbone
    from sketchguide.evaluation.benchmark import Result
    from sketchguide.evaluation.drawings import Drawing
    from sketchguide.evaluation.summary import Row

METHODS = ("text", "lgp", "lgp-paper", "sdedit")
SETS = ("quickdraw", "icons", "tuberlin")
OWN = "own"  # edge maps of the model's own pictures: needs no data
GIVEN = "drawings"  # of whoever measures
OWN_PROMPTS = (
    "a red apple", "a cat", "a house", "a car", "an umbrella", "a fish", "a guitar", "a tree", "a key", "a star",
    "a banana", "an airplane",
)  # fmt: skip
SKETCHES, QUICK = 200, 12
BATCH = 25
FIRST_SEED = SEED._replace(default=1000)
MEMORY_STEPS = 5  # a walk this short needs as much memory as a long one
WHAT, MEASURE = "What is compared", "How it is measured"


def command(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the results; the same command goes on there.", metavar="DIR"),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="text, lgp, lgp-paper, pnp, lgp-pnp, sketch-loss, sketch-attention, sdedit, controlnet or "
            "t2i-adapter, with settings if wanted: lgp:strength=3,stop=0.5; controlnet:path=DIR. Give it several "
            f"times. Default: {', '.join(METHODS)}.",
            metavar="NAME[:KEY=VALUE,…]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help=f"quickdraw, icons, tuberlin, {GIVEN} (those of --drawings) or {OWN} (edges of pictures that the "
            "model makes itself), also spoiled: quickdraw-thick, -thin, -broken, -shifted, -inverted, -stray. Give it "
            f"several times. Default: those that there are; where there are none, {OWN}.",
            metavar="NAME",
            rich_help_panel=WHAT,
        ),
    ] = None,
    given: Annotated[
        Path | None,
        typer.Option(
            "--drawings",
            help="Folder of your own drawings, SVG or pictures, with prompts as `sketchguide train` has captions: a "
            "metadata.jsonl, a .txt beside each, the name of the sub-folder; else the words of the file's own name.",
            metavar="FOLDER",
            rich_help_panel=WHAT,
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="A method that is compared with each of the others: its mean difference from them, drawing by "
            "drawing. May be given several times. Default: lgp, else the last.",
            metavar="METHOD",
            rich_help_panel=WHAT,
        ),
    ] = None,
    sketches: Annotated[
        int | None,
        typer.Option(
            help=f"Drawings of each set. Default: {SKETCHES}, with --quick {QUICK}.",
            min=1,
            max=10_000,
            metavar="N",
            rich_help_panel=WHAT,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Pictures of each drawing.", min=1, max=100, metavar="N", rich_help_panel=WHAT)
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            help=f"Of the first picture: {FIRST_SEED}.",
            min=SEED.low,
            max=SEED.high,
            show_default=False,
            metavar="N",
            rich_help_panel=WHAT,
        ),
    ] = FIRST_SEED.default,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help=f"{QUICK} drawings of each set, unless --sketches says how many.", rich_help_panel=WHAT
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with quickdraw/, tuberlin/, emoji128/ and class_map.json.",
            metavar="DIR",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder with tin2.safetensors, the edge detector that measures, and "
            "squeezenet1_0_imagenet.safetensors for KID and diversity.",
            metavar="DIR",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(
            help="File that benchmarks/classifier.py wrote: is the thing recognised?",
            metavar="FILE",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help=f"Pictures made at once. Default {BATCH}, of large models fewer: what a guide keeps takes memory.",
            min=1,
            max=1024,
            metavar="N",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="The model all methods run on.", metavar="NAME|PATH|HUB_ID")] = MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, …", metavar="NAME")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the folder holds.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure how well pictures follow drawings, method beside method.

    sketchguide bench -o runs/bench --quick
    sketchguide bench -o runs/bench --data ../shared/data --weights ../shared/weights
    sketchguide bench -o runs/bench --method text --method lgp --method lgp:stop=0.5

    Every method gets the same drawings, prompts and seeds. results.jsonl has
    every picture's figures, table.md the means with 95 % intervals; there are
    sheets and plots too. Stopped or failed, the same command goes on.
    """
    report = Report.of(context, as_json=as_json)
    count = sketches or (QUICK if quick else SKETCHES)
    methods = list(dict.fromkeys(method or METHODS))
    there = [*(SETS if data is not None else ()), *([GIVEN] if given is not None else ())]
    names = list(dict.fromkeys(sets or there or (OWN,)))
    compare = list(dict.fromkeys(compare or ["lgp" if "lgp" in methods else methods[-1]]))
    if others := [name for name in compare if name not in methods]:
        raise UsageError(
            f"--compare {others[0]} is none of the methods.",
            hint=f"Choose one of {', '.join(methods)}.",
            field="compare",
        )
    if missing := [name for name in names if name.partition("-")[0] in SETS and data is None]:
        raise UsageError(
            f"The set {missing[0]!r} needs data.", hint=f"Give --data, or --set {OWN}, which needs none.", field="data"
        )
    if given is None and any(name.partition("-")[0] == GIVEN for name in names):
        raise UsageError(f"The set {GIVEN!r} needs a folder.", hint="Give --drawings FOLDER.", field="drawings")
    if given is not None and output.resolve().is_relative_to(given.resolve()):
        raise UsageError(
            f"{output} lies in {given}, and what is made there would be taken for drawings.",
            hint="Give another folder for the results.",
            field="output",
        )
    if weights is not None and data is None:
        report.warn("Without --data there is no artwork to compare with, and so no KID.")
    is_folder(output)  # or nothing yet, but no file
    with report.progress("{task.fields[what]}") as bar:
        task = bar.add_task("Loading", total=None, what="")
        hush_libraries()
        from rich.markup import escape

        from sketchguide.building import build_method
        from sketchguide.evaluation.alike import REPORTS, forget, keep_alike, made_with
        from sketchguide.evaluation.benchmark import SEED_STRIDE, Benchmark, load_judges
        from sketchguide.evaluation.costs import cost_table, costs, peak_memory
        from sketchguide.evaluation.drawings import SCORED, split_name
        from sketchguide.evaluation.plots import PLOTTED, plot, plot_of, sheet_of, sheets
        from sketchguide.evaluation.summary import Summary, comparison_tables, failures, table
        from sketchguide.loading import load_backbone
        from sketchguide.machine import hardware
        from sketchguide.methods import Batch
        from sketchguide.request import Request
        from sketchguide.sizes import most_at_once

        last = seed + SEED_STRIDE * (seeds - 1) + count - 1
        if last > SEED.high:
            raise UsageError(
                f"The last picture would have seed {last}; {SEED.high} is the highest.",
                hint="Give a smaller --seed, or fewer --seeds.",
                field="seed",
            )
        kinds = {name: split_name(name, (OWN, GIVEN, *SETS)) for name in names}
        if count > SCORED and any(base == "quickdraw" for base, _ in kinds.values()):
            report.warn(
                f"Of Quick, Draw! the embedded model and its judge know all but the first {SCORED} drawings: figures "
                f"over {count} flatter it."
            )
        backbone = load_backbone(model, device=device)
        batch = batch or min(BATCH, most_at_once(backbone.default_size, backbone, guided=True))
        built = {name: build_method(name, backbone) for name in methods}
        if weights is None:
            report.warn("Without --weights the edges are found as in training, which flatters LGP; there is no KID.")
        judges = load_judges(weights, classifier=classifier, data=data, size=backbone.default_size)
        request = Request.checked(prompt="", seed=seed, model=backbone.name)
        config = made_with(backbone, request, judges, batch=batch)
        bar.update(task, description="Drawings")
        drawings = _drawings(kinds, backbone, data, given, count, batch=batch)
        asked = {answer for some in drawings.values() for drawing in some for answer in drawing.answers}
        if judges.classifier is not None and asked.isdisjoint(judges.classifier.classes):
            report.warn(
                "--classifier knows none of the things that are drawn, so nothing is recognised: drawings of "
                f"{OWN} and {GIVEN} have no classes, others those of class_map.json."
            )
        with locked(output):
            if fresh:
                forget(output)
            writes = [output / name for name in REPORTS]
            writes += [*(sheet_of(name, output) for name in names), *(plot_of(figure, output) for figure in PLOTTED)]
            keep_alike(output, config, built, afresh="--fresh, or another folder,", writes=writes)
            benchmark = Benchmark(
                backbone=backbone,
                methods={name: method.method for name, method in built.items()},
                sets=drawings,
                request=request,
                judges=judges,
                folder=output,
                seeds=seeds,
                batch=batch,
            )
            results: list[Result] = []
            bar.update(task, description="Pictures", total=len(benchmark))
            for result in benchmark:
                results.append(result)
                bar.update(task, completed=len(results), what=escape(f"{result.set}, {result.method}"))
            bar.update(task, description="Figures", what="")
            said = Summary(benchmark, results)
            rows, beside = said.rows(), [one for name in compare for one in said.comparisons(name)]
            first = next(iter(drawings.values()))[0]
            short = request.model_copy(update={"steps": MEMORY_STEPS})
            one = Batch(backbone, short, [first.prompt], [first.ink], [seed])
            memory: dict[str, int] = {}
            for name, one_built in built.items():
                try:
                    memory[name] = peak_memory(one_built.method, one)
                except OutputError:
                    raise
                except Exception:  # its rows say what it fails of
                    continue
            spent = costs(built, results, memory, floor=benchmark.floor)
            on = hardware(backbone.device.type)
            tables = "\n".join(filter(None, (table(rows), comparison_tables(beside), cost_table(spent))))
            write_text(output / "table.md", f"{on}\n\n{tables}")
            summary = {
                "hardware": on,
                "config": config,
                "rows": [asdict(row) for row in rows],
                "comparisons": [asdict(one) for one in beside],
                "costs": [asdict(row) for row in spent],
            }
            write_text(output / "summary.json", json.dumps(summary, indent=1) + "\n")
            files = [*sheets(benchmark, results, output), *plot(rows, output)]
    for reason in failures(results):
        report.warn(reason)
    report.facts = summary | {"output": str(output)}
    _show(report, rows)
    report.say(f"{output / 'table.md'}; results.jsonl, {', '.join(file.name for file in files)} beside it.")
    if lost := [row for row in rows if row.failed and not row.drawings]:
        raise FailureError(
            f"No picture of {lost[0].method} on {lost[0].set} could be made.",
            hint="The warnings say why; all other figures are kept, and the same command tries again.",
            field="method",
        )


def _drawings(
    kinds: Mapping[str, tuple[str, str]],
    backbone: Backbone,
    data: Path | None,
    folder: Path | None,
    count: int,
    *,
    batch: int,
) -> dict[str, Sequence[Drawing]]:
    from sketchguide.evaluation.drawings import given, load_set, own_edges, spoiled

    sets: dict[str, Sequence[Drawing]] = {}
    whole: dict[str, list[Drawing]] = {}  # made once, however many ways they are spoiled
    size = backbone.default_size
    for name, (base, kind) in kinds.items():
        if base in SETS and data is not None:
            sets[name] = load_set(name, data, count=count, size=size)
            continue
        if base == GIVEN and folder is not None:
            whole[base] = whole.get(base) or given(folder, count=count, size=size)
        else:
            whole[base] = whole.get(base) or own_edges(backbone, count=count, prompts=OWN_PROMPTS, batch=batch)
        sets[name] = spoiled(whole[base], kind, size=size) if kind else whole[base]
    return sets


def _show(report: Report, rows: Sequence[Row]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("set", "method", "F1", "× text", "recognised", "KID"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        figures = [(row.f1, 3), (row.ratio, 2), (row.right, 2), (row.kid, 3)]
        table.add_row(row.set, escape(row.method), *("–" if v is None else f"{v.estimate:.{n}f}" for v, n in figures))
    report.show(table)
