import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sketchguide import generation
from sketchguide.areas import near_strokes
from sketchguide.controls.features import PlugAndPlay
from sketchguide.errors import SketchError, SketchguideWarning, TapError, UsageError
from sketchguide.generation import Progress, generate, run
from sketchguide.images import from_base64, from_ink, open_image, to_base64, to_tensor
from sketchguide.ink import looks_drawn
from sketchguide.loading import load_backbone
from sketchguide.pictures import Picture, recall
from sketchguide.predictors import LatentPredictor
from sketchguide.request import FOR_DRAWINGS, Layout, LayoutSettings, Request
from sketchguide.sampling import Evaluations
from sketchguide.sketch import Sketch
from sketchguide.sources import SOURCE_SEED
from sketchguide.translation import open_source, prepare, taken, translate
from support import CROSS, Tiny

NETWORK = "small"
SIZE = (32, 32)
STEPS = 3


def ball(size: tuple[int, int] = (48, 48), *, fill: str = "red") -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((4, 8, size[0] - 10, size[1] - 4), fill=fill)
    return image


def make(tiny: Tiny, *prompts: str, image: Any = None, **settings: Any) -> list[Picture]:
    given = {"seed": 7, "steps": STEPS, "size": SIZE, **settings}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "scale is 1: the prompt", SketchguideWarning)
        return translate(image or ball(), prompts or "a cat", backbone=tiny(), **given)


def difference(one: Picture, other: Picture) -> int:
    pixels = (np.asarray(picture.image).astype(int) for picture in (one, other))
    return int(np.abs(next(pixels) - next(pixels)).max())


# ------------------------------------------------------------------------------------------------------------- picture


@pytest.fixture(scope="module")
def plain(tiny: Tiny) -> Picture:
    return make(tiny)[0]


def test_a_source_changes_the_picture(tiny: Tiny, plain: Picture) -> None:
    (green,) = make(tiny, image=ball(fill="green"))
    assert green.image.size == SIZE
    assert difference(green, plain) > 2


def test_at_a_share_of_zero_from_the_seeds_noise_it_is_plain_text_to_image(tiny: Tiny) -> None:
    (picture,) = make(tiny, share=0, start="noise")
    request = Request.checked(prompt="a cat", seed=7, steps=STEPS, size=SIZE)
    *_, unguided = run(request, backbone=tiny())
    assert isinstance(unguided, Picture)
    assert difference(picture, unguided) == 0
    assert picture.evaluations == Evaluations(STEPS, STEPS, inversion=STEPS)


@pytest.mark.parametrize(
    "settings",
    [
        {"tau_f": 0.0},
        {"tau_a": 0.0},
        {"share": 0.5},
        {"features": "up_blocks.1.resnets.0+up_blocks.2.resnets.0.conv2"},
        {"branches": "conditional"},
        {"source": "noised"},
        {"start": "noise"},
        {"recurrence": 1},
        {"source_prompt": "a ball"},
    ],
    ids=str,
)
def test_every_setting_acts(tiny: Tiny, plain: Picture, settings: dict[str, Any]) -> None:
    (changed,) = make(tiny, **settings)
    assert difference(plain, changed) > 0


def test_the_negative_prompt_trick_acts(tiny: Tiny) -> None:
    (without,) = make(tiny, source_prompt="a ball")
    (linear,) = make(tiny, source_prompt="a ball", decay="linear")
    (less,) = make(tiny, source_prompt="a ball", decay="linear", alpha=0.3)
    assert difference(without, linear) > 0
    assert difference(linear, less) > 0


def test_a_seed_is_the_same_picture_in_any_batch(tiny: Tiny) -> None:
    several = make(tiny, source="noised", seed=5, count=3)
    (alone,) = make(tiny, source="noised")
    assert [picture.seed for picture in several] == [5, 6, 7]
    assert difference(several[2], alone) <= 2
    assert difference(several[1], alone) > 2
    assert SOURCE_SEED not in range(2**31)  # nobody meets a source noised like the picture itself


