"""Icons in the proportions that people give things: maps that lay an icon into the outline of a drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor
from torch.nn import functional as F

from sketchguide.evaluation.drawings import SCORED, quickdraw

MOST_STRETCH = 1.7  # of one side against the other
MOST_TURN = math.radians(60)
LONG = 1.5  # sides of what has a direction, one against the other
SIDE = 64  # pixels of the masks that outlines are compared in
MOST_BEND = 1.4  # of one row or column, and its inverse
MOST_SHIFT = 0.25  # of one row or column; the picture is 2 wide
LEAST_SPAN = 0.15  # of a row or column, so that whiskers and tails are not blown up
SMOOTH = 5.0  # pixels over which neighbouring rows go together
ALIKE = 0.7  # of the outlines, intersection over union: what is drawn in another pose is not bent
KNOTS = 16  # of a bend, each way

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean (2,), covariance (2, 2); x and y in -1..1
Mask = NDArray[np.float32]  # (SIDE, SIDE) in [0, 1]
PLACES = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1


@dataclass(frozen=True)
class Layout:
    """Where in the icon each place of a picture is looked up: a map (2, 3) of `affine_grid`, and what is added to it at
    `KNOTS` x `KNOTS` places, (2, KNOTS, KNOTS), x and y in -1..1."""

    matrix: Tensor
    bend: Tensor


def people_fits(data: Path, codes: list[str], alphas: Tensor) -> list[list[Layout]]:
    """For each icon of `codes` with its `alphas` (N, h, w) in [0, 1], a layout for every drawing of its concept that no
    benchmark uses; there may be none.
    """
    drawn: dict[str, list[tuple[Mask, Moments]]] = {}
    for drawing in quickdraw(data, count=10**6, size=(SIDE, SIDE))[SCORED:]:
        ink = drawing.ink.ink
        moments = hull_moments(ink)
        if moments is not None:
            for code in drawing.answers:
                drawn.setdefault(code, []).append((ink, moments))
    return [
        [] if (icon := hull_moments(alpha.numpy())) is None else layouts(alpha, icon, drawn.get(code, []))
        for code, alpha in zip(codes, alphas, strict=True)
    ]


def layouts(alpha: Tensor, icon: Moments, drawings: list[tuple[Mask, Moments]]) -> list[Layout]:
    """Of an icon with `alpha` (h, w), in the way of each of the `drawings`."""
    if not drawings:
        return []
    matrices = torch.tensor(np.stack([fit(icon, moments) for _, moments in drawings]), dtype=torch.float32)
    grid = F.affine_grid(matrices, [len(drawings), 1, SIDE, SIDE], align_corners=False)
    laid = F.grid_sample(alpha.expand(len(drawings), 1, -1, -1), grid, align_corners=False)[:, 0].numpy()
    bends = torch.tensor(
        np.stack([outline_bend(mask, ink) for mask, (ink, _) in zip(laid, drawings, strict=True)]), dtype=torch.float32
    )
    bends = torch.einsum("kij,kjhw->kihw", matrices[:, :, :2], F.adaptive_avg_pool2d(bends, KNOTS))
    return [Layout(matrix, bend) for matrix, bend in zip(matrices, bends, strict=True)]


def outline_bend(icon: Mask, drawing: Mask) -> NDArray[np.float64]:
    """Displacements (2, SIDE, SIDE), x and y, by which `icon` is looked up so that its rows, then its columns, are as
    long and lie where those of `drawing` do; 0 everywhere where the two are not alike even so.

    Only the first and last ink of a row or column counts, so lines measure like solid shapes, closed or not.
    """
    across = row_bend(icon, drawing)
    rows, columns = np.indices((SIDE, SIDE))
    half = SIDE / 2
    narrowed = map_coordinates(icon, [rows, columns + across * half], order=1, mode="constant")
    down = row_bend(narrowed.T, drawing.T).T
    bent = map_coordinates(narrowed, [rows + down * half, columns], order=1, mode="constant")
    ours, theirs = outline(bent), outline(drawing)
    if (ours & theirs).sum() < ALIKE * (ours | theirs).sum():
        return np.zeros((2, SIDE, SIDE))
    return np.stack([map_coordinates(across, [rows + down * half, columns], order=1, mode="nearest"), down])


def row_bend(icon: Mask, drawing: Mask) -> NDArray[np.float64]:
    """How far along its row (SIDE, SIDE) each place of the picture is from the place that it shows of `icon`."""
    (from_left, from_right), (to_left, to_right) = spans(icon), spans(drawing)
    known = ~np.isnan(from_left + to_left)
    if not known.any():
        return np.zeros((SIDE, SIDE))
    source = np.maximum(from_right - from_left, LEAST_SPAN)
    target = np.maximum(to_right - to_left, LEAST_SPAN)
    stretch = np.clip(source / target, 1 / MOST_BEND, MOST_BEND)
    middle = (to_left + to_right) / 2
    shift = np.clip((from_left + from_right) / 2 - middle, -MOST_SHIFT, MOST_SHIFT)
    numbers = np.arange(SIDE)
    stretch, middle, shift = (
        gaussian_filter1d(np.interp(numbers, numbers[known], values[known]), SMOOTH, mode="nearest")
        for values in (np.log(stretch), middle, shift)
    )
    return (np.exp(stretch)[:, None] - 1) * (PLACES[None] - middle[:, None]) + shift[:, None]


def spans(mask: Mask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The places (SIDE,) of the first and last ink of every row, in -1..1; NaN where there is none."""
    inked = mask > 0.5
    some = inked.any(axis=1)
    first = np.where(some, PLACES[inked.argmax(axis=1)], np.nan)
    last = np.where(some, PLACES[SIDE - 1 - inked[:, ::-1].argmax(axis=1)], np.nan)
    return first, last


