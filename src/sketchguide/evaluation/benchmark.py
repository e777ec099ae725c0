"""Methods x drawings x seeds, measured: every picture and every figure is kept, so that a run can be gone on with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import IconClassifier, load_classifier
from sketchguide.errors import OutputError, SketchError, UsageError
from sketchguide.evaluation.detectors import load_detector
from sketchguide.evaluation.drawings import Drawing, artwork
from sketchguide.evaluation.features import SqueezeNet, load_squeezenet
from sketchguide.evaluation.metrics import accuracy, chamfer, edge_counts, edge_f1
from sketchguide.extractors import EXTRACTORS, Extractor
from sketchguide.files import is_file
from sketchguide.images import open_image, save_png, to_images, to_tensor
from sketchguide.methods import Batch, Method
from sketchguide.request import Request

CEILING = "ground truth"  # the pictures that the maps were found in, where a set has them
TOLERANCE = 1 / 32  # of the longer side
THRESHOLDS = 9  # at which edges are counted for ODS
PART = 16  # pictures that a judge sees at once
SEED_STRIDE = 10_000  # between the seeds of one drawing
_SQUEEZENET, _TIN2 = "squeezenet1_0_imagenet.safetensors", "tin2.safetensors"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One picture. What could not be made has an `error` and no figures."""

    method: str
    set: str
    drawing: str
    prompt: str
    seed: int
    digest: str = ""  # of the drawing; older results have none
    error: str = ""
    f1: float | None = None
    precision: float | None = None
    recall: float | None = None
    chamfer: float | None = None
    counts: list[list[int]] = field(default_factory=list[list[int]])  # `edge_counts` (T, 4); older results have none
    right: float | None = None  # 1 where the classifier names a class that answers to the prompt; None: it knows none
    seconds: float | None = None  # its share of the batch; None where it was made alone because the batch had failed

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.method, self.set, self.drawing, self.seed


@dataclass(frozen=True)
class Judges:
    """Networks that measure, none of which the methods were trained with."""

    detector: Extractor
    classifier: IconClassifier | None = None
    features: SqueezeNet | None = None
    reference: Tensor | None = None  # (N, D), what `features` sees in realistic pictures

    def know_some(self, sets: Iterable[Sequence[Drawing]]) -> bool:
        """Whether the classifier knows any of the things that are drawn."""
        known = set() if self.classifier is None else set(self.classifier.classes)
        return any(not known.isdisjoint(drawing.answers) for drawings in sets for drawing in drawings)


def load_judges(weights: Path | None, *, classifier: Path | None, data: Path | None, size: tuple[int, int]) -> Judges:
    """TIN2 and SqueezeNet from the folder `weights`, and the `classifier` that benchmarks/classifier.py wrote.

    Without weights the detector is that of training, and there are no features. The reference is what they see in the
    artwork of the folder `data` at `size` (width, height), that of the pictures to be measured.

    Raises UsageError for a file that is missing and for data that is missing or damaged, WeightsError for a file that
    is no such network.
    """
    needed = {} if classifier is None else {classifier: "classifier"}
    if weights is not None:
        needed |= {weights / name: "weights" for name in (_SQUEEZENET, _TIN2)}
    for file, option in needed.items():
        if not is_file(file):
            raise UsageError(f"There is no file {file}.", hint=f"Check --{option}.", field=option)
    judge = None if classifier is None else load_classifier(classifier)
    if weights is None:
        return Judges(EXTRACTORS["edges"], judge)
    features = load_squeezenet(weights / _SQUEEZENET)
    reference = None if data is None else artwork(data, features, size=size)
    return Judges(load_detector(weights / _TIN2), judge, features, reference)


