from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import morphology
from torch import Tensor
from torch.nn import functional as F

from sketchguide.errors import UsageError
from sketchguide.extractors import (
    EXTRACTORS,
    Edges,
    colour_gradient,
    distance_to,
    drop_small,
    fill_holes,
    gaussian_blur,
    thin,
)

edges = EXTRACTORS["edges"]


def disk(height: int, width: int, *, ink: tuple[float, ...] = (0.9, 0.2, 0.1), paper: float = 1.0) -> Tensor:
    """An anti-aliased disk in the middle, (1, 3, H, W) in [-1, 1]; its radius is a quarter of the longer side."""
    y = torch.arange(height)[:, None] + 0.5 - height / 2
    x = torch.arange(width)[None, :] + 0.5 - width / 2
    cover = (max(height, width) / 4 + 0.5 - torch.hypot(x, y)).clamp(0, 1)
    colour = torch.tensor(ink)[:, None, None]
    return ((colour * cover + paper * (1 - cover)) * 2 - 1)[None]


def circle_of(height: int, width: int) -> Tensor:
    """The distance (H, W) of each pixel to the outline of `disk`."""
    y = torch.arange(height)[:, None] + 0.5 - height / 2
    x = torch.arange(width)[None, :] + 0.5 - width / 2
    return (torch.hypot(x, y) - max(height, width) / 4).abs()


def noisy_scene(height: int, width: int, *, seed: int) -> Tensor:
    return (
        disk(height, width)
        + torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 0.5
        - 0.25
    )


def test_registry_is_read_only_and_names_agree() -> None:
    assert [extractor.name for extractor in EXTRACTORS.values()] == list(EXTRACTORS)
    with pytest.raises(TypeError):
        EXTRACTORS["edges"] = Edges()  # type: ignore[index]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (512, 512), (64, 96), (90, 40)])
def test_outline_of_a_disk_is_one_line_of_the_pens_thickness(height: int, width: int) -> None:
    found = edges(disk(height, width))
    assert found.shape == (1, 1, height, width)
    assert found.dtype == torch.float32
    unit = max(height, width) / 64
    away = circle_of(height, width)
    assert found[0, 0][away < 0.2].min() > 0.8
    assert found.max() == 1
    on_the_grid = unit / 3  # a pixel of the grid on which edges are looked for
    assert found[0, 0][away > 0.75 * unit + 0.5 + on_the_grid].max() == 0
    if height == width:
        circumference = torch.pi * height / 2
        assert float(found.sum()) / circumference == pytest.approx(1.5 * unit, rel=0.12)


def test_same_relative_map_at_every_resolution() -> None:
    small, large = edges(disk(64, 64)), edges(disk(512, 512))
    assert (F.avg_pool2d(large, 8) - small).abs().mean() < 0.02


def test_finds_an_edge_between_equally_bright_colours() -> None:
    red, green = (0.8, 0.2, 0.3), (0.2, 0.506, 0.3)
    luma = [sum(w * c for w, c in zip((0.299, 0.587, 0.114), colour, strict=True)) for colour in (red, green)]
    assert luma[0] == pytest.approx(luma[1], abs=1e-3)
    image = torch.tensor(red)[:, None, None].repeat(1, 64, 64)
    image[:, :, 30:] = torch.tensor(green)[:, None, None]
    found = edges(image[None] * 2 - 1)[0, 0]
    assert found[:, 29:31].min() > 0.5
    assert found[:, :27].max() == found[:, 33:].max() == 0


def test_no_ink_on_flat_colour_soft_shading_or_faint_noise() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    shading = torch.linspace(-0.6, 0.6, 64).expand(1, 3, 64, 64)
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.06
    assert edges(torch.cat([flat, shading, noise])).max() == 0


def test_a_thin_stroke_becomes_one_line_and_a_wide_bar_two() -> None:
    image = torch.ones(1, 3, 64, 64)
    image[..., 20:21] = -1
    image[..., 40:48] = -1
    row = edges(image)[0, 0, 32] >= 0.5
    starts = (row[1:] & ~row[:-1]).nonzero().flatten() + 1
    assert [abs(int(s) - want) <= 1 for s, want in zip(starts, (20, 39, 47), strict=True)] == [True] * 3


