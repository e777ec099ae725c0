from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sketchguide import arguments, generation
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_controlnet
from sketchguide.controls.base import Step
from sketchguide.controls.edges import target_of
from sketchguide.controls.strengths import Proportional
from sketchguide.defaults import EVERY, HANDOVER
from sketchguide.errors import MismatchError, ModelNotFoundError, SketchguideWarning, UsageError
from sketchguide.fingerprints import fingerprint
from sketchguide.generation import Progress, generate, run
from sketchguide.guidance import controls_of, latent_guide
from sketchguide.images import to_base64
from sketchguide.loading import load_backbone
from sketchguide.lora import LORA_FILE
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Edit, Request
from sketchguide.sketch import Sketch, SpatialMap
from support import CROSS, SIZE, Tiny, attention_for, draw, lora_of, pixels, save_sketch_loss, small_stable_diffusion

NETWORK = "small"


def test_a_drawing_changes_the_picture(tiny: Tiny, predictor: LatentPredictor) -> None:
    (guided,), (plain,) = draw(tiny, predictor), draw(tiny, predictor, sketch=None)
    assert guided.image.size == SIZE
    assert np.abs(pixels(guided.image) - pixels(plain.image)).max() > 5
    for closed in ({"strength": 0.0}, {"stop": 0.0}):
        (none,) = draw(tiny, predictor, **closed)
        assert np.array_equal(pixels(none.image), pixels(plain.image))


def test_a_predictor_that_is_not_to_pull_refuses_nothing(tiny: Tiny, make_predictor: Any) -> None:
    early = make_predictor(window=(0.0, 0.5))
    (plain,) = draw(tiny, early, sketch=None)
    with pytest.warns(SketchguideWarning, match="stop changes nothing"):
        (idle,) = draw(tiny, early, strength=0.0, stop=1.0)
    assert np.array_equal(pixels(idle.image), pixels(plain.image))
    assert "predictor" not in idle.made_with


def test_the_guide_hands_over_where_the_predictor_can(tiny: Tiny, make_predictor: Any) -> None:
    def handover(predictor: LatentPredictor, **settings: Any) -> float:
        request = Request.checked(prompt="", seed=1, **settings)
        return latent_guide(request, [CROSS.rasterize(size=SIZE)], tiny(), predictor).handover

    plain, reader = make_predictor(), make_predictor(clean_widths=(8,))
    assert handover(plain) == handover(plain, handover=1) == handover(reader, handover=1) == 1
    assert handover(reader) == HANDOVER.default
    assert handover(reader, handover=0.7) == 0.7
    with pytest.raises(UsageError, match="reads activations alone"):
        handover(plain, handover=0.7)


def test_the_guide_pulls_as_the_request_says(tiny: Tiny, predictor: LatentPredictor) -> None:
    request = Request.checked(prompt="", seed=1, strength=2, even=0.3, every=3, stop=0.7)
    guide = latent_guide(request, [CROSS.rasterize(size=SIZE)], tiny(), predictor)
    assert guide.strength == Proportional(2, even=0.3)
    assert (guide.every, guide.window) == (3, (0, 0.7))
    edit = Edit.checked(picture="", amount=0.8)
    half = Request.checked(prompt="", seed=1, steps=30, stop=0.5, sketch=CROSS.to_json(), edit=edit)
    guide = latent_guide(half, [CROSS.rasterize(size=SIZE)], tiny(), predictor)
    assert guide.window == (0, tiny().levels(30)[18].progress)  # which is open no more
    few = latent_guide(Request.checked(prompt="", seed=1, steps=12), [CROSS.rasterize(size=SIZE)], tiny(), predictor)
    assert (few.every, few.strength) == (1, Proportional(1.15))


def test_the_sketch_loss_pulls_as_the_request_says(tiny: Tiny, tmp_path: Path) -> None:
    save_sketch_loss(tmp_path)
    drawing, parts = CROSS.rasterize(size=SIZE), {"sketcher": str(tmp_path), "drawing_features": str(tmp_path)}

    def guide(**settings: Any) -> Any:
        request = Request.checked(prompt="", seed=1, sketch=CROSS.to_json(), **parts, **settings)
        (one,) = controls_of(request, tiny(), drawing, None).guides
        return one

    asked, usual = guide(sketch_loss=3, every=5, stop=0.6), guide(sketch_loss=2, steps=4)
    assert (asked.strength, asked.every, asked.window) == (Proportional(3), 5, (0, 0.6))
    assert (usual.strength, usual.every) == (Proportional(2), EVERY.default)
    assert torch.equal(asked.ink, torch.tensor(drawing.ink)[None, None])


