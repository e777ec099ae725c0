"""What holds for every transformer that walks by flow: Stable Diffusion 3 and Flux."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.tiny import tiny_flux, tiny_stable_diffusion_3
from sketchguide.controls.edges import LatentGuide, target_of
from sketchguide.controls.strengths import Proportional
from sketchguide.editing import edit
from sketchguide.errors import UsageError
from sketchguide.generation import generate, run
from sketchguide.images import to_images
from sketchguide.interpolation import between
from sketchguide.inversion import invert
from sketchguide.loading import from_pipe, load_backbone
from sketchguide.lora import LORA_FILE, load_lora, unload_lora
from sketchguide.pictures import recall
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.sketch import Sketch
from sketchguide.walking import walk_from
from support import changed, relative, shallow, trained

Make = Callable[..., Any]

CROSS = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, 0.8]]])
QUICK: dict[str, Any] = {"seed": 7, "steps": 3, "size": (48, 32)}


@pytest.fixture(scope="module", params=[tiny_stable_diffusion_3, tiny_flux], ids=["transformer", "flux"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


@pytest.fixture(scope="module")
def flowing(make: Make) -> Any:
    return from_pipe(shallow(make()), name="flowing")


@pytest.fixture(scope="module")
def predictor(flowing: Backbone, tmp_path_factory: pytest.TempPathFactory) -> LatentPredictor:
    return trained(flowing, tmp_path_factory.mktemp("pictures"))


def test_pictures_go_in_and_out(flowing: Any) -> None:
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    latents = flowing.encode(images)
    assert latents.shape == (2, 16, 16, 24)
    vae = flowing.autoencoder
    mode = vae.encode(images).latent_dist.mode()
    assert torch.allclose(latents, (mode - 0.1) * 1.5, atol=1e-6)
    assert torch.allclose(flowing.decode(latents), vae.decode(mode).sample, atol=1e-5)


@pytest.mark.parametrize("reads", ["ink", "latent"])
def test_a_predictor_is_trained_and_pulls(flowing: Any, tmp_path: Path, reads: str) -> None:
    predictor = trained(flowing, tmp_path, reads=reads)
    (plain,) = generate("a cat", backbone=flowing, **QUICK)
    (pulled,) = generate("a cat", backbone=flowing, sketch=CROSS, predictor=predictor, **QUICK)
    (weak,) = generate("a cat", backbone=flowing, sketch=CROSS, predictor=predictor, strength=0, **QUICK)
    assert changed(plain, pulled) > 5
    assert changed(plain, weak) == 0


def test_the_pull_is_that_of_the_paper(flowing: Any, predictor: LatentPredictor) -> None:
    """|guided - plain| = beta * |step| after one step (Voynov et al. 2022, eq. 4)."""
    target, weight = target_of(CROSS.rasterize(size=(64, 64)), flowing, predictor)
    guide = LatentGuide(predictor, target, weight, window=(0.0, 0.5), strength=Proportional(1.6))
    latent = noise(generators([3]), (16, 32, 32))

    def first(**controls: Any) -> Tensor:
        told, against = flowing.describe(["a cat"]), flowing.describe([""])
        moments = sample(flowing, told, latent, flowing.levels(4), negative=against, scale=4.0, **controls)
        return next(moments).latent

    plain = first()
    assert float((first(guides=[guide]) - plain).norm() / (plain - latent).norm()) == pytest.approx(1.6, rel=1e-3)


def test_a_picture_can_be_made_again(flowing: Any, predictor: LatentPredictor, tmp_path: Path) -> None:
    (picture,) = generate("a cat", backbone=flowing, sketch=CROSS, predictor=predictor, **QUICK)
    picture.save(tmp_path / "cat.png")
    request = recall(tmp_path / "cat.png").request
    *_, again = run(request, backbone=flowing, predictor=predictor)
    assert changed(picture, again) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["noised", "inverted"])
def test_a_picture_is_changed_by_a_drawing_on_it(flowing: Any, predictor: LatentPredictor, source: str) -> None:
    page = Image.new("RGB", (64, 64), "white")
    page.paste("red", (4, 4, 20, 20))
    box = Sketch.from_strokes([[[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6], [0.4, 0.41]]])
    settings: dict[str, Any] = {"seed": 7, "steps": 4, "size": (64, 64), "source": source}
    (picture,) = edit(page, "a cat", sketch=box, backbone=flowing, predictor=predictor, margin=0.05, **settings)
    difference = np.abs(np.asarray(picture.image).astype(int) - np.asarray(page)).max(axis=2)
    assert difference[28:36, 28:36].mean() > 5
    assert difference[:8].max() == 0


def test_frames_lead_from_noise_to_noise(flowing: Any) -> None:
    request = Request.checked(prompt="a cat", seed=0, steps=3, size=(64, 64), solver="ddim")
    ends = [noise(generators([seed]), (16, 32, 32)) for seed in (1, 2)]
    *_, last = walk_from(request, flowing, between(*ends, frames=3))
    for frame, seed in ((0, 1), (2, 2)):
        (alone,) = generate("a cat", backbone=flowing, seed=seed, steps=3, size=(64, 64))
        image = to_images(flowing.decode(last.latent))[frame]
        assert np.abs(np.asarray(image).astype(int) - np.asarray(alone.image)).max() <= 2


def test_an_inversion_leads_back(flowing: Any) -> None:
    clean = flowing.encode(torch.rand(1, 3, 32, 48) * 2 - 1)
    told, levels = flowing.describe(["a cat"]), flowing.levels(6, "ddim", (48, 32))
    latent = invert(flowing, clean, levels, told, iterations=6).at(levels[0])
    *_, last = sample(flowing, told, latent, levels)
    assert relative(last.latent, clean) < 0.05


def test_a_lora_goes_on_and_off(make: Make, tmp_path: Path) -> None:
    backbone = from_pipe(make(seed=1), name="flowing")
    other = make(seed=1).transformer
    other.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    weights = {f"transformer.{name}": value.contiguous() for name, value in get_peft_model_state_dict(other).items()}
    save_file(weights, tmp_path / LORA_FILE)
    (before,) = generate("a cat", backbone=backbone, **QUICK)
    (tuned,) = generate("a cat", backbone=backbone, lora=str(tmp_path), **QUICK)
    (after,) = generate("a cat", backbone=backbone, **QUICK)
    assert changed(before, tuned) > 0
    assert changed(before, after) == 0
    load_lora(tmp_path, backbone, scale=0)
    (off,) = generate("a cat", backbone=backbone, **QUICK)
    unload_lora(backbone)
    assert changed(before, off) == 0


def test_a_folder_is_loaded(make: Make, flowing: Any, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "model")
    backbone = load_backbone(tmp_path / "model", device="cpu")
    assert backbone.family == flowing.family
    assert list(backbone.networks) == ["network", "autoencoder", "text_encoder", "text_encoder_2"]
    (picture,) = generate("a cat", backbone=backbone, **QUICK)
    assert picture.image.size == (48, 32)


@pytest.mark.parametrize("later", [False, True])
def test_an_ip_adapter_is_refused(make: Make, later: bool) -> None:
    pipeline = shallow(make())
    name = "encoder_hid_proj" if make is tiny_flux else "image_proj"
    backbone = from_pipe(pipeline) if later else None
    setattr(pipeline.transformer, name, torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match=rf"is told more than a prompt \({name}\)") as caught:
        backbone.describe(["a cat"]) if backbone else from_pipe(pipeline)
    assert "unload_ip_adapter" in caught.value.hint