def test_strokes_that_are_short_or_weak_are_dropped() -> None:
    image = torch.ones(1, 3, 64, 64)
    image[..., 10:11, 10:11] = -1
    assert Edges()(image).max() == 0
    faint = disk(64, 64, ink=(0.95, 0.95, 0.95))
    assert Edges()(faint).max() == 0
    assert Edges(strong=0.03, weak=0.02)(faint).max() == 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 72), (16, 16), (16, 200), (130, 100)])
def test_a_batch_equals_its_items_bit_for_bit(height: int, width: int) -> None:
    scenes = torch.cat([noisy_scene(height, width, seed=seed) for seed in range(3)])
    together = edges(scenes)
    for scene, one in zip(scenes, together, strict=True):
        assert torch.equal(edges(scene[None])[0], one)
    assert ((together >= 0) & (together <= 1)).all()


def test_turning_the_picture_turns_the_map() -> None:
    scene = disk(64, 64)
    scene[..., 10:20, 14:30] = 0.4
    turned = edges(scene.transpose(2, 3)).transpose(2, 3)
    assert (turned - edges(scene)).abs().mean() < 0.01


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(1, 3, 64, 15), torch.zeros(1, 3, 64, 64).int()],
)
def test_says_what_images_it_needs(images: Tensor) -> None:
    with pytest.raises(UsageError) as caught:
        edges(images)
    assert caught.value.field == "images"


def test_blur_equals_scipy() -> None:
    picture = torch.rand(2, 3, 20, 31, generator=torch.Generator().manual_seed(1))
    expected = ndimage.gaussian_filter(picture.numpy(), sigma=(0, 0, 1.7, 1.7), mode="nearest", radius=(0, 0, 6, 6))
    assert torch.allclose(gaussian_blur(picture, sigma=1.7), torch.from_numpy(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "factor"), [((0.4, 0, 0), 1), ((0.4, 0.4, 0.4), 3**0.5), ((0.4, -0.4, 0), 2**0.5)]
)
def test_contrast_is_the_height_of_a_step(channels: tuple[float, ...], factor: float) -> None:
    picture = torch.full((1, 3, 40, 40), 0.5)
    picture[..., 20:] += torch.tensor(channels)[:, None, None]
    contrast, direction = colour_gradient(gaussian_blur(picture, sigma=3), sigma=3)
    assert contrast[0, 0, 20].max() == pytest.approx(0.4 * factor, rel=0.03)
    assert direction[0, 0, 20, 20].abs() == pytest.approx(1)


def blobs(seed: int, *, share: float) -> Tensor:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((3, 40, 56)), (0, 1.5, 1.5))
    return torch.from_numpy(field > np.quantile(field, 1 - share))[:, None]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_thinning_equals_scikit_image(share: float) -> None:
    ink = blobs(3, share=share)
    expected = np.stack([morphology.thin(np.pad(image[0].numpy(), 1))[1:-1, 1:-1] for image in ink])
    assert np.array_equal(thin(ink)[:, 0].numpy(), expected)


def test_distance_equals_brute_force_and_is_defined_without_ink() -> None:
    ink = blobs(4, share=0.05)
    ink[1] = False
    distance = distance_to(ink)
    assert (distance[1] == 40 + 56).all()
    grid = torch.cartesian_prod(torch.arange(40.0), torch.arange(56.0))
    for k in (0, 2):
        expected = torch.cdist(grid, ink[k, 0].nonzero().float()).min(dim=1).values
        assert torch.allclose(distance[k, 0].flatten(), expected, atol=1e-4)


def test_small_parts_and_holes_are_counted_in_each_image_alone() -> None:
    ink = torch.zeros(2, 1, 12, 12, dtype=torch.bool)
    ink[0, 0, 1, 1] = ink[0, 0, 2, 2] = ink[1, 0, 1, 2] = True
    ink[1, 0, 5:10, 5:10] = True
    ink[1, 0, 6:8, 6] = False
    kept = drop_small(ink, least=2)
    assert kept[0].sum() == 2  # joined diagonally
    assert kept[1].sum() == 23
    assert fill_holes(ink, least=2)[1].sum() == ink[1].sum()
    assert fill_holes(ink, least=3)[1].sum() == ink[1].sum() + 2
