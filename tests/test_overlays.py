"""What the model sees of a picture of which a part changes, and how what it makes is laid over it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sketchguide.errors import UsageError
from sketchguide.images import to_tensor
from sketchguide.overlays import Overlay, Region, changed_region, seen_aspect, seen_region
from sketchguide.sketch import Sketch


def noise(size: tuple[int, int]) -> Image.Image:
    """A dark picture without two pixels alike beside one another."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 100, (size[1], size[0], 3), np.uint8))


def overlay(image: Image.Image, mask: Tensor, region: Region | None = None) -> Overlay:
    region = region or Region(0, 0, *image.size)
    rows, columns = mask.shape
    seen = image.resize((columns, rows), Image.Resampling.LANCZOS, box=region)
    return Overlay(image, region, to_tensor([seen]), (mask[None, None] > 0).float(), mask[None, None])


def difference(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).max(axis=2)


SQUARE = torch.zeros(32, 32)
SQUARE[8:24, 8:24] = 1
WHITE = torch.ones(3, 32, 32)


@pytest.mark.parametrize(
    ("changed", "size", "working", "padding", "seen"),
    [
        # the whole picture
        ((10, 10, 20, 20), (64, 64), (64, 64), None, (0, 0, 64, 64)),
        ((10, 10, 20, 20), (1000, 750), (64, 48), None, (0, 0, 1000, 750)),
        # as much of it as fits the size, from its middle, or as far from that as what changes needs
        ((100, 0, 200, 50), (300, 192), (48, 32), None, (6, 0, 294, 192)),
        ((0, 0, 10, 50), (300, 192), (48, 32), None, (0, 0, 288, 192)),
        ((290, 0, 298, 50), (300, 192), (48, 32), None, (12, 0, 300, 192)),
        ((10, 0, 20, 50), (400, 192), (48, 48), None, (0, 0, 192, 192)),
        ((30, 0, 40, 50), (400, 192), (48, 48), None, (18, 0, 210, 192)),
        ((0, 90, 100, 100), (100, 300), (32, 48), None, (0, 75, 100, 225)),
        # a crop, which has the aspect of the size
        ((500, 300, 540, 320), (1024, 768), (64, 64), 10, (490, 280, 550, 340)),
        ((500, 300, 540, 320), (1024, 768), (96, 64), 10, (490, 290, 550, 330)),
        ((500, 300, 540, 320), (1024, 768), (64, 64), 0, (500, 290, 540, 330)),
        # at the borders there is nothing to pad with
        ((0, 0, 40, 20), (1024, 768), (64, 64), 10, (0, 0, 50, 50)),
        ((990, 750, 1024, 768), (1024, 768), (64, 64), 10, (980, 724, 1024, 768)),
        # more than such a crop can hold
        ((0, 300, 1024, 320), (1024, 768), (64, 64), 10, (128, 0, 896, 768)),
        ((100, 300, 800, 320), (1024, 768), (64, 64), 100, (66, 0, 834, 768)),
    ],
)
def test_what_the_model_sees(
    changed: tuple[float, ...],
    size: tuple[int, int],
    working: tuple[int, int],
    padding: int | None,
    seen: tuple[float, ...],
):
    assert seen_region(Region(*changed), size, working=working, padding=padding) == seen


def test_a_picture_is_seen_to_its_last_pixel_whatever_its_sides_are():
    for side in range(16, 700, 7):
        seen = seen_region(Region(3, 3, 9, 9), (side, 3 * side), working=(48, 144), padding=None)
        assert seen == (0, 0, side, 3 * side)


def test_a_size_that_leaves_nothing_of_the_picture_is_refused():
    with pytest.raises(UsageError, match="size is 1024x16: of the picture of 20 × 20 that leaves less than") as caught:
        seen_region(Region(0, 0, 20, 20), (20, 20), working=(1024, 16), padding=None)
    assert caught.value.field == "size"