def test_lines_by_gradient_and_layout_by_features(tiny: Tiny, predictor: LatentPredictor, plain: Picture) -> None:
    (both,) = make(tiny, sketch=CROSS, predictor=predictor)
    assert difference(both, plain) > 2
    assert both.request.sketch is not None
    assert both.request.layout is not None
    assert both.evaluations == plain.evaluations


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"source": "noised", "count": 3, "near": 0.1, "image": CROSS},
        {"source_prompt": "a ball", "decay": "exponential", "recurrence": 1, "solver": "ddpm"},
    ],
    ids=["inverted", "two-batches", "mixture"],
)
def test_a_saved_picture_can_be_made_again_bit_for_bit(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr("sketchguide.sizes.BATCH", 2)
    pictures = make(tiny, "a cat", "a dog", **settings)
    chosen = pictures[-1]
    chosen.save(tmp_path / "a.png")
    recipe = recall(tmp_path / "a.png")
    assert recipe == chosen.recipe
    (again,) = [p for p in run(recipe.request, backbone=tiny(), only=recipe.index) if isinstance(p, Picture)]
    assert again.image.tobytes() == chosen.image.tobytes()
    assert again.recipe == chosen.recipe


def test_a_source_that_there_is_no_room_to_keep_is_the_same_for_every_batch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sketchguide.sizes.BATCH", 2)
    whole = make(tiny, source="noised", count=3)
    monkeypatch.setattr(PlugAndPlay, "_room", 0)
    for kept, again in zip(whole, make(tiny, source="noised", count=3), strict=True):
        assert again.image.tobytes() == kept.image.tobytes()


# ----------------------------------------------------------------------------------------------------------- generated


def generated(tiny: Tiny, **settings: Any) -> Picture:
    given = {"prompt": "a cat", "seed": 5, "steps": STEPS, "size": SIZE, **settings}
    return [event for event in run(Request.checked(**given), backbone=tiny()) if isinstance(event, Picture)][-1]


def test_a_generated_source_with_its_own_prompt_is_the_picture_itself(whole: Tiny, tmp_path: Path) -> None:
    """Its features at every level are those that made it. An inversion only comes near.

    Here the small network makes more of how a batch is rounded.
    """
    source = generated(whole, count=2, scale=3.0, solver="dpm++2m", negative="a dog")
    source.save(tmp_path / "cat.png")
    same = {"image": tmp_path / "cat.png", "scale": 3.0, "negative": "a dog"}
    (again,) = make(whole, "a cat", source="generated", **same)
    (near,) = make(whole, "a cat", source="inverted", source_prompt="a cat", solver="dpm++2m", **same)
    assert difference(again, source) <= 1
    assert difference(near, source) > 1
    assert again.evaluations == Evaluations(STEPS, STEPS, source=STEPS, inversion=2 * STEPS)
    layout = again.request.layout
    assert layout is not None
    assert layout.source_prompt == "a cat"
    assert layout.made == source.recipe


def test_of_a_trained_model_it_is_where_the_negative_pass_keeps_its_own_features() -> None:
    backbone = load_backbone("icons-64")
    (source,) = generation.generate("a red apple", backbone=backbone, seed=5, steps=STEPS, scale=4.0)
    settings = {"source": "generated", "backbone": backbone, "seed": 5, "steps": STEPS, "scale": 4.0}
    (same,) = translate(source, "a red apple", **settings, branches="conditional")
    (near,) = translate(source, "a red apple", **settings, branches="both")
    assert difference(same, source) <= 1
    assert difference(near, source) > 1


def test_a_generated_source_has_what_pulled_it(tiny: Tiny, predictor: LatentPredictor, tmp_path: Path) -> None:
    (source,) = generation.generate(
        "a cat", sketch=CROSS, backbone=tiny(), predictor=predictor, seed=5, steps=STEPS, size=SIZE
    )
    settings = {"image": source, "source": "generated", "share": 0, "tau_f": 0, "tau_a": 0, "predictor": predictor}
    (without,) = make(tiny, "a cat", **settings)
    assert difference(without, source) > 2  # from the same noise, but nothing pulls the new picture
    (with_it,) = make(tiny, "a cat", sketch=CROSS, **settings)
    assert difference(with_it, source) <= 1
    (other,) = make(tiny, "a dog", image=source, source="generated", predictor=predictor)
    other.save(tmp_path / "dog.png")
    events = run(recall(tmp_path / "dog.png").request, backbone=tiny(), predictor=predictor)
    (again,) = [event for event in events if isinstance(event, Picture)]
    assert again.image.tobytes() == other.image.tobytes()
    steps = [event for event in run(other.request, backbone=tiny(), predictor=predictor) if isinstance(event, Progress)]
    assert [(step.done, step.total) for step in steps] == [(i + 1, 2 * STEPS) for i in range(2 * STEPS)]


def test_generated_sources_that_cannot_be_had(tiny: Tiny, tmp_path: Path) -> None:
    source = generated(tiny)
    for image in (ball(), CROSS):
        with pytest.raises(UsageError, match="is a picture that sketchguide made") as raised:
            make(tiny, image=image, source="generated")
        assert raised.value.field == "source"
    ball().save(tmp_path / "ball.png")
    with pytest.raises(UsageError, match="carries no sketchguide recipe"):
        make(tiny, image=tmp_path / "ball.png", source="generated")
    with pytest.raises(UsageError, match="at other noise levels: 3 steps"):
        make(tiny, image=source, source="generated", steps=STEPS + 1)
    with pytest.raises(UsageError, match="made in 32 × 32"), pytest.warns(SketchguideWarning, match="is cut off"):
        make(tiny, image=source, source="generated", size=(64, 32))
    with pytest.raises(UsageError, match="itself made from another one"):
        make(tiny, image=make(tiny)[0], source="generated")
    with pytest.raises(UsageError, match="need one another"):
        Layout.checked(picture="", source="generated")
    with pytest.raises(UsageError, match="need one another"):
        Layout.checked(picture="", made=source.recipe)
    for name, value in {"model": "0" * 12, "predictor": "0" * 12}.items():
        changed = source.recipe.model_copy(update={"made_with": {**source.made_with, name: value}})
        layout = Layout.checked(picture=to_base64(source.image), source="generated", made=changed)
        request = Request.checked(prompt="a cat", seed=5, steps=STEPS, size=SIZE, layout=layout)
        if name == "model":
            with pytest.raises(UsageError, match="made with another model"):
                list(run(request, backbone=tiny()))
        else:
            list(run(request, backbone=tiny()))  # nothing pulled the picture: which predictor there was is no matter


def test_a_generated_source_is_a_picture_however_much_it_looks_like_a_drawing(tiny: Tiny) -> None:
    source = generated(tiny)
    inked = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(inked).line((4, 4, 28, 28), fill="black", width=2)
    like = replace(source, image=inked)
    with pytest.warns(SketchguideWarning, match="not the one that its recipe makes"):
        (taken_for_a_picture,) = make(tiny, image=like, source="generated")
    (drawing,) = make(tiny, image=inked)
    for picture, drawn in ((taken_for_a_picture, False), (drawing, True)):
        layout = picture.request.layout
        assert layout is not None
        assert layout.drawn is drawn


# ---------------------------------------------------------------------------------------------------------------- cost


def test_an_edit_takes_190_evaluations_for_50_steps_inverted_and_140_noised(tiny: Tiny) -> None:
    steps = 10  # the counts are in proportion
    (inverted,), (noised,) = make(tiny, steps=steps), make(tiny, steps=steps, source="noised")
    assert inverted.evaluations == Evaluations(conditional=10, negative=10, source=8, inversion=10)
    assert sum(inverted.evaluations) == 190 * steps / 50
    assert sum(noised.evaluations) == 140 * steps / 50
    assert inverted.recipe.evaluations == inverted.evaluations._asdict()


def test_prompts_share_one_pass_over_the_source(tiny: Tiny) -> None:
    assert tiny().taps  # found by one pass, once
    passes: list[int] = []
    spy = tiny().network.conv_in.register_forward_hook(lambda *_: passes.append(1))
    try:
        three = make(tiny, "a cat", "a dog", "a hen", scale=3.0)
    finally:
        spy.remove()
    assert len(passes) == STEPS + STEPS + 3 * 2 * STEPS  # of so few steps the first 0.8 are all
    assert {sum(picture.evaluations) for picture in three} == {STEPS + STEPS + 2 * STEPS}
    assert [picture.request.prompt for picture in three] == ["a cat", "a dog", "a hen"]
    (alone,) = make(tiny, "a dog", scale=3.0)
    assert difference(three[1], alone) == 0


def test_progress_counts_inversion_and_every_walk(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="The size is 32"):
        request = prepare(ball(SIZE), "a cat", tiny(), layout={}, size=SIZE, steps=3, seed=1)
    events = list(run(request, prompts=["a cat", "a dog"], backbone=tiny()))
    steps = [event for event in events if isinstance(event, Progress)]
    assert [(step.done, step.total) for step in steps] == [(i, 9) for i in range(1, 10)]
    assert steps[2].evaluations == Evaluations(0, 0, inversion=3)
    assert steps[-1].evaluations == Evaluations(6, 6, source=3, inversion=3)


def test_an_equal_source_prompt_costs_nothing(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="decay changes nothing"):
        (picture,) = make(tiny, decay="linear", source_prompt="a dog", negative="a dog")
    assert picture.evaluations.negative == STEPS


# ------------------------------------------------------------------------------------------------------------- sources


def test_a_drawing_is_dark_ink_on_white_paper(tiny: Tiny) -> None:
    (picture,) = make(tiny, image=CROSS)
    layout = picture.request.layout
    assert layout is not None
    assert layout.drawn
    assert (layout.tau_f, layout.tau_a) == (FOR_DRAWINGS["tau_f"], FOR_DRAWINGS["tau_a"])
    ink = torch.tensor(CROSS.rasterize(size=SIZE).ink)
    stored = to_tensor([from_base64(layout.picture)])
    assert torch.allclose(stored, from_ink(1 - ink[None, None]), atol=1 / 255)
    (own,) = make(tiny, image=CROSS, tau_f=0.9)
    assert own.request.layout is not None
    assert own.request.layout.tau_f == 0.9


@pytest.mark.parametrize(
    ("drawn", "expected"), [(None, True), (True, True), (False, False)], ids=["looked", "said", "denied"]
)
def test_a_picture_of_a_drawing_is_recognised_or_said_to_be_one(
    tmp_path: Path, drawn: bool | None, expected: bool
) -> None:
    ink = CROSS.rasterize(size=(64, 64)).ink
    Image.fromarray(np.uint8(255 * (1 - ink))).save(tmp_path / "cross.png")
    assert isinstance(open_source(tmp_path / "cross.png", drawn=drawn), Sketch) is expected
    assert isinstance(taken(open_image(tmp_path / "cross.png"), drawn=drawn), Sketch) is expected
    ball().save(tmp_path / "ball.png")
    assert isinstance(open_source(tmp_path / "ball.png"), Image.Image)


def test_of_a_picture_of_a_drawing_it_can_be_said_which_is_ink(tiny: Tiny) -> None:
    lines = Image.new("RGB", (64, 64), "gray")
    lines.paste("black", (8, 16, 56, 18))
    lines.paste("white", (8, 46, 56, 48))
    seen = []
    for polarity in ("dark-on-light", "light-on-dark"):
        (made,) = translate(lines, "a cat", drawn=True, polarity=polarity, backbone=tiny(), size=SIZE, steps=1, seed=1)
        assert made.request.layout is not None
        seen.append(made.request.layout.picture)
    assert seen[0] != seen[1]


def test_what_is_transparent_is_white_but_under_light_lines(tmp_path: Path) -> None:
    lines, cut = (Image.new("RGBA", (64, 64), (0, 0, 0, 0)) for _ in range(2))
    ImageDraw.Draw(lines).line([(8, 32), (56, 32)], fill="white", width=2)
    ImageDraw.Draw(cut).ellipse((8, 8, 56, 56), fill=(250, 250, 240, 255))
    ImageDraw.Draw(cut).ellipse((20, 20, 28, 28), fill=(250, 235, 235, 255))
    lines.save(tmp_path / "lines.png")
    cut.save(tmp_path / "cut.png")
    for given in (taken(lines), open_source(tmp_path / "lines.png")):
        assert isinstance(given, Sketch)
    for given in (taken(cut, drawn=False), open_source(tmp_path / "cut.png"), taken(cut)):
        assert isinstance(given, Image.Image)
        assert given.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("prompt", [3, [3], ["a", None]])
def test_prompts_are_texts(prompt: Any) -> None:
    with pytest.raises(UsageError, match="a text, or a list of texts"):
        translate(ball(), prompt)


def test_what_sketchguide_made_is_a_picture_whatever_it_looks_like(tiny: Tiny, tmp_path: Path) -> None:
    (made,) = generate("a", backbone=tiny(), steps=1, size=(64, 64), seed=1)
    drawing = Image.fromarray(np.uint8(255 * (1 - CROSS.rasterize(size=(64, 64)).ink))).convert("RGB")
    replace(made, image=drawing).save(tmp_path / "made.png")
    assert looks_drawn(open_image(tmp_path / "made.png"))
    assert isinstance(open_source(tmp_path / "made.png"), Image.Image)
    assert isinstance(open_source(tmp_path / "made.png", drawn=True), Sketch)
    (again,) = make(tiny, image=replace(made, image=drawing))
    assert again.request.layout is not None
    assert not again.request.layout.drawn


def test_strokes_are_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L9 9"/></svg>')
    assert isinstance(open_source(tmp_path / "a.svg"), Sketch)
    with pytest.raises(UsageError, match="holds strokes"):
        open_source(tmp_path / "a.svg", drawn=False)


def test_what_looks_drawn() -> None:
    rng = np.random.default_rng(0)
    ink = np.uint8(255 * (1 - CROSS.rasterize(size=(64, 64)).ink))
    assert looks_drawn(Image.fromarray(ink))
    assert looks_drawn(Image.fromarray(255 - ink))
    assert not looks_drawn(Image.new("RGB", (64, 64), "white"))
    assert not looks_drawn(ball())
    assert not looks_drawn(Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)))


