"""Parts of pictures, as masks: around strokes, inside a drawing, on the pixels of latents."""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.errors import UsageError


def near_strokes(ink: Tensor, reach: float, backbone: Backbone) -> Tensor:
    """The mask (B, 1, h, w) of latent pixels within `reach` (part of the longer side) of ink (B, 1, H, W) in [0, 1]."""
    return on_latents(grown_by(ink, _pixels(reach, max(ink.shape[-2:]))), backbone)


def on_latents(mask: Tensor, backbone: Backbone) -> Tensor:
    """A mask of pictures (B, 1, H, W) as one of latents (B, 1, h, w)."""
    return torch.nn.functional.avg_pool2d(mask, backbone.stride).to(backbone.device)


def blending(area: Tensor, backbone: Backbone) -> Tensor:
    """How much of what is made shows in each pixel of a picture of which only `area` (1, 1, H, W), a mask, changes:
    less towards its edge, as far as the latent pixels there lie outside, and beyond it nothing.
    """
    size = (area.shape[-2], area.shape[-1])
    changed = torch.nn.functional.interpolate(on_latents(area, backbone), size=size, mode="bilinear")
    return changed.minimum(area.to(changed))


def drawn_area(ink: Tensor, margin: float, *, side: float | None = None) -> Tensor:
    """What a drawing (1, 1, H, W) is about, as a mask: inside its lines, and within `margin` of them.

    `margin` is part of `side`, in pixels of the drawing, or of its longer side where that is None; from 1 on it is
    everything. The lines need not quite close. Raises UsageError where there are none.
    """
    if margin >= 1:
        return torch.ones_like(ink)
    grown = grown_by((ink > 0.5).float(), _pixels(margin, max(ink.shape[-2:]) if side is None else side))
    if not grown.any():
        raise UsageError(
            "The drawing is blank: nothing would change.",
            hint="Draw something, or change everything with margin 1.",
            field="sketch",
        )
    filled = ndimage.binary_fill_holes(grown[0, 0].cpu().numpy() > 0)
    return torch.from_numpy(filled)[None, None].to(ink)


def _pixels(reach: float, side: float) -> int:
    return max(1, round(reach * side))


def grown_by(ink: Tensor, pixels: int) -> Tensor:
    """Ink (B, 1, H, W) with every value spread over the pixels within `pixels` of it, along both axes."""
    for kernel, padding in (((2 * pixels + 1, 1), (pixels, 0)), ((1, 2 * pixels + 1), (0, pixels))):
        ink = torch.nn.functional.max_pool2d(ink, kernel, stride=1, padding=padding)
    return ink