def outline(mask: Mask) -> NDArray[np.bool_]:
    """What lies between the first and the last ink of its row and of its column."""
    inked = mask > 0.5

    def between(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.logical_or.accumulate(rows, axis=1) & np.logical_or.accumulate(rows[:, ::-1], axis=1)[:, ::-1]

    return between(inked) & between(inked.T).T


def hull_moments(ink: NDArray[np.float32]) -> Moments | None:
    """Of the convex hull of what is inked in (h, w): lines and solid shapes, closed or not, measure alike."""
    height, width = ink.shape
    points = np.argwhere(ink > 0.5)[:, ::-1]
    try:
        corners = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # a straight line, or nothing
        return None
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
    inside = np.argwhere(np.asarray(image))[:, ::-1]
    places = (inside + 0.5) / np.array([width, height]) * 2 - 1
    return places.mean(axis=0), np.cov(places.T)


def fit(icon: Moments, drawing: Moments) -> NDArray[np.float64]:
    """The map (2, 3) from places in a drawing to places in an icon that gives both the same mean and, within limits,
    the same covariance: long things are turned into line, the rest is stretched.
    """
    turn = rotation(turn_between(icon[1], drawing[1]))
    aligned = turn.T @ icon[1] @ turn
    root = power(drawing[1], 0.5)
    inverse = power(drawing[1], -0.5)
    transport = inverse @ power(root @ aligned @ root, 0.5) @ inverse
    scales, axes = np.linalg.eigh(transport)
    middle = math.sqrt(scales[0] * scales[1])
    limit = math.sqrt(MOST_STRETCH)
    stretch = axes @ np.diag(middle * np.clip(scales / middle, 1 / limit, limit)) @ axes.T
    linear = turn @ stretch
    return np.column_stack([linear, icon[0] - linear @ drawing[0]])


def turn_between(icon: NDArray[np.float64], drawing: NDArray[np.float64]) -> float:
    """Radians from the long axis of `drawing` to that of `icon`; 0 where either has none or they are far apart."""
    angles: list[float] = []
    for covariance in (icon, drawing):
        spreads, axes = np.linalg.eigh(covariance)
        if spreads[1] < LONG**2 * spreads[0]:
            return 0.0
        angles.append(math.atan2(axes[1, 1], axes[0, 1]))
    turn = (angles[0] - angles[1] + math.pi / 2) % math.pi - math.pi / 2
    return turn if abs(turn) <= MOST_TURN else 0.0


def rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Of a symmetric positive definite matrix."""
    values, axes = np.linalg.eigh(matrix)
    return axes @ np.diag(np.maximum(values, 1e-6) ** exponent) @ axes.T
