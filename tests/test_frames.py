from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.frames import REFINE, frames_between, interpolate
from sketchguide.generation import Progress, generate
from sketchguide.lora import LORA_FILE
from sketchguide.predictors import LatentPredictor
from sketchguide.sketch import Sketch
from support import Tiny, lora_of, small_stable_diffusion

NETWORK = "small"
ACROSS = Sketch.from_strokes([[(0.1, 0.5), (0.9, 0.5)]])
DOWN = Sketch.from_strokes([[(0.5, 0.1), (0.5, 0.9)]])


def apart(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a value; where pictures are made in other batches, rounding makes 1 of it."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def ball(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=colour)
    return image


@pytest.fixture(autouse=True)
def small_pictures(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny(), "default_size", (32, 32))


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
    with pytest.warns(SketchguideWarning, match="^way changes nothing"):
        interpolate(ACROSS, DOWN, "a duck", seed=5, way="linear", **(settings | {"frames": 2, "steps": 1}))
    unguided = interpolate(5, 5, "a duck", **(settings | {"predictor": None, "strength": None}))
    assert apart(unguided[0], frames[0]) > 10
    with pytest.warns(SketchguideWarning, match="^strength is 0: the pictures follow no drawing"):
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


def test_every_kind_of_end(tiny: Tiny, tmp_path: Path) -> None:
    backbone = tiny()
    lines = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(lines).line((4, 32, 60, 32), fill="black", width=3)
    (picture,) = generate("a duck", seed=3, backbone=backbone, steps=2)
    picture.save(tmp_path / "duck.png")
    settings: dict[str, Any] = {"prompt": "a duck", "frames": 2, "backbone": backbone, "steps": 2}
    seeds = interpolate(np.int64(3), 8, seed=None, scale=None, negative="red", negative_time=0.1, **settings)
    assert apart(seeds[0], interpolate(3, 8, **settings)[0]) > 0
    from_picture, from_image, from_file = (
        interpolate(end, 8, **settings) for end in (picture, picture.image, tmp_path / "duck.png")
    )
    assert from_picture[0].tobytes() == from_image[0].tobytes() == from_file[0].tobytes()
    with pytest.raises(UsageError, match="the second one is taken for one"):
        interpolate(3, lines, **settings)
    assert len(interpolate(3, lines, drawn=False, **settings)) == 2


def test_all_steps_are_told_of(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sketchguide.sizes.BATCH", 2)
    events = list(frames_between(ball("red"), 3, "a ball", frames=3, backbone=tiny(), steps=2))
    told = [event for event in events if isinstance(event, Progress)]
    assert [(one.done, one.total) for one in told] == [(number, 6) for number in range(1, 7)]
    assert [sum(one.evaluations) for one in told] == [REFINE, 2 * REFINE, *(2 * REFINE + n for n in range(1, 5))]
    assert [isinstance(event, Progress) for event in events] == [True] * 4 + [False] * 2 + [True] * 2 + [False]


def test_a_lora_is_off_the_model_afterwards(tmp_path: Path) -> None:
    lora_of("unet", tmp_path / LORA_FILE, "to_q")
    backbone = UNetBackbone(small_stable_diffusion(), name="tiny")
    before = fingerprint_of_model(backbone)
    settings: dict[str, Any] = {"prompt": "a duck", "frames": 2, "backbone": backbone, "steps": 2}
    plain, with_lora = (interpolate(1, 2, **settings, **lora) for lora in ({}, {"lora": str(tmp_path)}))
    assert apart(plain[0], with_lora[0]) > 0
    assert fingerprint_of_model(backbone) == before
    unfinished = frames_between(1, 2, lora=str(tmp_path), **settings)
    next(unfinished)
    assert fingerprint_of_model(backbone) != before
    with pytest.raises(UsageError, match="Another run on"):
        interpolate(1, 2, **settings)
    unfinished.close()
    assert fingerprint_of_model(backbone) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictor": "icons-64-edges"}, "predictor changes nothing without a drawing."),
        ({"strength": 2, "blank": 1}, "strength changes nothing without a drawing."),
        ({"lora_scale": 0.5}, "lora_scale changes nothing without lora."),
        ({"sketch": Sketch.from_strokes([])}, "A sketch is blank: the pictures follow none."),
        ({"prompt": " "}, "The prompt is empty: the pictures show anything."),
        ({"negative": "red", "scale": 1}, "negative changes nothing without a negative pass."),
        ({"negative_time": 0.2, "scale": 1}, "negative_time changes nothing without a negative pass."),
        ({"negative": "red " * 76 + "the end"}, "The negative prompt is too long; not read: .*the end"),
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
        ((1, 2), {"frames": 2.5}, "frames is 2.5; it must be 2 to 100"),
        ((None, 2), {}, "An end is a seed, a picture, a drawing, or a file of either, not a NoneType"),
        ((1, 2), {"device": "cuda"}, "device is cuda, but the model that was given is on cpu"),
        ((1, 2), {"dtype": "float16"}, "dtype is float16, but the model"),
        ((1, 2), {"way": "cubic"}, "There is no way 'cubic'"),
        ((1, -2), {}, "The seed -2 is out of range"),
        ((1, 2), {"prompt": None}, "There is no prompt"),
        ((1, 2), {"sketch": [ACROSS, ACROSS, DOWN]}, "3 drawings were given"),
        ((1, 2), {"sketch": 5}, "A sketch is a Sketch or a file, not a int"),
        ((ACROSS, 2), {}, "must both be drawings, with none beside them, or neither; the first one is taken"),
        ((ACROSS, DOWN), {"sketch": DOWN}, "must both be drawings"),
        ((1, 2), {"size": (60, 64)}, "size is 60x64"),
        ((1, 2), {"steps": 0}, "steps is 0"),
    ],
)
def test_what_cannot_be_is_named(tiny: Tiny, ends: tuple[Any, Any], settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        interpolate(*ends, **{"prompt": "a duck", **settings}, backbone=tiny())
