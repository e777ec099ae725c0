"""Does a picture show what its prompt names? One that seems not to is made again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import IconClassifier, find_class_in
from sketchguide.defaults import SURE, TRIES
from sketchguide.errors import UsageError, warn
from sketchguide.files import is_file
from sketchguide.sampling import Begun, Evaluations, Moment
from sketchguide.shipped import EMBEDDED, RECOGNISER, find_part

KEPT = 0.8  # of the steps that follow a drawing, by the second of several tries
LATER = 0.3  # of the strength, after what a try keeps


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A classifier of pictures that is asked how sure it is, 0 to 1, that each shows what its prompt names.

    A picture of less than `sure` is tried again, `tries` times in all.
    """

    classifier: IconClassifier
    tries: int = TRIES.default
    sure: float = SURE.default

    def classes_of(self, prompts: Sequence[str]) -> list[int]:
        """The class that each prompt names; UsageError where one names none."""
        return [find_recognised(prompt, self.classifier.classes) for prompt in prompts]

    @torch.no_grad()
    def confidence(self, pictures: Tensor, classes: Sequence[int]) -> Tensor:
        """Probabilities (B,) that `pictures` (B, 3, H, W), in [-1, 1] and cut to it, show `classes`."""
        every = self.classifier(pictures.clamp(-1, 1).float()).softmax(dim=1)
        return every[torch.arange(len(every)), torch.tensor(classes, device=every.device)]


def find_recognised(prompt: str, classes: Sequence[str]) -> int:
    """The class of a recogniser's `classes` that `prompt` names; UsageError where it names none."""
    try:
        return find_class_in(prompt, classes)
    except UsageError as error:
        raise UsageError(
            f"{prompt!r} names none of the {len(classes)} things that the recogniser knows.",
            hint=f"{error.hint} Name one of them, or leave tries at 1.",
            field="tries",
        ) from error


def find_recogniser(name: str | None, backbone: Backbone) -> Path:
    """The classifier's file: `name` itself or in that folder, or for None the one that is shipped. A folder may hold a
    recogniser or what `sketchguide component classifier` wrote.

    Raises ModelNotFoundError; warns where what is shipped was trained for another model.
    """
    own = name is not None and not is_file(Path(name) / f"{RECOGNISER}.safetensors")
    part = "classifier" if own and is_file(Path(str(name)) / "classifier.safetensors") else RECOGNISER
    return find_part(name, part, field="recogniser", model=backbone.name)


def words_of(fingerprint: str) -> list[str]:
    """What the shipped model of that `fingerprint`, as it was trained, knows, in any precision; empty for any other."""
    file = EMBEDDED / "words.json"
    known: dict[str, list[str]] = json.loads(file.read_text()) if is_file(file) else {"models": []}
    return known["words"] if fingerprint in known["models"] else []


def warn_of_unknown(prompts: Sequence[str], backbone: Backbone, fingerprint: str) -> None:
    """Warn of prompts that name nothing that `backbone`, a shipped model as it was trained, was shown.

    Of a model whose `fingerprint` none of them has, as with a LoRA, nobody knows what it knows.
    """
    words = words_of(fingerprint)
    for prompt in prompts if words else ():
        try:
            find_class_in(prompt, words)
        except UsageError:
            given = list(dict.fromkeys(re.findall(r"[^\W\d_]{3,40}", prompt.casefold())))[:30]  # more take seconds
            near = list(dict.fromkeys(name for word in given for name in get_close_matches(word, words, 1, 0.8)))
            meant = f" Did you mean {', '.join(near)}?" if near else ""
            message = f"{prompt!r} names nothing that {backbone.name} knows, and may come out as a blob.{meant}"
            warn(f"{message} docs/models.md lists what it knows.")


class Attempt(NamedTuple):
    """Where the walk of some of the pictures stands."""

    number: int  # which try it is, from 1
    rows: Sequence[int]  # of which pictures
    moment: Moment
    before: Evaluations  # of the tries before this one


