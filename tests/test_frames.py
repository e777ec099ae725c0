from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.frames import interpolate
from sketchguide.generation import generate
from sketchguide.predictors import LatentPredictor
from sketchguide.sketch import Sketch
from support import Tiny

ACROSS = Sketch.from_strokes([[(0.1, 0.5), (0.9, 0.5)]])
DOWN = Sketch.from_strokes([[(0.5, 0.1), (0.5, 0.9)]])


def apart(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a value; where pictures are made in other batches, rounding makes 1 of it."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def ball(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=colour)
    return image


def test_the_ends_are_the_pictures_of_their_seeds(tiny: Tiny) -> None:
    backbone = tiny()
    frames = interpolate(3, 8, "a duck", frames=3, backbone=backbone, steps=3)
    assert len(frames) == 3
    for frame, seed in ((frames[0], 3), (frames[2], 8)):
        (picture,) = generate("a duck", seed=seed, backbone=backbone, steps=3, solver="ddim")
        assert apart(frame, picture.image) <= 1
    assert apart(frames[0], frames[1]) > 10


def test_drawings_are_ends_like_any_others(tiny: Tiny, predictor: LatentPredictor) -> None:
    settings: dict[str, Any] = {"frames": 3, "backbone": tiny(), "predictor": predictor, "steps": 3, "strength": 4}
    frames = interpolate(ACROSS, DOWN, "a duck", seed=5, **settings)
    with pytest.warns(SketchguideWarning, match="^seed changes nothing"):
        between_seeds = interpolate(5, 5, "a duck", sketch=[ACROSS, DOWN], seed=7, **settings)
    assert [frame.tobytes() for frame in frames] == [frame.tobytes() for frame in between_seeds]
    for drawing, frame in ((ACROSS, frames[0]), (DOWN, frames[-1])):
        all_alike = interpolate(5, 5, "a duck", sketch=drawing, **settings)
        assert apart(all_alike[0], all_alike[-1]) <= 1
        assert apart(all_alike[0], frame) <= 1
    unguided = interpolate(5, 5, "a duck", **(settings | {"predictor": None, "strength": None}))
    assert apart(unguided[0], frames[0]) > 10
    with_nothing_to_pull = interpolate(ACROSS, DOWN, "a duck", seed=5, **(settings | {"strength": 0}))
    assert [frame.tobytes() for frame in with_nothing_to_pull] == [frame.tobytes() for frame in unguided]


def test_pictures_are_inverted_and_need_no_prompt(tiny: Tiny, tmp_path: Path) -> None:
    backbone, ends = tiny(), (ball("red"), ball("blue"))
    ends[0].save(tmp_path / "red.png")
    with pytest.warns(SketchguideWarning, match="^The prompt is empty"):
        frames = interpolate(tmp_path / "red.png", ends[1], frames=2, backbone=backbone, steps=4)
    with pytest.warns(SketchguideWarning, match="^The prompt is empty"):
        without_guidance = interpolate(*ends, frames=2, backbone=backbone, steps=4, scale=1)
    assert [frame.tobytes() for frame in frames] == [frame.tobytes() for frame in without_guidance]
    guided = interpolate(*ends, "a ball", frames=2, backbone=backbone, steps=4, scale=4)
    assert apart(frames[0], guided[0]) > 10
    with pytest.warns(SketchguideWarning, match="96 × 64 is cut at the middle"):
        interpolate(ball("red", (96, 64)), 3, "a ball", frames=2, backbone=backbone, steps=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictor": "icons-64-edges"}, "predictor changes nothing without a drawing."),
        ({"strength": 2, "blank": 1}, "strength changes nothing without a drawing."),
        ({"lora_scale": 0.5}, "lora_scale changes nothing without lora."),
        ({"sketch": Sketch.from_strokes([])}, "A sketch is blank: the pictures follow none."),
        ({"prompt": " "}, "The prompt is empty: the pictures show anything."),
    ],
)
@pytest.mark.filterwarnings("ignore::sketchguide.errors.SketchguideWarning")
def test_what_changes_nothing_is_told(tiny: Tiny, settings: Mapping[str, Any], message: str) -> None:
    with pytest.warns(SketchguideWarning, match=message):
        interpolate(1, 2, **{"prompt": "a duck", **settings}, frames=2, backbone=tiny(), steps=1)


@pytest.mark.parametrize(
    ("ends", "settings", "message"),
    [
        ((1, 2), {"tries": 3}, "interpolate takes no tries"),
        ((1, 2), {"frames": 1}, "frames is 1; it must be 2 to 100"),
        ((1, 2), {"frames": 101}, "frames is 101"),
        ((1, 2), {"way": "cubic"}, "There is no way 'cubic'"),
        ((1, -2), {}, "The seed -2 is out of range"),
        ((1, 2), {"prompt": None}, "There is no prompt"),
        ((1, 2), {"sketch": [ACROSS, ACROSS, DOWN]}, "3 drawings were given"),
        ((1, 2), {"sketch": 5}, "A sketch is a Sketch or a file, not a int"),
        ((ACROSS, 2), {}, "must both be drawings, with none beside them, or neither; one is taken"),
        ((ACROSS, DOWN), {"sketch": DOWN}, "must both be drawings"),
        ((1, 2), {"size": (60, 64)}, "size is 60x64"),
        ((1, 2), {"steps": 0}, "steps is 0"),
    ],
)
def test_what_cannot_be_is_named(tiny: Tiny, ends: tuple[Any, Any], settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        interpolate(*ends, **{"prompt": "a duck", **settings}, backbone=tiny())
