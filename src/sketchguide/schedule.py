"""The noise levels that the walks of a request take, and which of its steps those are."""

from __future__ import annotations

import math

from sketchguide.backbones.base import Backbone
from sketchguide.errors import UsageError
from sketchguide.levels import Level
from sketchguide.request import Request


def levels_of(request: Request, backbone: Backbone) -> list[Level]:
    """The levels of a whole walk with the steps and solver of `request`."""
    return backbone.levels(request.steps, solver_name(request, backbone), request.size)


def solver_name(request: Request, backbone: Backbone) -> str:
    """The one that is asked for, else the model's own."""
    return request.solver or next(iter(backbone.solvers))


def steps_of(amount: float, request: Request) -> int:
    """How many of the steps of `request` are the last `amount` (0..1] of them: at least one."""
    if not 0 < amount <= 1:
        raise UsageError(f"amount is {amount}; it must be above 0 and at most 1.", field="amount")
    return max(1, round(amount * request.steps))


def steps_walked(request: Request) -> int:
    """How many steps are walked to a picture."""
    return request.steps if request.edit is None else steps_of(request.edit.amount, request)


def steps_until(progress: float, request: Request) -> int:
    """How many of the steps that are walked begin before that progress."""
    skipped = request.steps - steps_walked(request)
    return max(0, math.ceil(progress * request.steps - 1e-9) - skipped)


def progress_at(request: Request, part: float) -> float:
    """The progress at `part` of the steps that are walked: an edit walks the last ones only."""
    if request.edit is None:
        return part
    walked = steps_of(request.edit.amount, request)
    return min(1.0, (request.steps - walked + part * walked) / request.steps)  # the very progress of that step
