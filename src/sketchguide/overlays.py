"""A picture of which a part is changed: what the model sees of it, and how what the model makes is laid over it.

As in diffusers' inpainting pipelines (`padding_mask_crop`) and Stable Diffusion web UI (inpaint area: only masked), the
model works at a size of its own on the picture or a crop of it, and what lies outside the mask keeps its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sketchguide.areas import drawn_area, grown_by
from sketchguide.errors import UsageError
from sketchguide.images import from_grey, to_images
from sketchguide.sketch import Sketch

_FINE = 512  # pixels of the longer side of the map that areas are looked for in


class Region(NamedTuple):
    """A box in a picture, in its pixels, of which it may take fractions."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def within(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom as fractions of a picture of `size` (width, height)."""
        width, height = size
        return (self.left / width, self.top / height, self.right / width, self.bottom / height)

    def outside(self, other: Region) -> float:
        """The share of this region, 0 to 1, that lies outside another one."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return 1 - max(0.0, width) * max(0.0, height) / (self.width * self.height)


def changed_region(sketch: Sketch | None, size: tuple[int, int], margin: float) -> Region:
    """The box around what a drawing on a picture of `size` (width, height) changes: `drawn_area` with that margin.

    From a margin of 1 on there need be no drawing.
    """
    width, height = size
    if margin >= 1:
        return Region(0, 0, width, height)
    assert sketch is not None  # else nothing says what changes
    columns, rows = (max(8, round(_FINE * side / max(size))) for side in size)
    ink = sketch.rasterize(size=(columns, rows), line_width=1 / _FINE).ink  # not the usual width: that is the crop's
    area = drawn_area(torch.tensor(ink)[None, None], margin)[0, 0]
    (top, bottom), (left, right) = (
        (int(found[0]), int(found[-1]) + 1) for found in (area.any(dim=axis).nonzero() for axis in (1, 0))
    )
    return Region(left * width / columns, top * height / rows, right * width / columns, bottom * height / rows)


def masked_region(mask: Image.Image, size: tuple[int, int]) -> Region:
    """The box around what is white in a mask that lies over a picture of `size` (width, height).

    Raises UsageError where nothing is.
    """
    box = Image.fromarray(_white(mask)).getbbox()
    if box is None:
        raise UsageError(
            "The mask is black: nothing would change.", hint="Paint what is to change white.", field="mask"
        )
    across, down = size[0] / mask.width, size[1] / mask.height
    return Region(box[0] * across, box[1] * down, box[2] * across, box[3] * down)


def region_changed(mask: Image.Image | None, sketch: Sketch | None, size: tuple[int, int], margin: float) -> Region:
    """The box in a picture of `size` (width, height) around what an edit changes: by its mask, else by its sketch."""
    return changed_region(sketch, size, margin) if mask is None else masked_region(mask, size)


def masked_area(mask: Image.Image, region: Region, whole: tuple[int, int], *, size: tuple[int, int]) -> Tensor:
    """What is white in a mask over a picture of the size `whole`, as one (1, 1, H, W) of 0 and 1 of what a model sees
    of it, `region`, at `size` (width, height). Raises UsageError where nothing is left of it there.
    """
    across, down = mask.width / whole[0], mask.height / whole[1]
    box = (region.left * across, region.top * down, region.right * across, region.bottom * down)
    seen = mask.convert("L").resize(size, Image.Resampling.BILINEAR, box=box)
    area = torch.from_numpy(_white(seen)).float()[None, None]
    if not area.any():
        raise UsageError(
            f"What is white in the mask is no pixel of the {size[0]} × {size[1]} that the model sees.",
            hint="Let it see a crop with padding_mask_crop.",
            field="mask",
        )
    return area


def _white(mask: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(mask.convert("L")) > 127


def padded(region: Region, padding: int, size: tuple[int, int]) -> Region:
    """`region` with `padding` pixels around it, as far as the picture of `size` (width, height) goes."""
    left, top = max(0, region.left - padding), max(0, region.top - padding)
    return Region(left, top, min(size[0], region.right + padding), min(size[1], region.bottom + padding))


def seen_aspect(changed: Region, size: tuple[int, int], *, own: tuple[int, int], padding: int | None) -> float:
    """The aspect (width / height) of what the model best sees of a picture of `size`: with `padding`, which is as in
    `seen_region`, that of its `own` size as far as such a crop fits into the picture, and without the picture's.
    """
    if padding is None:
        return size[0] / size[1]
    around = padded(changed, padding, size)
    scale = max(around.width / own[0], around.height / own[1])
    return min(size[0], scale * own[0]) / min(size[1], scale * own[1])


def seen_region(changed: Region, size: tuple[int, int], *, working: tuple[int, int], padding: int | None) -> Region:
    """What the model, which works at the size `working`, sees of a picture of `size` (both width, height).

    It has the aspect of `working` and holds `changed`, as far as that fits. With `padding` it is the smallest such
    region that holds so many pixels around it too; None: the largest that the picture has, in its middle or as far
    from there as it takes to hold a little around it.

    Raises:
        UsageError: hardly anything of the picture would be left.
    """
    (width, height), (columns, rows) = size, working
    largest = (width, width * rows / columns) if width * rows <= height * columns else (height * columns / rows, height)
    if padding is None:
        middle, sides = (width / 2, height / 2), largest
        around = padded(changed, math.ceil(max(largest) / 16), size)
    else:
        around = padded(changed, padding, size)
        middle = ((around.left + around.right) / 2, (around.top + around.bottom) / 2)
        scale = max(around.width / columns, around.height / rows)
        sides = min(largest, (scale * columns, scale * rows))
    if min(sides) < 2:
        raise UsageError(
            f"size is {columns}x{rows}: of the picture of {width} × {height} that leaves less than two pixels.",
            hint="Give a size nearer to its aspect.",
            field="size",
        )
    across = [(one.left, one.right) for one in (around, changed)]
    down = [(one.top, one.bottom) for one in (around, changed)]
    left, top = _start(middle[0], sides[0], across, width), _start(middle[1], sides[1], down, height)
    edges = (left, top, left + sides[0], top + sides[1])
    return Region(*(round(edge, 6) for edge in edges))  # the last pixel is not lost to rounding


def _start(middle: float, side: float, held: Sequence[tuple[float, float]], end: float) -> float:
    """Where a stretch of length `side` within 0..`end` starts: about `middle`, but it holds others, first of all the
    last of them.
    """
    start = middle - side / 2
    for low, high in held:
        start = min(max(start, high - side), low) if high - low <= side else (low + high - side) / 2
    return min(max(start, 0), end - side)


@dataclass(frozen=True)
class Overlay:
    """A picture, and where and how much it changes.

    Attributes:
        image: RGB, of any size.
        region: what the model sees of it.
        seen: that, at the size (width, height) that the model works at, as a tensor (1, 3, H, W) in [-1, 1].
        area: (1, 1, H, W) of 0 and 1, what may change there.
        mask: (1, 1, H, W) in [0, 1], how much does.
    """

    image: Image.Image
    region: Region
    seen: Tensor
    area: Tensor
    mask: Tensor

    def blended(self, made: Tensor) -> Tensor:
        """What the model made (B, 3, H, W), laid over what it saw."""
        return torch.lerp(self.seen.to(made), made, self.mask.to(made))

    @property
    def most(self) -> float:
        """How much what changes most does, 0 to 1."""
        return float((self.mask if self._is_whole else self._shrunk(self._spread)).max())

    @property
    def _is_whole(self) -> bool:
        """Whether the model sees the whole picture, pixel by pixel."""
        return self.image.size == self._size and tuple(self.region) == (0, 0, *self._size)

    @property
    def _size(self) -> tuple[int, int]:
        """(width, height) that the model works at."""
        return self.mask.shape[-1], self.mask.shape[-2]

    @property
    def _spread(self) -> int:
        """Pixels of the model's by which scaling spreads the mask."""
        width, height = self._size
        return math.ceil(max(1.0, width / self.region.width, height / self.region.height))

    def laid(self, made: Tensor) -> Image.Image:
        """What the model made (3, H, W), laid over the whole picture, in its size.

        Not a pixel outside the area changes: before it is scaled the mask is shrunk by as much as that spreads it.
        """
        height, width = made.shape[-2:]
        if self._is_whole:
            (image,) = to_images(self.blended(made[None]))
            return image
        left, top = math.ceil(self.region.left), math.ceil(self.region.top)
        right, bottom = math.floor(self.region.right), math.floor(self.region.bottom)
        across, down = width / self.region.width, height / self.region.height
        box = (
            (left - self.region.left) * across,
            (top - self.region.top) * down,
            min(width, (right - self.region.left) * across),
            min(height, (bottom - self.region.top) * down),
        )
        (patch,) = to_images(made[None])
        mask = from_grey(self._shrunk(self._spread)[0, 0].cpu().numpy())
        size = (right - left, bottom - top)
        image = self.image.copy()
        image.paste(
            patch.resize(size, Image.Resampling.LANCZOS, box=box),
            (left, top),
            mask.resize(size, Image.Resampling.BILINEAR, box=box),
        )
        return image

    def _shrunk(self, pixels: int) -> Tensor:
        """The mask less `pixels` at its edges, and at those of the region that are none of the picture."""
        width, height = self.image.size
        inner = (self.region.left > 0, self.region.right < width, self.region.top > 0, self.region.bottom < height)
        sides = [pixels if one else 0 for one in inner]
        kept = grown_by(torch.nn.functional.pad(1 - self.mask, sides, value=1.0), pixels)
        rows, columns = self.mask.shape[-2:]
        return 1 - kept[..., sides[2] : sides[2] + rows, sides[0] : sides[0] + columns]