def test_sketch_attention_is_shown_the_ink(tiny: Tiny, tmp_path: Path) -> None:
    attention_for(tiny()).save(tmp_path / "sketch-attention.safetensors")
    drawing, given = CROSS.rasterize(size=SIZE), {"attention": str(tmp_path), "attention_scale": 0.5}
    request = Request.checked(prompt="", seed=1, sketch=CROSS.to_json(), **given)
    told: Any = controls_of(request, tiny(), drawing, None).told
    assert torch.equal(told.image, torch.tensor(drawing.ink)[None, None])
    assert told.scale == 0.5


@dataclass
class Darker:
    backbone: UNetBackbone
    reads: Sequence[str] = ()
    window: tuple[float, float] = (0.0, 1.0)
    every: int = 1
    strength: Proportional = field(default_factory=lambda: Proportional(1.0))

    def loss(self, step: Step) -> Tensor:
        return self.backbone.decode(step.prediction.clean).mean(dim=(1, 2, 3))


@dataclass
class Fixed(Darker):
    strength: Proportional = field(init=False, default_factory=lambda: Proportional(1.0))


def test_a_guide_of_ones_own_pulls_beside_the_drawing(tiny: Tiny, predictor: LatentPredictor) -> None:
    asked = Request.checked(prompt="a cat", sketch=CROSS.to_json(), seed=7, steps=3, size=SIZE, count=2)
    settings: dict[str, Any] = {"backbone": tiny(), "predictor": predictor}

    def light(request: Request = asked, **more: Any) -> list[float]:
        events = run(request, **settings, **more)
        return [float(pixels(event.image).mean()) for event in events if isinstance(event, Picture)]

    guides = [Darker(tiny())]
    assert all(dark < plain - 1 for dark, plain in zip(light(guides=guides), light(), strict=True))
    picture = to_base64(Image.linear_gradient("L").resize(SIZE).convert("RGB"))
    edit = asked.model_copy(update={"edit": Edit.checked(picture=picture, margin=1), "count": 1})
    assert light(edit, guides=guides)[0] < light(edit)[0] - 1
    for other in (Darker, Fixed(tiny()), object()):
        with pytest.raises(UsageError, match="is no dataclass that is given a strength"):
            light(guides=[other])


def test_a_seed_is_the_same_picture_in_any_batch(tiny: Tiny, predictor: LatentPredictor) -> None:
    (alone,) = draw(tiny, predictor, solver="ddpm")
    several = draw(tiny, predictor, seed=5, count=3, solver="ddpm")
    assert [picture.seed for picture in several] == [5, 6, 7]
    assert np.abs(pixels(several[2].image) - pixels(alone.image)).max() <= 2
    assert np.abs(pixels(several[1].image) - pixels(alone.image)).max() > 20