class Tried(NamedTuple):
    """Pictures after their last try, each the one that was recognised best."""

    latent: Tensor  # (B, C, h, w)
    pictures: Tensor  # (B, 3, H, W), what is finished of it
    evaluations: Evaluations  # of all tries; one that only some of the pictures needed counts in full
    tries: tuple[int, ...]  # which one each picture is, from 1
    confidence: tuple[float, ...]  # empty where there is no recogniser


class Easing(NamedTuple):
    """How a try follows a drawing less than the first one does."""

    kept: float  # that part of the steps in which it is followed are those of the first try
    share: float  # of the strength in the others


def easing_of(number: int, tries: int) -> Easing:
    """How try `number` of `tries` follows a drawing: each goes back further than the one before, the last to the noise,
    and follows by LATER of the strength from there."""
    if number == 1:
        return Easing(0, 1)
    return Easing(KEPT * ((tries - number) / max(tries - 2, 1)), LATER)


def resumed(first: Sequence[Tensor], rows: Sequence[int], steps: int) -> Begun | None:
    """The first try of some of the pictures after so many steps; `first` as in Walk."""
    return Begun(first[steps - 1][list(rows)], steps) if steps else None


# The moments of the pictures with these numbers at the try of that number, from 1. With later tries come the latents
# after each step of the first one, of all pictures, from which a walk may be resumed.
Walk = Callable[[Sequence[int], int, Sequence[Tensor]], Iterator[Moment]]
# Of finished latents (B, C, h, w) the pictures (B, 3, H, W), about in [-1, 1].
Finish = Callable[[Tensor], Tensor]
# Of these pictures what the recogniser sees of them, of the same shape.
Show = Callable[[Tensor], Tensor]


def walk_until_recognised(
    walk: Walk,
    finish: Finish,
    prompts: Sequence[str],
    recogniser: Recogniser | None,
    *,
    show: Show | None = None,
    easing: bool = True,
) -> Iterator[Attempt | Tried]:
    """Walk the pictures of `prompts`, and those that `recogniser` is not sure of again; Tried comes last.

    Of a picture that stays below `sure` the try is kept that the recogniser is surest of. Without one there is one try.
    With `easing`, where each try pulls less than the one before, the next one is passed over of a picture that is not
    half as recognisable as it must be; never the last.
    """
    tries = 1 if recogniser is None else recogniser.tries
    classes = [] if recogniser is None else recogniser.classes_of(prompts)
    due = [1] * len(prompts)  # the next try of each picture
    best, number, confidence = list[tuple[Tensor, Tensor]](), [1] * len(due), [0.0] * len(due)
    first: list[Tensor] = []
    spent = Evaluations(0, 0)
    for attempt in range(1, tries + 1):
        rows = [row for row, next_one in enumerate(due) if next_one == attempt]
        if not rows:
            continue
        moment: Moment | None = None
        for moment in walk(rows, attempt, first):
            if attempt == 1 < tries:
                first.append(moment.latent)
            yield Attempt(attempt, rows, moment, spent)
        assert moment is not None, "a walk has at least one step"
        spent = spent.plus(moment.evaluations)
        pictures = finish(moment.latent)
        if recogniser is None:
            yield Tried(moment.latent, pictures, spent, tuple(number), ())
            return
        made = list(zip(moment.latent, pictures, strict=True))
        best = best or made
        shown = pictures if show is None else show(pictures)
        found = recogniser.confidence(shown, [classes[row] for row in rows]).tolist()
        for row, one, sure in zip(rows, made, found, strict=True):
            if attempt == 1 or sure > confidence[row]:
                best[row], number[row], confidence[row] = one, attempt, sure
            if sure < recogniser.sure and attempt < tries:
                due[row] = min(attempt + (2 if easing and sure < recogniser.sure / 2 else 1), tries)
    latents, kept = zip(*best, strict=True)
    yield Tried(torch.stack(latents), torch.stack(kept), spent, tuple(number), tuple(confidence))