def test_the_mask_lies_near_strokes(tiny: Tiny, predictor: LatentPredictor) -> None:
    ink = torch.zeros(1, 1, 32, 32)
    ink[..., 8, 8] = 1
    mask = near_strokes(ink, 0.1, tiny())  # 3 pixels, of latent pixels of 2
    assert mask.shape == (1, 1, 16, 16)
    assert mask[0, 0, 4, 4] == 1
    assert mask[0, 0, 8:].max() == 0
    assert 0 < mask.mean() < 0.1
    for image, sketch in ((CROSS, None), (ball(), CROSS)):
        narrow, wide = (
            make(tiny, image=image, sketch=sketch, predictor=predictor, near=near, source="noised")[0]
            for near in (0.02, 0)
        )
        assert difference(narrow, wide) > 0


def test_a_mask_needs_strokes(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="no strokes") as caught:
        make(tiny, near=0.1)
    assert caught.value.field == "near"
    assert "drawing" in caught.value.hint
    with pytest.warns(SketchguideWarning, match="blank"), pytest.raises(UsageError, match="the drawing is blank"):
        make(tiny, near=0.1, sketch=Sketch(aspect=1))


# ---------------------------------------------------------------------------------------------------------------- size


def test_the_drawing_lies_on_the_picture_though_that_is_cut(tiny: Tiny, predictor: LatentPredictor) -> None:
    """A wide picture with a ball at its middle, and the outline of the ball drawn on it: both are cut to a square."""
    wide = Image.new("RGB", (192, 64), "white")
    ImageDraw.Draw(wide).ellipse((76, 12, 116, 52), fill="red")
    turns = np.linspace(0, 2 * np.pi, 60)
    around = np.stack([0.5 + 20 / 192 * np.cos(turns), 0.5 + 20 / 64 * np.sin(turns)], axis=1)
    ring = Sketch.from_strokes([around], aspect=3)
    with pytest.warns(SketchguideWarning, match="cut off"):
        (made,) = translate(
            wide,
            "a cat",
            backbone=tiny(),
            predictor=predictor,
            sketch=ring,
            steps=1,
            seed=1,
            size=(64, 64),
            drawn=False,
        )
    assert made.request.sketch is not None
    ink = Sketch.from_json(made.request.sketch).rasterize(size=(64, 64)).ink
    rows, columns = np.nonzero(ink > 0.5)
    assert (columns.min(), columns.max()) == pytest.approx((12, 52), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((12, 52), abs=2)


def test_what_was_loaded_already_is_named(
    tiny: Tiny, predictor: LatentPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "source", "somewhere")  # of the one that other tests have too
    (made,) = make(tiny, sketch=CROSS, predictor=predictor)
    assert (made.request.predictor, made.request.dtype) == ("somewhere", "float32")


def test_the_size_follows_the_aspect(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="The size is 96 × 48; tiny was trained for 64 × 64"):
        (picture,) = translate(ball((400, 200)), "a cat", backbone=tiny(), steps=1, seed=1)
    assert picture.image.size == (96, 48)


def test_what_is_cut_off_is_said(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match=r"75% of the picture \(256 × 64\) is cut off at the sides"):
        translate(ball((256, 64)), "a cat", backbone=tiny(), size=(64, 64), steps=1, seed=1)
    with pytest.warns(SketchguideWarning, match="top and bottom"):
        translate(ball((64, 96)), "a cat", backbone=tiny(), size=(64, 64), steps=1, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        translate(ball((130, 130)), "a cat", backbone=tiny(), steps=1, seed=1)


def test_see_through_is_white(tiny: Tiny, tmp_path: Path) -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((8, 8, 50, 50), fill=(255, 0, 0, 255))
    image.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", image):
        (picture,) = translate(source, "a cat", backbone=tiny(), steps=1, seed=1)
        assert picture.request.layout is not None
        assert from_base64(picture.request.layout.picture).getpixel((0, 0)) == (255, 255, 255)


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"tau_f": 1.5}, "tau_f"),
        ({"tau_a": float("nan")}, "tau_a"),
        ({"share": -0.1}, "share"),
        ({"near": 0.7}, "near"),
        ({"alpha": 2}, "alpha"),
        ({"decay": "slow"}, "decay"),
        ({"source": "guessed"}, "source"),
        ({"start": "end"}, "start"),
        ({"branches": "none"}, "branches"),
        ({"recurrence": 11}, "recurrence"),
        ({"source_prompt": "a\x00b"}, "source_prompt"),
        ({"steps": 0}, "steps"),
        ({"tau": 0.5}, "tau"),
        ({"features": ["up_blocks.9.resnets.0"]}, "taps"),
        ({"size": (33, 32)}, "size"),
    ],
)
def test_bad_settings_are_named(tiny: Tiny, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(tiny, **settings)
    assert caught.value.field == field


def test_an_unknown_tap_is_told_before_the_source_is_walked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sketchguide.sources.ascend", lambda *_, **__: pytest.fail("the source was walked"))
    with pytest.raises(TapError):
        make(tiny, features="up_blocks.9")
    with pytest.raises(TapError, match=r"'down_blocks\.0' yields no tensor.*"):
        make(tiny, features="down_blocks.0")


def test_an_unknown_tap_is_answered_with_those_there_are(tiny: Tiny) -> None:
    with pytest.raises(TapError, match=r"no submodule 'up_blocks\.1\.conv9'") as caught:
        make(tiny, features=["up_blocks.1.conv9"])
    assert "resnets, attentions" in caught.value.hint or "attentions, resnets" in caught.value.hint


def test_at_least_one_prompt(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="no prompt"):
        translate(ball(), [], backbone=tiny())


@pytest.mark.parametrize("picture", ["no base64!", "aGVsbG8=", ""])
def test_a_stored_picture_that_is_none_is_refused(tiny: Tiny, picture: str) -> None:
    request = Request.checked(prompt="a cat", seed=1, steps=1, size=SIZE, layout=Layout.checked(picture=picture))
    with pytest.raises(SketchError) as caught:
        list(run(request, backbone=tiny()))
    assert caught.value.field == "layout"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": Image.new("RGB", (64, 64), "gray")}, "The picture is blank"),
        ({"image": Sketch()}, "The picture is blank"),
        ({"count": 2}, "seeds change nothing"),
        ({"scale": 1.0, "decay": "linear", "source_prompt": "a ball"}, "no negative prompt"),
        ({"scale": 1.0, "branches": "conditional"}, "branches changes nothing: scale is 1"),
        ({"decay": "linear"}, "decay changes nothing"),
        ({"alpha": 0.5}, "alpha changes nothing"),
        ({"decay": "constant", "source_prompt": "a ball"}, "never leaves the plain negative prompt"),
    ],
)
def test_what_is_probably_not_meant_is_told(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.warns(SketchguideWarning, match=message):
        make(tiny, **({"steps": 1} | settings))


PAGE = Path(__file__).parents[1] / "docs" / "plug-and-play.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the source archive comes without docs")
def test_settings_are_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(field.description for field in LayoutSettings.model_fields.values())
    assert all(f"`{name}`" in page for name in LayoutSettings.model_fields)
