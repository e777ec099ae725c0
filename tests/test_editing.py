"""Changing a picture by a drawing on it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sketchguide.areas import drawn_area, on_latents
from sketchguide.classifiers import LatentClassifier
from sketchguide.controls.base import Guide
from sketchguide.controls.classes import ClassGuide
from sketchguide.controls.edges import LatentGuide
from sketchguide.controls.strengths import Proportional, Score, Within
from sketchguide.editing import edit
from sketchguide.errors import SketchguideError, SketchguideWarning, UsageError
from sketchguide.generation import run
from sketchguide.images import from_base64, to_base64
from sketchguide.inversion import invert
from sketchguide.overlays import changed_region, seen_region
from sketchguide.pictures import Picture, recall
from sketchguide.predictors import LatentPredictor
from sketchguide.request import EditSettings, Layout, Request
from sketchguide.sampling import Moment
from sketchguide.seeds import generators, noise
from sketchguide.sketch import Sketch
from sketchguide.sources import Change, change
from sketchguide.walking import walk
from support import MakePredictor, Pull, Tiny, attention_for, returned

NETWORK = "small"
SIZE = (32, 32)
STEPS = 4
BOX = Sketch.from_strokes([[[0.35, 0.35], [0.65, 0.35], [0.65, 0.65], [0.35, 0.65], [0.35, 0.36]]])


@pytest.fixture(scope="module")
def predictor(make_predictor: MakePredictor) -> LatentPredictor:
    return make_predictor(window=(0.0, 0.9))  # as `sketchguide train` makes them


def ball() -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(image).ellipse((4, 6, 28, 28), fill="red")
    return image


def make(tiny: Tiny, **settings: Any) -> list[Picture]:
    given = {"image": ball(), "sketch": BOX, "seed": 7, "steps": STEPS, "size": SIZE, "margin": 0.05, **settings}
    return edit(given.pop("image"), "a cat", backbone=tiny(), **given)


def pixels(picture: Picture | Image.Image) -> Any:
    return np.asarray(picture.image if isinstance(picture, Picture) else picture).astype(int)


def test_only_what_is_drawn_on_changes(tiny: Tiny, predictor: LatentPredictor) -> None:
    (picture,) = make(tiny, predictor=predictor)
    difference = np.abs(pixels(picture) - pixels(ball())).max(axis=2)
    assert difference[11:21, 11:21].mean() > 10
    assert difference[:6].max() == difference[-6:].max() == difference[:, :6].max() == difference[:, -6:].max() == 0


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.13])
def test_not_a_pixel_outside_the_area_changes(tiny: Tiny, predictor: LatentPredictor, margin: float) -> None:
    """However the area lies in the latent pixels."""
    (picture,) = make(tiny, predictor=predictor, margin=margin)
    area = drawn_area(torch.tensor(BOX.rasterize(size=SIZE).ink)[None, None], margin)[0, 0].numpy()
    difference = np.abs(pixels(picture) - pixels(ball())).max(axis=2)
    assert difference[area == 0].max() == 0
    assert difference[area == 1].mean() > 5


def photo(size: tuple[int, int]) -> Image.Image:
    """A ball with a grain, so that every pixel tells."""
    pixels = np.asarray(ball().resize(size)) // 2 + np.random.default_rng(0).integers(0, 100, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("side", [20, 40, 50])
def test_the_picture_keeps_its_size_and_outside_the_area_its_pixels(
    tiny: Tiny, predictor: LatentPredictor, side: int
) -> None:
    image = photo((side, side))
    one, two = make(tiny, image=image, predictor=predictor, count=2)
    area = drawn_area(torch.tensor(BOX.rasterize(size=SIZE).ink)[None, None], 0.05)[0, 0].numpy() > 0
    there = ((np.arange(side) + 0.5) * 32 / side).astype(int)
    area = area[np.ix_(there, there)]
    for picture in (one, two):
        assert (picture.image.size, picture.request.size) == ((side, side), SIZE)
        difference = np.abs(pixels(picture) - pixels(image)).max(axis=2)
        assert difference[~area].max() == 0
        assert difference[area].mean() > 5
    assert not np.array_equal(pixels(one), pixels(two))


def test_what_changes_is_what_the_model_makes_of_the_picture_at_its_size(
    tiny: Tiny, predictor: LatentPredictor
) -> None:
    large = photo((128, 128))
    told = "tiny works at 32 × 32: what changes is drawn in that and enlarged 4.0 times. With padding_mask_crop it"
    with pytest.warns(SketchguideWarning, match=told):
        (made,) = make(tiny, image=large, predictor=predictor)
    (small,) = make(tiny, image=large.resize(SIZE, Image.Resampling.LANCZOS), predictor=predictor)
    enlarged = small.image.resize((128, 128), Image.Resampling.LANCZOS)
    assert np.abs(pixels(made) - pixels(enlarged))[60:68, 60:68].max() <= 1
    assert np.abs(pixels(made) - pixels(large))[60:68, 60:68].mean() > 10


SMALL = Sketch.from_strokes([[[0.70, 0.60], [0.80, 0.60], [0.80, 0.70], [0.70, 0.70], [0.70, 0.60]]])


def test_a_crop_is_drawn_as_a_picture_of_its_own(tiny: Tiny, predictor: LatentPredictor) -> None:
    """The same as if what is seen had been cut out and changed."""
    image = photo((320, 320))
    settings: dict[str, Any] = {"predictor": predictor, "sketch": SMALL}
    (made,) = make(tiny, image=image, padding_mask_crop=5, margin=0.02, **settings)
    difference = np.abs(pixels(made) - pixels(image)).max(axis=2)
    rows, columns = (np.nonzero(difference.max(axis=axis))[0] for axis in (1, 0))
    assert made.image.size == (320, 320)
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((187, 229, 219, 261), abs=3)
    seen = seen_region(changed_region(SMALL, (320, 320), 0.02), (320, 320), working=SIZE, padding=5)
    assert seen == pytest.approx((212, 180, 268, 236), abs=2)
    settings["sketch"] = SMALL.cropped(seen.within((320, 320)))
    alone = image.resize(SIZE, Image.Resampling.LANCZOS, box=seen)
    (apart,) = make(tiny, image=alone, margin=0.02 * 320 / seen.width, **settings)
    scale = seen.width / 32
    box = tuple(
        (edge - start) / scale for edge, start in zip((230, 198, 250, 218), (seen.left, seen.top) * 2, strict=True)
    )
    enlarged = apart.image.resize((20, 20), Image.Resampling.LANCZOS, box=box)
    assert np.abs(pixels(made.image.crop((230, 198, 250, 218))) - pixels(enlarged))[6:14, 6:14].max() <= 2


def test_a_crop_of_a_picture_of_the_models_size_leaves_the_rest_as_it_is(
    tiny: Tiny, predictor: LatentPredictor
) -> None:
    image = photo(SIZE)
    (made,) = make(tiny, image=image, predictor=predictor, sketch=SMALL, padding_mask_crop=3, margin=0.02)
    difference = np.abs(pixels(made) - pixels(image)).max(axis=2)
    assert difference[19:23, 22:26].max() > 10
    difference[17:25, 20:28] = 0
    assert difference.max() == 0


def test_a_crop_has_the_models_size_and_at_the_border_less_around_it(tiny: Tiny, predictor: LatentPredictor) -> None:
    corner = Sketch.from_strokes([[[0.0, 0.0], [0.1, 0.1]]], aspect=2)
    settings: dict[str, Any] = {"predictor": predictor, "margin": 0.02, "sketch": corner, "size": None}
    image = photo((300, 150))
    (made,) = make(tiny, image=image, padding_mask_crop=4, **settings)
    assert (made.image.size, made.request.size) == ((300, 150), (64, 64))
    assert (pixels(made)[:, 50:] == pixels(image)[:, 50:]).all()
    assert np.abs(pixels(made)[:12, :24] - pixels(image)[:12, :24]).mean() > 5
    across = Sketch.from_strokes([[[0.0, 0.5], [1.0, 0.5]]], aspect=2)
    sized = pytest.warns(SketchguideWarning, match="The size is 96 × 48; tiny was trained for 64 × 64")
    with sized, pytest.warns(SketchguideWarning, match=r"drawn in that and enlarged 3\.1 times\.$"):
        (wide,) = make(tiny, image=image, padding_mask_crop=4, **settings | {"sketch": across})
    assert wide.request.size == (96, 48)


def test_a_crop_of_generated_latents_is_refused(tiny: Tiny) -> None:
    with pytest.raises(
        UsageError, match="A generated source has latents of the whole picture: leave padding_mask_crop"
    ):
        make(tiny, image=generated(tiny), source="generated", padding_mask_crop=8)
    with pytest.raises(UsageError, match="padding_mask_crop is -1; it must be at least 0"):
        make(tiny, padding_mask_crop=-1)


def test_what_a_picture_of_another_aspect_loses_is_not_what_is_drawn_on(tiny: Tiny, predictor: LatentPredictor) -> None:
    """Of 128 x 32 pixels the model sees a square, and that where the drawing is."""
    image = photo((128, 32))
    end = Sketch.from_strokes([[[0.9, 0.3], [0.95, 0.3], [0.95, 0.7], [0.9, 0.7], [0.9, 0.3]]], aspect=4)
    (made,) = make(tiny, image=image, sketch=end, predictor=predictor, margin=0.02)
    difference = np.abs(pixels(made) - pixels(image)).max(axis=2)
    assert difference[:, :110].max() == 0
    assert difference[12:20, 117:121].mean() > 5
    both = Sketch.from_strokes([[[0.1, 0.5], [0.9, 0.5]]], aspect=4)
    with pytest.warns(SketchguideWarning, match="72% of what would change lies outside the part .* makes 32 × 32"):
        make(tiny, image=image, sketch=both, predictor=predictor, margin=0.05)


def test_a_recipe_of_before_crops_is_read(tiny: Tiny) -> None:
    """It carries the picture in the size that the model works in, and the drawing cut as that is."""
    kept = {"picture": to_base64(ball()), "amount": 0.8, "margin": 0.05, "source": "noised", "source_prompt": ""}
    request = Request.checked(
        prompt="a cat", seed=7, steps=STEPS, size=SIZE, strength=0, sketch=BOX.to_json(), edit=kept
    )
    (before,) = (event for event in run(request, backbone=tiny()) if isinstance(event, Picture))
    (now,) = make(tiny, strength=0)
    assert np.array_equal(pixels(before), pixels(now))


def test_a_picture_that_no_png_could_carry_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sketchguide.images.MAX_TEXT", 1000)
    with pytest.raises(SketchguideError, match="every PNG made from it carries it") as caught:
        make(tiny, image=photo((64, 64)), strength=0)
    assert caught.value.field == "image"


def test_the_thing_to_keep_is_a_picture_or_a_file(
    tiny: Tiny, predictor: LatentPredictor, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ball().save(tmp_path / "ball.png")
    kept: list[str | None] = []
    monkeypatch.setattr("sketchguide.editing.pictures_of", lambda request, **_: kept.append(request.like) or [])
    for like in (ball(), tmp_path / "ball.png", None):
        make(tiny, predictor=predictor, like=like, **({"sketch_loss": 1.0} if like else {}))
    assert kept[0] == kept[1]
    assert kept[0] is not None
    assert kept[2] is None
    with pytest.raises(SketchguideError, match=r"none\.png"):
        make(tiny, predictor=predictor, like="none.png")


def test_a_light_cut_out_lies_on_white(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    ImageDraw.Draw(cut).ellipse((4, 6, 28, 28), fill=(250, 250, 250, 255))
    taken: list[Request] = []
    monkeypatch.setattr("sketchguide.editing.pictures_of", lambda request, **_: taken.append(request) or [])
    make(tiny, image=cut)
    assert taken[0].edit is not None
    assert from_base64(taken[0].edit.picture).getpixel((0, 0)) == (255, 255, 255)


def test_a_drawing_that_lets_go_at_once_does_not_pull(tiny: Tiny, predictor: LatentPredictor) -> None:
    """Also where the steps that are walked are another share of all than was asked for."""
    few = {"steps": 10, "amount": 0.35}
    (closed,), (weak,), (open_,) = (
        make(tiny, predictor=predictor, **few, **more) for more in ({"stop": 0.0}, {"strength": 0.0}, {})
    )
    assert (pixels(closed) == pixels(weak)).all()
    assert (pixels(open_) != pixels(weak)).any()


@pytest.mark.parametrize("thing", [np.zeros((64, 64, 3), np.uint8), BOX])
def test_what_is_no_picture_is_refused(tiny: Tiny, thing: Any) -> None:
    with pytest.raises(UsageError, match=f"not a {type(thing).__name__}"):
        make(tiny, image=thing)


def test_a_margin_of_one_changes_everything(tiny: Tiny, predictor: LatentPredictor) -> None:
    (picture,) = make(tiny, predictor=predictor, margin=1)
    assert (np.abs(pixels(picture) - pixels(ball())).max(axis=2) > 0).mean() > 0.9


def test_a_margin_of_one_needs_no_drawing(tiny: Tiny) -> None:
    wide = ball().resize((48, 24))
    settings: dict[str, Any] = {"backbone": tiny(), "seed": 7, "steps": STEPS, "size": (64, 32)}
    (picture,) = edit(wide, "a cat", margin=1, **settings)
    (masked,) = edit(wide, "a cat", mask=Image.new("L", (48, 24), 255), **settings)
    assert (pixels(picture) == pixels(masked)).all()
    (again,) = (one for one in run(picture.request, backbone=tiny()) if isinstance(one, Picture))
    assert (pixels(again) == pixels(picture)).all()
    with pytest.raises(UsageError, match="Nothing says what is to change"):
        edit(wide, "a cat", margin=0.99, **settings)


def test_seeds_and_amount_matter(tiny: Tiny, predictor: LatentPredictor) -> None:
    two = make(tiny, predictor=predictor, count=2)
    assert not np.array_equal(pixels(two[0]), pixels(two[1]))
    with pytest.warns(SketchguideWarning, match="LatentGuide pulls at no step: none has such noise"):
        (little,) = make(tiny, predictor=predictor, amount=0.25)
    assert little.evaluations.conditional == 1
    assert two[0].evaluations.conditional == 3
    far, near = (np.abs(pixels(one) - pixels(ball())).mean() for one in (two[0], little))
    assert near < far


def test_an_inverted_picture_costs_a_pass_per_step(tiny: Tiny, predictor: LatentPredictor) -> None:
    (picture,) = make(tiny, predictor=predictor, source="inverted", amount=0.5)
    assert picture.evaluations._asdict() == {"conditional": 2, "negative": 2, "source": 0, "inversion": 2}
    with pytest.warns(SketchguideWarning, match="seeds change nothing"):
        make(tiny, predictor=predictor, source="inverted", count=2)


@pytest.mark.parametrize(("source", "low", "high"), [("inverted", 0.0, 0.01), ("noised", 0.1, 2.0)])
def test_an_inverted_picture_that_is_not_pulled_stays_itself(tiny: Tiny, source: str, low: float, high: float) -> None:
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    settings = EditSettings.checked(source=source, source_prompt="a cat", amount=0.2)
    request = Request.checked(prompt="a cat", seed=0, scale=1, steps=40, size=SIZE)
    changing = returned(change(settings, request, tiny(), clean))
    *_, last = walk(request, tiny(), prompts=["a cat"], seeds=[0], source=changing)
    assert low <= float((last.latent - clean).norm() / clean.norm()) < high


def test_what_a_predictor_is_not_trained_for_is_refused(tiny: Tiny, predictor: LatentPredictor) -> None:
    assert len(make(tiny, predictor=predictor, amount=0.3, steps=10)) == 1
    with pytest.raises(UsageError, match="less noise") as caught:
        make(tiny, predictor=predictor, amount=0.1, steps=10)
    with pytest.raises(UsageError, match=r"less noise.*Give an amount of 0\.2 or more"):  # one step of ten, too
        make(tiny, predictor=predictor, amount=0.13, steps=10)
    assert caught.value.field == "amount"


def test_lines_and_strength_change_what_is_made(tiny: Tiny, predictor: LatentPredictor) -> None:
    (pulled,) = make(tiny, predictor=predictor)
    (left,) = make(tiny, strength=0)
    assert not np.array_equal(pixels(pulled), pixels(left))


def test_attention_takes_the_place_of_a_predictor(tiny: Tiny, tmp_path: Any) -> None:
    attention_for(tiny()).save(tmp_path / "sketch-attention.safetensors")
    (told,) = make(tiny, attention=str(tmp_path))
    (alone,) = make(tiny, strength=0)
    assert not np.array_equal(pixels(told), pixels(alone))
    assert "attention" in told.made_with
    assert "predictor" not in told.made_with
    with pytest.warns(SketchguideWarning, match="^widen changes nothing: tiny has no predictor that pulls"):
        make(tiny, attention=str(tmp_path), widen=2)
    (off,) = make(tiny, attention=str(tmp_path), attention_scale=0)
    assert np.array_equal(pixels(off), pixels(alone))


@pytest.mark.parametrize("more", [{}, {"size": (48, 32)}, {"padding_mask_crop": 3}])
def test_the_recipe_repeats_it_bit_for_bit(
    tiny: Tiny, predictor: LatentPredictor, tmp_path: Any, more: dict[str, Any]
) -> None:
    image = photo((90, 60)) if more else ball()
    sketch = BOX.on_canvas(image.width / image.height)
    picture = make(tiny, predictor=predictor, count=2, image=image, sketch=sketch, **more)[1]
    assert picture.image.size == image.size
    picture.save(tmp_path / "cat.png")
    kept = recall(tmp_path / "cat.png")
    events = run(kept.request, backbone=tiny(), predictor=predictor, only=kept.index)
    (again,) = (event for event in events if isinstance(event, Picture))
    assert np.array_equal(pixels(again), pixels(picture))
    assert again.made_with == kept.made_with


def generated(tiny: Tiny, **settings: Any) -> Picture:
    request = Request.checked(**{"prompt": "a cat", "seed": 5, "steps": STEPS, "size": SIZE, **settings})
    (picture,) = (event for event in run(request, backbone=tiny()) if isinstance(event, Picture))
    return picture


def test_a_generated_picture_comes_out_again_from_its_own_latents(tiny: Tiny) -> None:
    """With its own prompt and nothing that pulls nothing changes, wherever the edit begins; an inversion comes near."""
    source = generated(tiny)
    for amount in (0.5, 1.0):
        (same,) = make(tiny, image=source, source="generated", amount=amount, margin=1, strength=0)
        (near,) = make(tiny, image=source, source="inverted", amount=amount, margin=1, strength=0)
        assert np.abs(pixels(same) - pixels(source)).max() <= 1
        assert np.abs(pixels(near) - pixels(source)).max() > 1
        assert same.evaluations.inversion == 2 * STEPS
    (noised,) = make(tiny, image=source, margin=1, strength=0)
    assert np.abs(pixels(noised) - pixels(source)).max() > 1


def test_the_drawing_lies_where_it_was_drawn_though_the_picture_is_cut(tiny: Tiny, predictor: LatentPredictor) -> None:
    """3 : 2 does not fit the size: of 60 x 40 pixels the model sees a square, about the middle but with the line."""
    wide = photo((60, 40))
    line = Sketch.from_strokes([[[0.15, 0.3], [0.15, 0.7]]], aspect=60 / 40)
    (picture,) = make(tiny, image=wide, sketch=line, predictor=predictor, size=(32, 32), margin=0.01)
    difference = np.abs(pixels(picture) - pixels(wide)).max(axis=2)
    columns = np.nonzero(difference.max(axis=0))[0]
    assert 6 <= columns[0] <= 9 <= columns[-1] <= 12
    assert picture.image.size == (60, 40)


def test_a_canvas_of_another_aspect_is_told(tiny: Tiny, predictor: LatentPredictor) -> None:
    wide = Sketch.from_strokes([[[0.1, 0.1], [0.9, 0.9]]], aspect=2.0)
    with pytest.warns(SketchguideWarning, match=r"2.00 times as wide as high, the picture 1.00"):
        make(tiny, sketch=wide, predictor=predictor)


def middle_of_a_picture() -> tuple[Tensor, Tensor, Tensor]:
    """Latents, and their middle as a mask of latent pixels and of pixels."""
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    return clean, mask, torch.nn.functional.interpolate(mask, scale_factor=2)


def test_nothing_outside_moves_at_any_step(tiny: Tiny, predictor: LatentPredictor) -> None:
    """Neither by the walk nor by a guide that pulls there too."""
    backbone, (clean, mask, area) = tiny(), middle_of_a_picture()
    request = Request.checked(prompt="a cat", seed=0, steps=4, size=SIZE)
    levels = backbone.levels(4)
    source = invert(backbone, clean, levels, backbone.describe([""]))
    guide = LatentGuide(
        predictor, torch.ones(1, 4, 16, 16), window=(0.0, 0.9), strength=Within(Proportional(5.0), mask)
    )
    changing = Change(clean, 4, source, area)
    for moment in walk(request, backbone, prompts=["a cat"], seeds=[0], guides=[guide], source=changing):
        apart = (moment.latent - source.at(moment.level)).abs()
        assert (apart * (1 - mask)).max() == 0
        assert (apart * mask).max() > 1e-3


def test_within_the_area_a_step_is_as_if_all_changed(tiny: Tiny, classifier: LatentClassifier) -> None:
    """Also what a classifier makes of it, which goes by what the solver carries."""
    clean, mask, area = middle_of_a_picture()
    request = Request.checked(prompt="a cat", seed=0, steps=2, size=SIZE, scale=1)
    guide = ClassGuide(classifier, [1], strength=Within(Score(40.0), mask))

    def step(area: Tensor | None, *guides: Guide) -> Tensor:
        changing = Change(clean, 2, area=area)
        return next(walk(request, tiny(), prompts=["a cat"], seeds=[0], guides=guides, source=changing)).latent

    assert torch.equal(step(area, guide) * mask, step(None, guide) * mask)
    assert not torch.allclose(step(area, guide), step(area), atol=1e-3)


def test_one_noise_is_on_a_picture_at_all_levels(tiny: Tiny) -> None:
    """Else what is kept would flicker about what is walked."""
    clean, _, area = middle_of_a_picture()
    source = Change(clean, 2, area=area).source(generators([5, 6]))
    drawn = noise(generators([5, 6]), (4, 16, 16))
    for level in tiny().levels(3)[:2]:
        assert torch.allclose(source.at(level), level.alpha * clean + level.sigma * drawn)


def test_all_that_pulls_does_so_within_the_area(
    tiny: Tiny,
    predictor: LatentPredictor,
    classifier: LatentClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier.save(tmp_path / "latent-classifier.safetensors")
    taken: list[Any] = []

    def watched(*given: Any, guides: Sequence[Guide], **more: Any) -> Iterator[Moment]:
        taken.extend(guides)
        return walk(*given, guides=guides, **more)

    monkeypatch.setattr("sketchguide.generation.walk", watched)
    request = Request.checked(
        prompt="a cat",
        seed=7,
        steps=2,
        size=SIZE,
        sketch=BOX.to_json(),
        edit={"picture": to_base64(ball()), "margin": 0.05},
        class_name="b",
        classifier=str(tmp_path),
    )
    own = Pull(lambda step: step.latent.square().mean(dim=(1, 2, 3)))
    next(run(request, backbone=tiny(), predictor=predictor, guides=[own]))
    area = drawn_area(torch.tensor(BOX.rasterize(size=SIZE).ink)[None, None], 0.05)
    assert [type(guide) for guide in taken] == [LatentGuide, ClassGuide, Pull]
    for guide in taken:
        assert isinstance(guide.strength, Within)
        assert torch.equal(guide.strength.mask, on_latents(area, tiny()))


def test_a_little_change_is_pulled_too(tiny: Tiny, predictor: LatentPredictor) -> None:
    """`stop` is part of what is walked, not of the steps before it."""
    settings = {"amount": 0.2, "steps": 10, "every": 1, "predictor": predictor}
    (pulled,) = make(tiny, **settings)
    with pytest.warns(SketchguideWarning, match="every changes nothing: strength is 0"):
        (left,) = make(tiny, **settings, strength=0)
    assert not np.array_equal(pixels(pulled), pixels(left))


def test_what_changes_nothing_is_told(tiny: Tiny, predictor: LatentPredictor) -> None:
    for name, value in (("attention_scale", 0.5), ("class_scale", 3.0), ("classifier", "parts"), ("lora_scale", 0.5)):
        with pytest.warns(SketchguideWarning, match=f"{name} changes nothing without"):
            make(tiny, predictor=predictor, **{name: value})
    with pytest.warns(SketchguideWarning, match="source_prompt changes nothing"):
        make(tiny, predictor=predictor, source="noised", source_prompt="a room")


def test_bad_input_is_named(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="amount is 0"):
        make(tiny, amount=0)
    with pytest.raises(UsageError, match="margin is 2"):
        make(tiny, margin=2)
    with pytest.raises(UsageError, match="no predictor of its own"):
        make(tiny)
    broken = Request.checked(prompt="", seed=0, edit={"picture": "aGVsbG8="}, sketch=BOX.to_json())
    with pytest.raises(SketchguideError) as caught:
        list(run(broken, backbone=tiny()))
    assert caught.value.field == "edit"
    blank = Sketch.from_strokes([[[3.0, 3.0], [4.0, 4.0]]])
    with pytest.raises(UsageError, match="nothing would change"):
        make(tiny, strength=0, sketch=blank)
    with pytest.raises(UsageError, match="An edit needs a sketch, a mask or a margin of 1, and no layout"):
        Request.checked(prompt="a cat", seed=0, edit={"picture": ""})
    with pytest.raises(UsageError, match="An edit needs a sketch, a mask or a margin of 1, and no layout"):
        Request.checked(
            prompt="", seed=0, edit={"picture": ""}, sketch=BOX.to_json(), layout=Layout.checked(picture="")
        )


def half_white(size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask of the right half."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask


@pytest.mark.parametrize("drawn", [True, False])
def test_what_is_white_in_a_mask_changes_and_nothing_else(tiny: Tiny, predictor: LatentPredictor, drawn: bool) -> None:
    settings: dict[str, Any] = {"sketch": BOX, "predictor": predictor} if drawn else {}
    settings |= {"mask": half_white((64, 64)), "seed": 7, "steps": STEPS, "size": SIZE, "amount": 1}
    (picture,) = edit(ball(), "a cat", backbone=tiny(), **settings)
    difference = np.abs(pixels(picture) - pixels(ball())).max(axis=2)
    assert difference[:, :16].max() == 0
    assert (difference[:, 20:] > 10).mean() > 0.5
    events = run(picture.request, backbone=tiny(), predictor=predictor if drawn else None)
    (again,) = [event for event in events if isinstance(event, Picture)]
    assert again.image.tobytes() == picture.image.tobytes()


def test_a_mask_lies_over_the_whole_picture_whatever_the_model_sees(tiny: Tiny) -> None:
    large = ball().resize((320, 160))
    mask = Image.new("L", (640, 320), 0)
    mask.paste(255, (400, 100, 480, 180))
    settings: dict[str, Any] = {"size": SIZE, "padding_mask_crop": 4, "seed": 7, "steps": 2}
    (picture,) = edit(large, "a cat", mask=mask, backbone=tiny(), **settings)
    changed = np.abs(pixels(picture) - pixels(large)).max(axis=2) > 0
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    assert 50 <= rows.min() <= rows.max() < 90
    assert 200 <= columns.min() <= columns.max() < 240
    assert changed[54:86, 204:236].mean() > 0.9


def test_what_a_mask_cannot_do_is_told(tiny: Tiny, predictor: LatentPredictor) -> None:
    settings: dict[str, Any] = {"backbone": tiny(), "seed": 7, "steps": 2, "size": SIZE}
    corner = Image.new("L", SIZE, 0)
    corner.paste(255, (24, 24, 32, 32))
    with pytest.warns(SketchguideWarning) as told:
        edit(ball(), "a cat", sketch=BOX, mask=corner, predictor=predictor, **settings)
    assert any(str(one.message).startswith("Nothing of the drawing lies in what the mask changes") for one in told)
    with pytest.warns(SketchguideWarning) as told:
        edit(ball().resize((320, 320)), "a cat", sketch=BOX, mask=corner, padding_mask_crop=8, **settings)
    assert any("lies in what the model sees of the picture: no line is" in str(one.message) for one in told)
    scratch = Image.new("L", (320, 320), 0)
    scratch.paste(255, (100, 0, 110, 320))
    for image, how in ((ball(), "changes hardly"), (ball().resize((320, 320)), "does not change")):
        with pytest.warns(SketchguideWarning) as told:
            edit(image, "a cat", mask=scratch, **settings)
        assert any("is thinner than the model sees" in str(one.message) and how in str(one.message) for one in told)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Nothing says what is to change. Give a sketch, a mask or both; a margin of 1 changes the whole"),
        ({"mask": Image.new("L", (20, 40), 255)}, "The mask is 20 × 40, the picture 32 × 32."),
        ({"mask": Image.new("L", (320, 320), 0)}, "The mask is black"),
    ],
)
def test_masks_that_cannot_be_used(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        edit(ball(), "a cat", backbone=tiny(), steps=2, size=SIZE, **settings)
    assert str(caught.value).startswith(message)


def test_a_mask_finer_than_what_the_model_sees_is_told(tiny: Tiny) -> None:
    mask = Image.new("L", (2000, 2000), 0)
    mask.putpixel((1000, 1000), 255)
    with pytest.raises(UsageError, match="no pixel of the 32 × 32 that the model sees"):
        edit(ball(), "a cat", mask=mask, backbone=tiny(), steps=2, size=SIZE)
    with pytest.warns(SketchguideWarning, match="^margin changes nothing: the mask"):
        edit(ball(), "a cat", mask=half_white(), margin=0.2, backbone=tiny(), steps=2, size=SIZE)


def test_the_drawn_area_is_filled_though_lines_do_not_quite_close() -> None:
    ink = torch.zeros(1, 1, 32, 32)
    ink[..., 8, 8:24] = ink[..., 24, 8:24] = ink[..., 8:25, 8] = ink[..., 8:25, 24] = 1
    ink[..., 8, 15] = 0
    area = drawn_area(ink, 0.06)
    assert area[0, 0, 16, 16] == 1
    assert area[0, 0, :4].sum() == area[0, 0, :, -4:].sum() == 0
    assert drawn_area(ink, 1.0).min() == 1
