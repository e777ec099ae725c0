"""The sizes that a model can make, and how many pictures of one it makes at once."""

from __future__ import annotations

import math
from itertools import product

from sketchguide.backbones.base import Backbone
from sketchguide.errors import UsageError, warn

MOST_TIMES = 64  # the pixels that a model was trained for: more take hours, and show nothing whole
MAX_ASPECT = 2.0  # of sizes that are chosen here
BATCH = 8  # pictures made at once, at most
_ROOM = 8 * 64 * 64  # latent pixels at once: eight pictures of Stable Diffusion 1.x
_GUIDED_ROOM = 2 * 64 * 64  # a guide's gradient keeps what the whole network computes


def check_size(size: tuple[int, int], backbone: Backbone) -> tuple[int, int]:
    """`size` (width, height) itself, or a UsageError naming the nearest size the model can make."""
    size, step = (size[0], size[1]), backbone.multiple
    if backbone.largest is not None and max(size) > backbone.largest:
        raise UsageError(
            f"size is {size[0]}x{size[1]}; {backbone.name} has places for {backbone.largest} pixels a side.",
            hint="Take a smaller one.",
            field="size",
        )
    if (times := math.prod(size) / math.prod(backbone.default_size)) > MOST_TIMES:
        raise UsageError(
            f"size is {size[0]}x{size[1]}, {times:.0f} times the pixels that {backbone.name} was trained for; at most "
            f"{MOST_TIMES} times are made.",
            hint="Take a smaller one, and enlarge the picture elsewhere.",
            field="size",
        )
    nearest = tuple(max(step, round(side / step) * step) for side in size)
    if nearest != size:
        raise UsageError(
            f"size is {size[0]}x{size[1]}; {backbone.name} needs multiples of {step} pixels.",
            hint=f"The nearest is {nearest[0]}x{nearest[1]}.",
            field="size",
        )
    return size


def cut_off(own: tuple[int, int], size: tuple[int, int]) -> float:
    """The share of a picture of `own` size that is cut off to fill `size`, both (width, height); 0 where the hundredth
    part or less is.
    """
    ratio = own[0] * size[1] / (own[1] * size[0])
    share = 1 - min(ratio, 1 / ratio)
    return share if share > 0.01 else 0.0


def warn_of_size(size: tuple[int, int], backbone: Backbone) -> None:
    """Warn of a size (width, height) of which a side is more than a fifth longer or shorter than the model's own."""
    if any(not 0.8 <= side / own <= 1.2 for side, own in zip(size, backbone.default_size, strict=True)):
        own = "{} × {}".format(*backbone.default_size)
        warn(f"The size is {size[0]} × {size[1]}; {backbone.name} was trained for {own}.")


def batch_size(size: tuple[int, int], backbone: Backbone, *, guided: bool) -> int:
    """How many pictures of `size` (width, height) are made at once: fewer the larger they are, and where a guide
    pulls, so that many need hardly more memory than one or two.

    It is the same on every machine, since the rounding of a picture depends on it.
    """
    return min(BATCH, most_at_once(size, backbone, guided=guided))


def most_at_once(size: tuple[int, int], backbone: Backbone, *, guided: bool) -> int:
    """How many pictures of `size` (width, height) memory is meant to suffice for."""
    area = max(1, math.prod(size) // backbone.stride**2)
    return max(1, (_GUIDED_ROOM if guided else _ROOM) // area)


def fitting_size(aspect: float, backbone: Backbone) -> tuple[int, int]:
    """(width, height) that the model can make, near its own number of pixels and near `aspect` (width / height)."""
    step, (width, height) = backbone.multiple, backbone.default_size
    aspect = min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT)

    def error(size: tuple[int, int]) -> float:
        pixels = size[0] * size[1] / (width * height)
        return abs(math.log(size[0] / size[1] / aspect)) + 0.5 * abs(math.log(pixels))

    sides = range(step, 2 * max(width, height) + 1, step)
    return min(product(sides, sides), key=error)
