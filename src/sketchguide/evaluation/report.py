"""Methods beside each other in a folder: from what is built to rows, comparisons and costs, and files of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sketchguide.backbones.base import Backbone
from sketchguide.evaluation.alike import REPORTS, keep_alike, made_with
from sketchguide.evaluation.benchmark import Benchmark, Judges, Result
from sketchguide.evaluation.costs import Cost, cost_table, costs, memory_of
from sketchguide.evaluation.drawings import Drawing
from sketchguide.evaluation.plots import PLOTTED, plot, plot_of, sheet_of, sheets
from sketchguide.evaluation.summary import Comparison, Row, Summary, comparison_tables, table
from sketchguide.files import write_text
from sketchguide.machine import hardware
from sketchguide.methods import Batch, Built
from sketchguide.request import Request

MEMORY_STEPS = 5  # a walk this short needs as much memory as a long one


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a benchmark found, and on what."""

    hardware: str
    config: Mapping[str, Any]  # what all its results have in common
    rows: list[Row]
    comparisons: list[Comparison]
    costs: list[Cost]

    @property
    def tables(self) -> str:
        """As Markdown."""
        shown = (table(self.rows), comparison_tables(self.comparisons), cost_table(self.costs))
        return "\n".join(filter(None, shown))


class Study:
    """`methods` on `sets` of drawings, whose `benchmark` keeps its results in `folder`. `seed` is that of the first
    picture; all other settings are those of the methods.
    """

    def __init__(
        self,
        backbone: Backbone,
        methods: Mapping[str, Built],
        sets: Mapping[str, Sequence[Drawing]],
        judges: Judges,
        folder: Path,
        *,
        seed: int,
        seeds: int,
        batch: int,
    ) -> None:
        request = Request.checked(prompt="", seed=seed, model=backbone.name)
        self.methods = methods
        self.config = made_with(backbone, request, judges, batch=batch)
        self.benchmark = Benchmark(
            backbone=backbone,
            methods={name: built.method for name, built in methods.items()},
            sets=sets,
            request=request,
            judges=judges,
            folder=folder,
            seeds=seeds,
            batch=batch,
        )

    def claim(self, *, afresh: str, writes: Sequence[Path] = ()) -> None:
        """`keep_alike` for the folder of the study."""
        keep_alike(self.benchmark.folder, self.config, self.methods, afresh=afresh, writes=writes)

    def findings(self, results: Sequence[Result], *, compare: Iterable[str]) -> Findings:
        """What all `results` of the benchmark say, the methods `compare` beside each of the others."""
        benchmark = self.benchmark
        said = Summary(benchmark, results)
        first = next(iter(benchmark.sets.values()))[0]
        short = benchmark.request.model_copy(update={"steps": MEMORY_STEPS})
        memory = memory_of(
            self.methods, Batch(benchmark.backbone, short, [first.prompt], [first.ink], [benchmark.request.seed])
        )
        return Findings(
            hardware=hardware(benchmark.backbone.device.type),
            config=self.config,
            rows=said.rows(),
            comparisons=[one for name in compare for one in said.comparisons(name)],
            costs=costs(self.methods, results, memory, floor=benchmark.floor),
        )

    def write(self, findings: Findings, results: Sequence[Result]) -> list[Path]:
        """Write the tables and figures of `findings`, and the sheets and plots, whose files are returned. Raises
        OutputError."""
        folder = self.benchmark.folder
        text, data = (folder / name for name in REPORTS)
        write_figures(asdict(findings), findings.tables, text=text, data=data)
        return [*sheets(self.benchmark, results, folder), *plot(findings.rows, folder)]


def files_of(sets: Iterable[str], folder: Path) -> list[Path]:
    """All that `Study.write` may write to `folder`."""
    drawn = [*(sheet_of(name, folder) for name in sets), *(plot_of(figure, folder) for figure in PLOTTED)]
    return [*(folder / name for name in REPORTS), *drawn]


def write_figures(facts: Mapping[str, Any], tables: str, *, text: Path, data: Path) -> None:
    """Write `tables` under the name of the hardware that `facts` have, and `facts` as JSON. Raises OutputError."""
    write_text(text, f"{facts['hardware']}\n\n{tables}")
    write_text(data, json.dumps(facts, indent=1) + "\n")
