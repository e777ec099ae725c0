"""`sketchguide bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.session import is_folder
from sketchguide.defaults import MODEL, SEED
from sketchguide.errors import FailureError, UsageError
from sketchguide.evaluation.sets import GIVEN, OF_DATA, OWN
from sketchguide.files import locked

if TYPE_CHECKING:
    from sketchguide.evaluation.benchmark import Result
    from sketchguide.evaluation.summary import Row

METHODS = ("text", "lgp", "lgp-paper", "sdedit")
SKETCHES, QUICK = 200, 12
BATCH = 25
FIRST_SEED = SEED._replace(default=1000)
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
    there = [*(OF_DATA if data is not None else ()), *([GIVEN] if given is not None else ())]
    names = list(dict.fromkeys(sets or there or (OWN,)))
    compare = list(dict.fromkeys(compare or ["lgp" if "lgp" in methods else methods[-1]]))
    if others := [name for name in compare if name not in methods]:
        raise UsageError(
            f"--compare {others[0]} is none of the methods.",
            hint=f"Choose one of {', '.join(methods)}.",
            field="compare",
        )
    _check_sets(names, data, given, output)
    if weights is not None and data is None:
        report.warn("Without --data there is no artwork to compare with, and so no KID.")
    is_folder(output)  # or nothing yet, but no file
    with report.progress("{task.fields[what]}") as bar:
        task = bar.add_task("Loading", total=None, what="")
        hush_libraries()
        from rich.markup import escape

        from sketchguide.building import build_method
        from sketchguide.evaluation.alike import forget
        from sketchguide.evaluation.benchmark import SEED_STRIDE, load_judges
        from sketchguide.evaluation.drawings import SCORED, load_sets, split_name
        from sketchguide.evaluation.report import Study, files_of
        from sketchguide.evaluation.summary import failures
        from sketchguide.loading import load_backbone
        from sketchguide.sizes import most_at_once

        last = seed + SEED_STRIDE * (seeds - 1) + count - 1
        if last > SEED.high:
            raise UsageError(
                f"The last picture would have seed {last}; {SEED.high} is the highest.",
                hint="Give a smaller --seed, or fewer --seeds.",
                field="seed",
            )
        bases = [split_name(name, (OWN, GIVEN, *OF_DATA))[0] for name in names]  # refuses what there is not
        if count > SCORED and "quickdraw" in bases:
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
        bar.update(task, description="Drawings")
        drawings = load_sets(names, backbone, data=data, folder=given, count=count, batch=batch)
        if judges.classifier is not None and not judges.know_some(drawings.values()):
            report.warn(
                "--classifier knows none of the things that are drawn, so nothing is recognised: drawings of "
                f"{OWN} and {GIVEN} have no classes, others those of class_map.json."
            )
        study = Study(backbone, built, drawings, judges, output, seed=seed, seeds=seeds, batch=batch)
        with locked(output):
            if fresh:
                forget(output)
            study.claim(afresh="--fresh, or another folder,", writes=files_of(names, output))
            results: list[Result] = []
            bar.update(task, description="Pictures", total=len(study.benchmark))
            for result in study.benchmark:
                results.append(result)
                bar.update(task, completed=len(results), what=escape(f"{result.set}, {result.method}"))
            bar.update(task, description="Figures", what="")
            findings = study.findings(results, compare=compare)
            files = study.write(findings, results)
    for reason in failures(results):
        report.warn(reason)
    report.facts = asdict(findings) | {"output": str(output)}
    _show(report, findings.rows)
    report.say(f"{output / 'table.md'}; results.jsonl, {', '.join(file.name for file in files)} beside it.")
    if lost := [row for row in findings.rows if row.lost]:
        raise FailureError(
            f"No picture of {lost[0].method} on {lost[0].set} could be made.",
            hint="The warnings say why; all other figures are kept, and the same command tries again.",
            field="method",
        )


def _check_sets(names: Sequence[str], data: Path | None, given: Path | None, output: Path) -> None:
    """UsageError where there is nothing to read the sets from, or what would be read is what is written."""
    if missing := [name for name in names if name.partition("-")[0] in OF_DATA and data is None]:
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