@dataclass(frozen=True)
class Benchmark:
    """Iterate it for results; those that `folder` holds already are taken from there, if they are of the same drawings.

    Drawing i of a set has the seeds `request.seed + i`, and 10,000 more for each further one: the same for every
    method. Methods take turns, batch by batch, so that their times compare. A batch that fails is made again one by
    one; what still fails is kept as failed and tried anew next time.
    """

    backbone: Backbone
    methods: Mapping[str, Method]
    sets: Mapping[str, Sequence[Drawing]]
    request: Request
    judges: Judges
    folder: Path
    seeds: int = 1
    batch: int = 25

    def __len__(self) -> int:
        return sum(len(drawings) * self.seeds for _, drawings, _ in self._parts())

    def __iter__(self) -> Iterator[Result]:
        done = {r.key: r for r in read_results(self.folder) if not r.error}
        parts = list(self._parts())
        for set_name, drawings in self.sets.items():
            methods = [(label, method) for (label, name), _, method in parts if name == set_name]
            jobs = [
                (drawing, self.request.seed + SEED_STRIDE * k + i)
                for k in range(self.seeds)
                for i, drawing in enumerate(drawings)
            ]
            for first in range(0, len(jobs), self.batch):
                for label, method in methods:
                    left: list[tuple[Drawing, int]] = []
                    together = jobs[first : first + self.batch]
                    for drawing, seed in together:
                        found = done.get((label, set_name, drawing.name, seed))
                        if found is not None and found.digest in ("", drawing.digest) and self._opens(found):
                            yield found
                        else:
                            left.append((drawing, seed))
                    if left:
                        results = self._measured(label, set_name, method, left, timed=len(left) == len(together))
                        self._keep(results)
                        yield from results

    @property
    def floor(self) -> str | None:
        """The first method that has the prompt alone."""
        return next((label for label in self.methods if label.partition(":")[0] == "text"), None)

    def labels(self) -> list[tuple[str, str]]:
        """Method and set of every row there will be, CEILING with the methods."""
        return [part for part, _, _ in self._parts()]

    def pictures(self, results: Sequence[Result]) -> Tensor:
        """The kept pictures (N, 3, H, W) in [-1, 1] of results that did not fail."""
        return to_tensor([open_image(picture_of(result, self.folder)) for result in results])

    def _parts(self) -> Iterator[tuple[tuple[str, str], Sequence[Drawing], Method | None]]:
        for set_name, drawings in self.sets.items():
            for label, method in self.methods.items():
                yield (label, set_name), drawings, method
            if all(drawing.picture is not None for drawing in drawings):
                yield (CEILING, set_name), drawings, None

    def _opens(self, result: Result) -> bool:
        try:
            open_image(picture_of(result, self.folder))
        except SketchError:
            return False
        return True

    def _measured(
        self,
        label: str,
        set_name: str,
        method: Method | None,
        jobs: Sequence[tuple[Drawing, int]],
        *,
        timed: bool = True,
    ) -> list[Result]:
        def result(job: tuple[Drawing, int], **figures: Any) -> Result:
            drawing, seed = job
            named = {"drawing": drawing.name, "prompt": drawing.prompt, "digest": drawing.digest}
            return Result(method=label, set=set_name, seed=seed, **named, **figures)

        # what else a computer does, and a halt, are no part of the time of a processor
        clock = time.process_time if self.backbone.device.type == "cpu" else time.monotonic
        started = clock()
        try:
            pictures, reason = self._made(method, jobs), ""
        except OutputError:
            raise
        except Exception as error:  # whatever a method raises costs its own pictures alone
            pictures, reason = None, f"{type(error).__name__}: {error}"
        if pictures is None:  # not within `except`, where the error keeps all that the batch had in memory
            if len(jobs) == 1:
                return [result(jobs[0], error=reason)]
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            # One by one takes longer than the batches of the others: these times would not compare.
            return [r for job in jobs for r in self._measured(label, set_name, method, [job], timed=False)]
        seconds = (clock() - started) / len(jobs)
        target = torch.stack([torch.tensor(drawing.lines.ink)[None] for drawing, _ in jobs])
        images = to_images(pictures)
        pictures = to_tensor(images)  # what is measured is what is kept
        found = torch.cat([self.judges.detector(part) for part in pictures.split(PART)])
        tolerance = TOLERANCE * max(target.shape[-2:])
        edges = edge_f1(found, target, tolerance=tolerance)
        counts = edge_counts(found, target, tolerance=tolerance, thresholds=THRESHOLDS)
        distances = chamfer(found, target)
        right = self._right(pictures, [drawing for drawing, _ in jobs])
        results = [
            result(
                job,
                f1=float(edges.f1[i]),
                precision=float(edges.precision[i]),
                recall=float(edges.recall[i]),
                chamfer=float(distances[i]),
                counts=counts[i].tolist(),
                right=right[i],
                seconds=seconds if timed and method is not None else None,
            )
            for i, job in enumerate(jobs)
        ]
        for image, one in zip(images, results, strict=True):
            self._save(image, picture_of(one, self.folder))
        return results

    def _made(self, method: Method | None, jobs: Sequence[tuple[Drawing, int]]) -> Tensor:
        if method is None:
            return torch.stack([d.picture for d, _ in jobs if d.picture is not None])
        drawings, seeds = zip(*jobs, strict=True)
        batch = Batch(self.backbone, self.request, [d.prompt for d in drawings], [d.ink for d in drawings], seeds)
        latent: Tensor | None = None
        for moment in method(batch):
            latent = moment.latent
        if latent is None or not latent.isfinite().all():
            raise ValueError("the result is not finite")
        pictures = self.backbone.decode(latent)
        if not pictures.isfinite().all():
            raise ValueError("the decoded result is not finite")
        return pictures.clamp(-1, 1).cpu()

    @torch.no_grad()
    def _right(self, pictures: Tensor, drawings: Sequence[Drawing]) -> list[float | None]:
        classifier = self.judges.classifier
        known = [tuple(c for c in d.answers if classifier and c in classifier.classes) for d in drawings]
        right: list[float | None] = [None] * len(drawings)
        rows = [i for i, answers in enumerate(known) if answers]
        if classifier is not None and rows:
            hits = accuracy(classifier(pictures[rows]), classifier.accepted([known[i] for i in rows]))
            for i, hit in zip(rows, hits.tolist(), strict=True):
                right[i] = hit
        return right

    def _save(self, image: Image.Image, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot write to {file.parent}: {error.strerror}.", field="output") from error
        save_png(image, file)

    def _keep(self, results: Sequence[Result]) -> None:
        text = "".join(json.dumps(asdict(result)) + "\n" for result in results)
        try:
            with (self.folder / "results.jsonl").open("a+b") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    text = "\n" + text  # a kill cut the last line short
                file.write(text.encode("ascii"))
        except OSError as error:
            raise OutputError(
                f"{self.folder / 'results.jsonl'} cannot be written: {error.strerror}.",
                hint="Make room; the same command goes on.",
                field="output",
            ) from error


def picture_of(result: Result, folder: Path) -> Path:
    """The file of the picture of a result that `folder` holds."""
    return folder / "pictures" / result.set / folder_of(result.method) / f"{result.drawing}-{result.seed}.png"


def folder_of(label: str) -> str:
    """The name of a method's folder of pictures: unlike that of any other label, and at most 89 letters long."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-._=") else "_" for c in label)[:80]
    return name if name == label else f"{name}-{sha256(label.encode()).hexdigest()[:8]}"


def read_results(folder: Path) -> list[Result]:
    """What `folder` holds so far, the latest of each picture; lines cut short by a kill are passed over."""
    file = folder / "results.jsonl"
    latest: dict[Any, Result] = {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    except OSError as error:
        raise OutputError(f"{file} cannot be read: {error.strerror}.", field="output") from error
    for line in lines:
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError):
            continue
        latest[result.key] = result
    return list(latest.values())
