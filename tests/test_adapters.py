"""ControlNets and T2I-Adapters that a request names."""

import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
from diffusers import ControlNetModel, T2IAdapter
from torch import nn

from sketchguide.adapters import Adapter, load_adapter
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import with_controlnet, with_t2i_adapter
from sketchguide.errors import MismatchError, ModelNotFoundError, SketchguideWarning
from sketchguide.generation import generate, run
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from support import CROSS, SIZE, Tiny, pixels

WRAPS: dict[Adapter, Callable[..., Backbone]] = {"controlnet": with_controlnet, "t2i_adapter": with_t2i_adapter}

CLASSES: dict[Adapter, str] = {"controlnet": "ControlNetModel", "t2i_adapter": "T2IAdapter"}


@pytest.fixture(scope="module")
def folders(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[Adapter, Path]:
    """Of each kind one that changes pictures."""
    backbone = tiny()
    controlnet = ControlNetModel.from_unet(backbone.network, conditioning_embedding_out_channels=(8, 16))
    for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        nn.init.normal_(block.weight)
    channels = list(backbone.network.config.block_out_channels)
    adapter = T2IAdapter(
        channels=channels, num_res_blocks=1, downscale_factor=backbone.stride, adapter_type="full_adapter"
    )
    for layer in adapter.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data *= 8
    made: dict[Adapter, Path] = {}
    for name, network in (("controlnet", controlnet), ("t2i_adapter", adapter)):
        made[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(made[name])
    return made


def drawn(backbone: Backbone, **settings: object) -> Picture:
    (picture,) = generate("a cat", sketch=CROSS, backbone=backbone, seed=1, steps=4, size=SIZE, **settings)
    return picture


@pytest.mark.parametrize("kind", list(WRAPS))
def test_one_that_is_named_is_shown_the_drawing(tiny: Tiny, folders: dict[Adapter, Path], kind: Adapter) -> None:
    backbone, named = tiny(), {kind: str(folders[kind])}
    image = CROSS.rasterize(size=SIZE)
    network = load_adapter(kind, folders[kind], backbone)
    for scale, end in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.0, 1.0)):
        told = WRAPS[kind](backbone, network, image, scale=scale, window=(0, end))
        settings = {**named, f"{kind}_scale": scale, f"{kind}_end": end}
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
def test_one_that_is_not_there_is_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Adapter
) -> None:
    file = tmp_path / "lines.safetensors"
    file.touch()
    with pytest.raises(ModelNotFoundError, match="is a single file"):
        drawn(tiny(), **{kind: str(file)})
    for name in (tmp_path, tmp_path / "nowhere", "nowhere"):
        with pytest.raises(ModelNotFoundError, match=r"is no folder that a \w+ can be loaded from") as caught:
            drawn(tiny(), **{kind: str(name)})
        assert caught.value.field == kind

    def missing(name: str, **_: object) -> None:
        raise OSError(f"{name} is not a valid model identifier")

    monkeypatch.setattr(getattr(diffusers, CLASSES[kind]), "load_config", missing)
    with pytest.raises(ModelNotFoundError, match=r"the hub gave none of that name: owner/lines is not a valid"):
        drawn(tiny(), **{kind: "owner/lines"})