def test_a_crop_has_the_models_own_aspect_where_the_picture_has_room_for_it():
    small, wide = Region(500, 300, 540, 320), Region(0, 300, 1024, 320)
    assert seen_aspect(small, (1024, 768), own=(64, 64), padding=None) == 1024 / 768
    assert seen_aspect(small, (1024, 768), own=(64, 64), padding=10) == 1
    assert seen_aspect(small, (1024, 768), own=(96, 64), padding=10) == 1.5
    assert seen_aspect(wide, (1024, 768), own=(64, 64), padding=10) == 1024 / 768
    assert seen_aspect(Region(0, 0, 700, 20), (1024, 350), own=(64, 64), padding=0) == 2


def test_what_a_drawing_changes_is_measured_on_the_picture():
    box = Sketch.from_strokes([[[0.4, 0.3], [0.6, 0.3], [0.6, 0.7], [0.4, 0.7], [0.4, 0.3]]], aspect=2)
    found = changed_region(box, (2000, 1000), 0.1)
    assert found == pytest.approx((600, 100, 1400, 900), abs=6)
    assert changed_region(box, (2000, 1000), 1) == (0, 0, 2000, 1000)
    assert Region(0, 0, 100, 100).outside(Region(75, 0, 200, 50)) == 0.875
    assert Region(0, 0, 100, 100).outside(Region(200, 0, 300, 50)) == 1


@pytest.mark.parametrize("side", [16, 20, 31, 33, 50, 96, 200])
def test_not_a_pixel_outside_changes_and_the_middle_is_what_was_made(side: int):
    image = noise((side, side))
    changed = difference(overlay(image, SQUARE).laid(WHITE), image)
    centres = (np.arange(side) + 0.5) * 32 / side
    within = (centres > 8) & (centres < 24)
    assert changed[~within].max() == changed[:, ~within].max() == 0
    middle = (centres > 13) & (centres < 19)
    assert np.asarray(overlay(image, SQUARE).laid(WHITE))[middle][:, middle].min() == 255


def test_a_picture_of_the_models_size_is_laid_over_as_it_is():
    image, half = noise((32, 32)), SQUARE / 2
    laid = np.asarray(overlay(image, half).laid(WHITE))
    before = np.asarray(image).astype(float)
    assert np.abs(laid[8:24, 8:24] - (before[8:24, 8:24] / 2 + 127.5)).max() <= 0.51
    assert (laid[:8] == before[:8]).all()


def test_a_crop_of_a_picture_that_happens_to_have_the_models_size_goes_back_to_its_place():
    image = noise((32, 32))
    made = overlay(image, torch.ones(32, 32), Region(4, 8, 20, 24)).laid(WHITE)
    changed = difference(made, image) > 0
    assert np.asarray(made)[10:22, 6:18].min() == 255
    changed[8:24, 4:20] = False
    assert not changed.any()


def test_what_is_made_lies_where_it_was_seen():
    """A crop at fractions of pixels: what the model makes of it is what it saw, and nothing moves."""
    x, y = np.meshgrid(np.arange(150), np.arange(120))
    smooth = np.stack([x * 1.7, y * 2.1, 255 - x], axis=2).astype(np.uint8)
    image = Image.fromarray(smooth)
    made = overlay(image, torch.ones(32, 32), Region(20.3, 31.6, 88.3, 99.6))
    laid = made.laid(made.seen[0])
    assert difference(laid, image).max() <= 2
    assert np.asarray(made.laid(WHITE))[60, 60].min() == 255


def test_the_change_fades_at_the_edges_of_a_crop_but_not_at_those_of_the_picture():
    image, everything = noise((128, 128)), torch.ones(32, 32)
    inner = difference(overlay(image, everything, Region(32, 32, 96, 96)).laid(WHITE), image)
    assert inner[:32].max() == inner[96:].max() == inner[:, :32].max() == inner[:, 96:].max() == 0
    assert 0 < inner[33, 64] < 100 < inner[40, 64]
    corner = np.asarray(overlay(image, everything, Region(0, 0, 64, 64)).laid(WHITE))
    assert corner[:56, :56].min() == 255
    assert corner[63, 20].max() < 200
    assert np.asarray(overlay(image, everything).laid(WHITE)).min() == 255


def test_the_picture_itself_stays_as_it_was():
    image = noise((64, 64))
    before = image.tobytes()
    overlay(image, SQUARE).laid(WHITE)
    assert image.tobytes() == before
