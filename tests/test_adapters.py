"""ControlNets and T2I-Adapters that a request names."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import T2IAdapter
from PIL import Image

from sketchguide.adapters import ADAPTERS, Adapter, adapter_of, load_adapter
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_controlnet, with_t2i_adapter
from sketchguide.editing import edit
from sketchguide.errors import MismatchError, ModelNotFoundError, SketchguideWarning, UsageError, WeightsError
from sketchguide.fingerprints import fingerprint
from sketchguide.generation import generate, run
from sketchguide.loading import from_pipe
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.translation import translate
from support import CROSS, SIZE, Tiny, pixels, save_adapter, small_stable_diffusion

WRAPS: dict[Adapter, Callable[..., Backbone]] = {"controlnet": with_controlnet, "t2i_adapter": with_t2i_adapter}

CLASSES: dict[Adapter, str] = {"controlnet": "ControlNetModel", "t2i_adapter": "T2IAdapter"}


@pytest.fixture(scope="module")
def folders(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[Adapter, Path]:
    """Of each kind one that changes pictures."""
    return {name: save_adapter(name, tiny(), tmp_path_factory.mktemp(name)) for name in ADAPTERS}


def drawn(backbone: Backbone, **settings: object) -> Picture:
    (picture,) = generate("a cat", sketch=CROSS, backbone=backbone, seed=1, steps=2, size=SIZE, **settings)
    return picture


@pytest.mark.parametrize("kind", list(WRAPS))
def test_one_that_is_named_is_shown_the_drawing(tiny: Tiny, folders: dict[Adapter, Path], kind: Adapter) -> None:
    backbone, named = tiny(), {kind: str(folders[kind])}
    image = CROSS.rasterize(size=SIZE)
    network = load_adapter(kind, folders[kind], backbone)
    for scale, *window in ((1.0, 0.0, 0.5), (1.0, 0.5, 1.0), (0.0, 0.0, 1.0)):
        told = WRAPS[kind](backbone, network, image, scale=scale, window=tuple(window))
        settings = {**named, f"{kind}_scale": scale, f"{kind}_start": window[0], f"{kind}_end": window[1]}
        # without a predictor, which the model does not have
        assert np.array_equal(pixels(drawn(backbone, **settings).image), pixels(drawn(told, strength=0).image))
    plain = drawn(backbone, strength=0)
    assert np.abs(pixels(drawn(backbone, **named).image) - pixels(plain.image)).max() > 20


def test_it_acts_beside_a_predictor_and_the_picture_can_be_repeated(
    tiny: Tiny, predictor: LatentPredictor, folders: dict[Adapter, Path]
) -> None:
    backbone, named = tiny(), {kind: str(folder) for kind, folder in folders.items()}
    both = drawn(backbone, predictor=predictor, **named)
    assert both.made_with.keys() >= {"predictor", *named}
    for other in ({}, {"predictor": predictor}, {"controlnet": named["controlnet"], "predictor": predictor}):
        assert not np.array_equal(pixels(drawn(backbone, **(other or named)).image), pixels(both.image))
    *_, again = run(both.recipe.request, backbone=backbone, predictor=predictor)
    assert isinstance(again, Picture)
    assert np.array_equal(pixels(again.image), pixels(both.image))
    assert again.made_with == both.made_with


def test_it_is_loaded_once_for_a_network_and_again_where_it_changed(
    tiny: Tiny, folders: dict[Adapter, Path], tmp_path: Path
) -> None:
    backbone, lines = tiny(), str(shutil.copytree(folders["controlnet"], tmp_path / "lines"))
    small = save_adapter("controlnet", UNetBackbone(small_stable_diffusion()), tmp_path / "small")
    (tmp_path / "lines" / "gone").symlink_to(tmp_path / "nowhere")
    first = adapter_of("controlnet", lines, backbone)
    assert adapter_of("controlnet", lines, backbone) is first
    other = adapter_of("controlnet", str(folders["controlnet"]), backbone)
    assert other is not first
    assert adapter_of("t2i_adapter", str(folders["t2i_adapter"]), backbone) is not other
    assert adapter_of("controlnet", str(folders["controlnet"]), backbone) is other  # one of each kind is kept
    assert adapter_of("controlnet", str(folders["controlnet"]), from_pipe(backbone.pipeline)) is other
    assert adapter_of("controlnet", lines, backbone) is not first
    halved = from_pipe(small_stable_diffusion())
    single = adapter_of("controlnet", str(small), halved)
    halved.pipeline.to(torch.bfloat16)
    assert adapter_of("controlnet", str(small), halved) is not single
    config = Path(lines, "config.json")
    again = adapter_of("controlnet", lines, backbone)
    config.write_text(config.read_text() + "\n")
    assert adapter_of("controlnet", lines, backbone) is not again


def test_in_an_edit_its_end_is_a_part_of_the_steps_that_are_walked(tiny: Tiny, folders: dict[Adapter, Path]) -> None:
    backbone, picture = tiny(), Image.new("RGB", SIZE, "olive")
    picture.paste("red", (4, 4, 20, 20))
    changed = {"sketch": CROSS, "seed": 1, "steps": 8, "amount": 0.5, "margin": 1, "strength": 0, "size": SIZE}

    def edited(told: Backbone, **settings: Any) -> Any:
        (made,) = edit(picture, "a cat", backbone=told, **changed, **settings)
        return pixels(made.image)

    network, image = load_adapter("controlnet", folders["controlnet"], backbone), CROSS.rasterize(size=SIZE)
    half = with_controlnet(backbone, network, image, window=(0.5, 0.75))  # of the last four steps the first two
    named = {"controlnet": str(folders["controlnet"])}
    assert np.array_equal(edited(backbone, **named, controlnet_end=0.5), edited(half))
    assert not np.array_equal(edited(half), edited(backbone))
    assert not np.array_equal(edited(half), edited(backbone, **named))


def test_a_generated_source_needs_the_one_that_made_it(
    tiny: Tiny, folders: dict[Adapter, Path], tmp_path: Path
) -> None:
    backbone, lines = tiny(), tmp_path / "lines"
    shutil.copytree(folders["controlnet"], lines)
    drawn(backbone, strength=0, controlnet=str(lines)).save(tmp_path / "cat.png")
    again = partial(translate, tmp_path / "cat.png", "a dog", backbone=backbone, source="generated", seed=1)
    again()
    network = load_adapter("controlnet", lines, backbone)
    next(network.parameters()).data += 1
    network.save_pretrained(lines)
    with pytest.raises(UsageError, match="The picture was made with another controlnet"):
        again()


def test_a_mode_is_for_those_that_know_several(tiny: Tiny, folders: dict[Adapter, Path]) -> None:
    with pytest.raises(UsageError, match="mode is 2, but a ControlNetModel knows one kind") as caught:
        drawn(tiny(), controlnet=str(folders["controlnet"]), controlnet_mode=2)
    assert caught.value.field == "controlnet_mode"


def test_one_that_does_not_fit_is_about_the_setting(tiny: Tiny, tmp_path: Path) -> None:
    T2IAdapter(channels=[8, 8], num_res_blocks=1, downscale_factor=8).save_pretrained(tmp_path)
    with pytest.raises(MismatchError, match="does not fit 'tiny'") as caught:
        drawn(tiny(), t2i_adapter=str(tmp_path))
    assert caught.value.field == "t2i_adapter"


def test_settings_of_a_predictor_that_is_not_there_are_told_of(tiny: Tiny, folders: dict[Adapter, Path]) -> None:
    with pytest.warns(SketchguideWarning, match="stop changes nothing: tiny has no predictor that pulls"):
        drawn(tiny(), stop=0.5, controlnet=str(folders["controlnet"]))


@pytest.mark.parametrize("kind", list(WRAPS))
def test_one_of_another_class_is_refused_where_what_they_share_would_load(
    tiny: Tiny, folders: dict[Adapter, Path], tmp_path: Path, kind: Adapter
) -> None:
    shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(f'"{CLASSES[kind]}"', '"ControlNetUnionModel"'))
    with pytest.raises(MismatchError, match=f"is a ControlNetUnionModel; {kind} takes a {CLASSES[kind]}") as caught:
        drawn(tiny(), **{kind: str(tmp_path)})
    assert caught.value.field == kind


@pytest.mark.parametrize("kind", list(WRAPS))
def test_one_in_half_precision_alone_is_loaded(
    tiny: Tiny, folders: dict[Adapter, Path], tmp_path: Path, kind: Adapter
) -> None:
    shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    loaded, plain = (load_adapter(kind, folder, tiny()) for folder in (tmp_path, folders[kind]))
    assert fingerprint(loaded) == fingerprint(plain)


@pytest.mark.parametrize("kind", list(WRAPS))
def test_one_of_the_hub_is_fetched_in_the_precision_that_is_there(
    tiny: Tiny, folders: dict[Adapter, Path], monkeypatch: pytest.MonkeyPatch, kind: Adapter
) -> None:
    asked: list[str | None] = []

    def download(_: str, *, variant: str | None, **settings: Any) -> Any:
        asked.append(variant)
        return made(folders[kind], **settings)

    of = getattr(diffusers, CLASSES[kind])
    made, configured = of.from_pretrained, of.load_config
    monkeypatch.setattr(of, "load_config", lambda _, **settings: configured(folders[kind], **settings))
    monkeypatch.setattr(of, "from_pretrained", download)
    files = ["config.json", "diffusion_pytorch_model.fp16.safetensors", "lines.safetensors"]
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda _: files)
    load_adapter(kind, "owner/lines", tiny())
    files[1] = "diffusion_pytorch_model.safetensors"
    load_adapter(kind, "owner/lines", tiny())
    assert asked == ["fp16", None]


@pytest.mark.parametrize("kind", list(WRAPS))
def test_one_that_is_pickled_is_said_to_be(
    tiny: Tiny, folders: dict[Adapter, Path], tmp_path: Path, kind: Adapter
) -> None:
    shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"has only pickled weights \(.bin\), which") as caught:
        load_adapter(kind, tmp_path, tiny())
    assert caught.value.field == kind


@pytest.mark.parametrize("kind", list(WRAPS))
def test_one_that_is_not_there_is_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Adapter
) -> None:
    for name in (tmp_path, tmp_path / "nowhere", "nowhere", "adapters/lines.safetensors"):
        with pytest.raises(ModelNotFoundError, match=r"is no folder that a \w+ can be loaded from") as caught:
            drawn(tiny(), **{kind: str(name)})
        assert caught.value.field == kind

    def missing(name: str, **_: object) -> None:
        raise OSError(f"{name} is not a valid model identifier")

    monkeypatch.setattr(getattr(diffusers, CLASSES[kind]), "load_config", missing)
    with pytest.raises(ModelNotFoundError, match=r"the hub gave none of that name: owner/lines is not a valid"):
        drawn(tiny(), **{kind: "owner/lines"})
