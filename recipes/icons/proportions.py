"""Icons in the proportions that people give things: affine maps that lay an icon into the outline of a drawing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from sketchguide.evaluation.drawings import SCORED, quickdraw

MOST_STRETCH = 1.7  # of one side against the other
MOST_TURN = math.radians(60)
LONG = 1.5  # sides of what has a direction, one against the other

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean (2,), covariance (2, 2); x and y in -1..1


def people_fits(data: Path, codes: list[str], alphas: Tensor) -> list[Tensor]:
    """For each icon of `codes` with its `alphas` (N, h, w) in [0, 1], affine maps (K, 2, 3) of `affine_grid`, one for
    every drawing of its concept that no benchmark uses; K may be 0.
    """
    drawn: dict[str, list[Moments]] = {}
    for drawing in quickdraw(data, count=10**6, size=(64, 64))[SCORED:]:
        moments = hull_moments(drawing.ink.ink)
        if moments is not None:
            for code in drawing.answers:
                drawn.setdefault(code, []).append(moments)
    fits: list[Tensor] = []
    for code, alpha in zip(codes, alphas, strict=True):
        icon = hull_moments(alpha.numpy())
        maps = [] if icon is None else [fit(icon, moments) for moments in drawn.get(code, [])]
        fits.append(torch.tensor(np.stack(maps), dtype=torch.float32) if maps else torch.zeros(0, 2, 3))
    return fits


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