def test_a_predictor_is_looked_for_before_the_model_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That may take half an hour."""
    tiny_stable_diffusion().save_pretrained(tmp_path)
    monkeypatch.setattr(arguments, "load_backbone", lambda *_, **__: pytest.fail("it was loaded"))
    make = partial(generate, "a cat", sketch=CROSS, seed=1, steps=1, size=SIZE)
    with pytest.raises(UsageError, match="has no predictor of its own"):
        make(model=str(tmp_path))
    line = Sketch.from_strokes([[(0.1, 0.5), (0.9, 0.5)]])
    with pytest.raises(UsageError, match="has no predictor of its own"):
        make(model=str(tmp_path), sketch=line)
    with pytest.raises(ModelNotFoundError, match="no/such/edges"):
        make(model=str(tmp_path), predictor="no/such/edges")
    with pytest.raises(ModelNotFoundError, match="No model 'no/such/model'"):
        make(model="no/such/model")
    for needless in ({"strength": 0}, {"sketch_loss": 1}, {"sketch": None}, {"sketch": Sketch()}):
        with pytest.raises(pytest.fail.Exception, match="it was loaded"):
            make(model=str(tmp_path), **needless)


def test_a_recipe_names_what_was_loaded_already(predictor: LatentPredictor, tmp_path: Path) -> None:
    small_stable_diffusion().save_pretrained(tmp_path / "model")
    predictor.save_pretrained(tmp_path / "lines", card="")
    backbone = load_backbone(tmp_path / "model", dtype="bfloat16")
    lines = LatentPredictor.from_pretrained(tmp_path / "lines")
    (picture,) = generate("a cat", sketch=CROSS, backbone=backbone, predictor=lines, seed=1, steps=2, size=SIZE)
    (again,) = [p for p in run(picture.recipe.request) if isinstance(p, Picture)]
    assert np.array_equal(pixels(again.image), pixels(picture.image))
    assert again.made_with == picture.made_with
    for name in (tmp_path / "lines", str(tmp_path / "lines")):
        (named,) = generate("a cat", sketch=CROSS, backbone=backbone, predictor=name, seed=1, steps=2, size=SIZE)
        assert named.request == picture.request
        assert np.array_equal(pixels(named.image), pixels(picture.image))
    for wrong in ("icons-64", 5):
        with pytest.raises(UsageError, match="must be a loaded model"):
            generate("a cat", backbone=wrong, seed=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="predictor is '5'; it must be a loaded predictor, or the name of one"):
        generate("a cat", backbone=backbone, predictor=5, seed=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="The model is a int; it must be a name"):
        load_backbone(5)  # type: ignore[arg-type]


def test_a_recipe_tells_other_levels_and_a_wrapped_model_apart() -> None:
    pipeline = tiny_stable_diffusion()
    plain = UNetBackbone(pipeline, name="tiny")
    control = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(4, 8))

    def made_with(backbone: Backbone) -> dict[str, str]:
        return generate("a cat", backbone=backbone, seed=1, steps=2, size=SIZE)[0].made_with

    before = made_with(plain)
    told = made_with(with_controlnet(plain, control, torch.zeros(1, 3, *SIZE)))
    assert {name for name in before if told[name] != before[name]} == {"model"}
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    other = made_with(UNetBackbone(pipeline, name="tiny"))
    assert {name for name in before if other[name] != before[name]} == {"levels", "solver"}


def test_a_controlnet_and_a_drawing_that_pulls_act_together(predictor: LatentPredictor) -> None:
    plain = UNetBackbone(small_stable_diffusion(), name="tiny")
    control = ControlNetModel.from_unet(plain.network, conditioning_embedding_out_channels=(4, 8))
    for block in control.controlnet_down_blocks:
        torch.nn.init.normal_(block.weight, std=0.2, generator=torch.Generator().manual_seed(1))
    told = with_controlnet(plain, control, CROSS.rasterize(size=SIZE))

    def picture(backbone: Backbone, **settings: Any) -> np.ndarray:
        (one,) = generate("a cat", backbone=backbone, seed=1, steps=2, size=SIZE, **settings)
        return pixels(one.image)

    pulls = {"sketch": CROSS, "predictor": predictor, "every": 1}
    both = picture(told, **pulls)
    for less in (picture(plain, **pulls), picture(told), picture(plain)):
        assert np.abs(both - less).max() > 5


def test_a_pipeline_in_a_precision_of_its_own_draws_as_it_is() -> None:
    backbone = UNetBackbone(tiny_stable_diffusion().to(torch.float64), name="tiny")
    (picture,) = generate("a cat", backbone=backbone, seed=1, steps=1, size=SIZE)
    assert (picture.request.dtype, picture.made_with["dtype"]) == ("auto", "float64")


def test_a_picture_not_asked_for_is_refused(tiny: Tiny) -> None:
    request = Request.checked(prompt="a cat", seed=7, steps=1, size=SIZE)
    with pytest.raises(UsageError):
        list(run(request, backbone=tiny(), only=1))


def test_progress_counts_every_step(tiny: Tiny) -> None:
    request = Request.checked(prompt="a cat", seed=3, steps=3, size=SIZE, count=2)
    moments = list(run(request, backbone=tiny()))
    steps = [moment for moment in moments if isinstance(moment, Progress)]
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[0].seeds == (3, 4)
    assert steps[0].clean.shape == (2, 4, 16, 16)
    assert [moment.index for moment in moments if isinstance(moment, Picture)] == [0, 1]


def test_pictures_that_are_not_square(tiny: Tiny, predictor: LatentPredictor) -> None:
    (picture,) = draw(tiny, predictor, size=(48, 32))
    assert picture.image.size == (48, 32)


def test_a_random_seed_is_returned(tiny: Tiny) -> None:
    (picture,) = generate("a cat", backbone=tiny(), steps=1, size=SIZE)
    assert picture.request.seed == picture.seed
    (again,) = generate("a cat", backbone=tiny(), steps=1, size=SIZE, seed=picture.seed)
    assert np.array_equal(pixels(picture.image), pixels(again.image))


def test_settings_of_the_pull_are_told_of_where_nothing_pulls(tiny: Tiny) -> None:
    with pytest.warns(SketchguideWarning, match="^widen changes nothing: strength is 0"):
        generate("a cat", sketch=CROSS, backbone=tiny(), steps=1, size=SIZE, seed=1, strength=0, widen=3)


def test_a_recipe_says_how_many_threads_drew(tiny: Tiny) -> None:
    (made,) = generate("a cat", backbone=tiny(), steps=1, size=SIZE, seed=1)
    assert made.made_with["threads"] == str(torch.get_num_threads())


def test_a_lora_is_on_the_backbone_for_its_request_alone(tmp_path: Path) -> None:
    tuned = small_stable_diffusion()
    tuned.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(tuned.unet).items()}
    save_file(layers, tmp_path / LORA_FILE)
    backbone = UNetBackbone(small_stable_diffusion(), name="tiny")

    def make(**settings: Any) -> Image.Image:
        return generate("a cat", backbone=backbone, seed=1, steps=2, size=SIZE, **settings)[0].image

    before, plain = fingerprint(backbone.network), make()
    with_lora = make(lora=str(tmp_path))
    assert fingerprint(backbone.network) == before
    assert np.array_equal(pixels(make()), pixels(plain))
    assert not np.array_equal(pixels(with_lora), pixels(plain))
    own = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_k"])
    backbone.network.add_adapter(own, adapter_name="own")
    with_own = make()
    assert not np.array_equal(pixels(with_own), pixels(plain))
    make(lora=str(tmp_path))
    assert set(backbone.network.peft_config) == {"own"}
    assert np.array_equal(pixels(make()), pixels(with_own))


def test_a_run_with_a_lora_and_another_run_are_not_under_way_at_once(tmp_path: Path) -> None:
    lora_of("unet", tmp_path / LORA_FILE, "to_q")
    backbone = UNetBackbone(small_stable_diffusion(), name="tiny")

    def begun(**settings: Any) -> Generator[Progress | Picture]:
        request = Request.checked(prompt="a cat", seed=1, steps=2, size=SIZE, **settings)
        events = run(request, backbone=backbone)
        next(events)
        return events

    lora = {"lora": str(tmp_path)}
    for first, second in ((lora, {}), ({}, lora), (lora, lora)):
        events = begun(**first)
        with pytest.raises(UsageError, match="Another run on 'tiny' is under way") as caught:
            begun(**second)
        assert caught.value.field == "lora"
        events.close()
        begun(**second).close()
    plain, beside = begun(), begun()  # which do not change each other's
    assert sum(isinstance(event, Picture) for events in (plain, beside) for event in events) == 2
    list(begun(**lora))
    begun(**lora).close()


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("wrong", [{"taps": ("conv_in",), "channels": (7,)}, {"latent_channels": 16}], ids=str)
def test_law_10_holds_for_a_predictor_handed_over(tiny: Tiny, predictor: LatentPredictor, wrong: Any) -> None:
    config = replace(predictor.config, backbone="some-other-model", **wrong)
    with pytest.raises(MismatchError, match=r"some-other-model.*'tiny'"):
        draw(tiny, LatentPredictor(config))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"solver": "heun"}, "solver"),
        ({"steps": 0}, "steps"),
        ({"solver": "lcm", "steps": 60}, "steps"),
        ({"stop": 0.95}, "stop"),
        ({"guidance": 7.5}, "guidance"),
        ({"sketch": "nowhere.svg"}, "sketch"),
    ],
    ids=str,
)
def test_bad_settings_are_named(tiny: Tiny, make_predictor: Any, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        draw(tiny, make_predictor(window=(0.0, 0.9)), **settings)
    assert caught.value.field == field


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ModelNotFoundError):
        generate("a cat", model="no-such-model", seed=1)


# --------------------------------------------------------------------------------------------------------------- map


def test_defect_grey_background_in_the_target(tiny: Tiny, predictor: LatentPredictor) -> None:
    """Paper is exactly black, and lines are white, before E(e) is made."""
    drawn: list[Tensor] = []

    class Spy:
        device = tiny().device

        def encode(self, images: Tensor) -> Tensor:
            drawn.append(images)
            return tiny().encode(images)

    sketch: SpatialMap = CROSS.rasterize(size=(48, 32))
    spy: Any = Spy()
    target, weight = target_of(sketch, spy, predictor, blank=1.0)
    (image,) = drawn
    assert image.shape == (1, 3, 32, 48)
    assert float(image.min()) == -1.0
    assert 0.7 < float(image.max()) <= 1.0  # a thin antialiased line
    assert float((image == -1).float().mean()) > 0.5
    assert target.shape == (1, 4, 16, 24)
    assert torch.equal(weight, torch.ones(1, 1, 16, 24))


def test_weights_of_strokes_reach_the_latent(tiny: Tiny, predictor: LatentPredictor) -> None:
    heavy = replace(CROSS, strokes=(replace(CROSS.strokes[0], weight=4.0), replace(CROSS.strokes[1], weight=0.0)))
    _, weight = target_of(heavy.rasterize(size=SIZE), tiny(), predictor, blank=1.0)
    assert float(weight[0, 0, 4, 4]) > 2  # on the first stroke
    assert float(weight[0, 0, 4, 11]) < 0.5  # on the second
    assert float(weight[0, 0, 0, 8]) == pytest.approx(1)


def test_blank_paper_binds_as_told(tiny: Tiny, predictor: LatentPredictor) -> None:
    drawing = CROSS.rasterize(size=SIZE)
    _, weight = target_of(drawing, tiny(), predictor, blank=0.25)
    assert float(weight[0, 0, 0, 8]) == pytest.approx(0.25)  # paper
    assert float(weight[0, 0, 4, 4]) > 0.5  # ink


def test_the_shipped_model_draws() -> None:
    (picture,) = generate("a red apple", sketch=CROSS, steps=2, seed=7, device="cpu")
    assert picture.image.size == (128, 128)
    assert float(pixels(picture.image).std()) > 5


def test_objects_of_other_kinds_are_refused_by_name(tiny: Tiny) -> None:
    backbone = tiny()
    with pytest.raises(UsageError, match="loaded model") as caught:
        generate("a", backbone=backbone.pipeline)
    assert "from_pipe" in caught.value.hint
    with pytest.raises(UsageError, match="not a Image") as caught:
        generate("a", backbone=backbone, sketch=Image.new("L", (64, 64)))  # type: ignore[arg-type]
    assert "from_image" in caught.value.hint
    with pytest.raises(UsageError, match="list"):
        next(run(Request.checked(prompt="a", seed=1), backbone=backbone, prompts="cat"))
    for device in ("cuda", "cpu:1"):
        with pytest.raises(UsageError, match=f"device is {device}"):
            generate("a", backbone=backbone, device=device)
    with pytest.raises(UsageError, match="dtype is float16, but the model that was given is in float32"):
        generate("a", backbone=backbone, dtype="float16")
    with pytest.raises(UsageError, match="not a ndarray") as caught:
        generate("a", backbone=backbone, like=np.zeros((64, 64, 3)))  # type: ignore[arg-type]
    assert caught.value.field == "like"


def test_the_recipe_says_which_rule_walked() -> None:
    pipeline = tiny_stable_diffusion()
    backbone = UNetBackbone(pipeline)
    made = {}
    for kind in (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler):
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        (picture,) = generate("a", backbone=backbone, seed=1, steps=2, size=(64, 64))
        made[kind] = picture.made_with
    one, other = made.values()
    assert {name for name in one if one[name] != other[name]} == {"solver"}


def test_seeds_do_not_follow_the_default_dtype(tiny: Tiny) -> None:
    (before,) = generate("a", backbone=tiny(), seed=1, steps=2)
    torch.set_default_dtype(torch.float64)
    try:
        (after,) = generate("a", backbone=tiny(), seed=1, steps=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.abs(np.asarray(before.image).astype(int) - np.asarray(after.image)).max() <= 2


def test_a_prompt_is_read_once_however_many_pictures_it_makes(
    tiny: Tiny, predictor: LatentPredictor, monkeypatch: pytest.MonkeyPatch
):
    """To read it takes seconds with a large model."""
    monkeypatch.setattr(generation, "batch_size", lambda *_, **__: 1)
    tiny().taps  # noqa: B018  found by a pass of their own
    passes: list[object] = []
    counting = tiny().networks["text_encoder"].register_forward_pre_hook(lambda *_: passes.append(None))
    made = draw(tiny, predictor, count=3, negative="a dog")
    counting.remove()
    assert len(made) == 3
    assert len(passes) == 2  # the prompt and the negative one
