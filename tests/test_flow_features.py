"""Plug-and-Play in transformers whose attention is over image and text: Stable Diffusion 3 and Flux."""

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from PIL import Image, ImageDraw
from torch import Tensor

from sketchguide import generate, translate
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.tiny import tiny_flux, tiny_stable_diffusion_3
from sketchguide.controls.features import PlugAndPlay, choose_places, look
from sketchguide.errors import SketchguideWarning, TapError
from sketchguide.levels import Level
from sketchguide.loading import from_pipe
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise, seeded
from sketchguide.taps import tapped
from support import CROSS, pixels

GRID = (8, 12)


@cache
def _loaded(kind: str) -> Backbone:
    pipeline: Any = (tiny_flux if kind == "flux" else tiny_stable_diffusion_3)()
    if kind == "sd3.5":  # two attentions in some of its blocks, and norms of queries and keys
        more = {"dual_attention_layers": (0, 2), "qk_norm": "rms_norm"}
        with seeded(0):
            own = {name: value for name, value in pipeline.transformer.config.items() if not name.startswith("_")}
            pipeline.transformer = SD3Transformer2DModel(**(own | more))
    return from_pipe(pipeline, name=kind)


@pytest.fixture(params=["sd3", "sd3.5", "flux"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return _loaded(request.param)


class Still:
    """A source that is the same at every level."""

    def __init__(self, latent: Tensor) -> None:
        self.latent = latent

    def at(self, level: Level) -> Tensor:
        del level
        return self.latent


def a_latent(backbone: Backbone, seed: int) -> Tensor:
    return noise(generators([seed]), (backbone.latent_channels, *GRID))


def borrowed(backbone: Backbone, **settings: Any) -> PlugAndPlay:
    return PlugAndPlay(backbone, Still(a_latent(backbone, 1)), backbone.describe(["a cat"]), **settings)


def outputs_of(
    backbone: Backbone, latent: Tensor, prompt: str, rewrites: Any = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The prediction and what the borrowed places put out, under these rewrites."""
    places = choose_places(backbone.taps).attention
    with torch.no_grad(), tapped(backbone.network, places, rewrites) as seen:
        made = backbone.predict(latent, backbone.level(0.2), backbone.describe([prompt]))
    return made.clean, seen


def test_queries_and_keys_of_every_block_are_borrowed_and_no_feature() -> None:
    places = choose_places(_loaded("sd3").taps)
    assert places.features == ()
    assert places.attention == tuple(f"transformer_blocks.{i}.attn.to_{which}" for i in range(10) for which in "qk")
    second = [path for path in choose_places(_loaded("sd3.5").taps).attention if ".attn2." in path]
    assert second == [f"transformer_blocks.{i}.attn2.to_{which}" for i in (0, 2) for which in "qk"]
    flux = choose_places(_loaded("flux").taps).attention
    config: Any = _loaded("flux").network.config
    assert len(flux) == 2 * (config.num_layers + config.num_single_layers)
    assert {path.split(".")[0] for path in flux} == {"transformer_blocks", "single_transformer_blocks"}


def test_image_tokens_become_the_sources_and_those_of_text_stay(backbone: Backbone) -> None:
    latent, level = a_latent(backbone, 2), backbone.level(0.2)
    injection = borrowed(backbone, attention_until=1.0)
    rewrites = injection.rewrites(level)
    theirs = look(backbone, a_latent(backbone, 1), level, backbone.describe(["a cat"]), tuple(rewrites))
    own: dict[str, Tensor] = {}

    def noting(path: str) -> Callable[[Tensor], Tensor]:
        def rewrite(value: Tensor) -> Tensor:
            own[path] = value
            return rewrites[path](value)

        return rewrite

    plain, _ = outputs_of(backbone, latent, "two dogs")
    changed, seen = outputs_of(backbone, latent, "two dogs", {path: noting(path) for path in rewrites})
    assert not torch.allclose(plain, changed)
    tokens = GRID[0] // 2 * (GRID[1] // 2)
    for path, value in seen.items():
        text = value.shape[1] - tokens
        assert (text > 0) == path.startswith("single_")
        assert torch.equal(value[:, text:], theirs[path][:, text:])
        assert rewrites[path].args[0].shape[1] == tokens  # nothing is kept that is not lent
        assert torch.equal(value[:, :text], own[path][:, :text])
        assert not torch.equal(value[:, text:], own[path][:, text:])


def test_a_mask_is_of_image_tokens(backbone: Backbone) -> None:
    latent, level = a_latent(backbone, 2), backbone.level(0.2)
    mask = torch.zeros(1, 1, *GRID)
    mask[..., : GRID[1] // 2] = 1
    rewrites = borrowed(backbone, attention_until=1.0, mask=mask).rewrites(level)
    whole = borrowed(backbone, attention_until=1.0).rewrites(level)
    rows, columns = GRID[0] // 2, GRID[1] // 2
    path = tuple(rewrites)[-1]
    _, seen = outputs_of(backbone, latent, "two dogs")
    own = seen[path]
    text = own.shape[1] - rows * columns
    left = own.new_tensor([column < columns // 2 for _ in range(rows) for column in range(columns)]).bool()
    both = torch.cat([left.new_zeros(text), left])
    assert torch.equal(rewrites[path](own)[:, both], whole[path](own)[:, both])
    assert torch.equal(rewrites[path](own)[:, ~both], own[:, ~both])


def test_a_picture_whose_source_is_itself_is_the_same(backbone: Backbone) -> None:
    latent, level = a_latent(backbone, 1), backbone.level(0.2)
    rewrites = borrowed(backbone, attention_until=1.0).rewrites(level)
    plain, _ = outputs_of(backbone, latent, "a cat")
    again, _ = outputs_of(backbone, latent, "a cat", rewrites)
    torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_full_share_is_exact_in_half_precision(backbone: Backbone, dtype: torch.dtype) -> None:
    rewrites: Any = borrowed(backbone, attention_until=1.0).rewrites(backbone.level(0.2))
    path = tuple(rewrites)[-1]
    lent, text, size = rewrites[path].args
    own = torch.full((2, text + lent.shape[1], lent.shape[2]), 1000.0, dtype=dtype)
    blended = rewrites[path].func(lent.to(dtype), text, size, own)
    assert torch.equal(blended[:, text:], lent.to(dtype).expand(2, -1, -1))
    assert torch.equal(blended[:, :text], own[:, :text])


def test_fused_projections_are_refused_with_the_way_to_unfuse_them(backbone: Backbone) -> None:
    if backbone.name == "sd3.5":
        pytest.skip("diffusers does not run its second attention fused")
    network: Any = backbone.network
    network.fuse_qkv_projections()
    try:
        with pytest.raises(TapError, match="fused") as caught:
            choose_places(backbone.taps)
        assert "on the pipeline's network" in caught.value.hint
    finally:
        network.unfuse_qkv_projections()
    assert choose_places(backbone.taps).attention


def test_what_a_level_lent_is_let_go_before_the_next_lends(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    lent: list[Any] = []
    injection = borrowed(backbone, attention_until=1.0)
    rewrites = injection.rewrites

    def noting(level: Level) -> Any:
        alive.append(sum(one() is not None for one in lent))
        table: Any = rewrites(level)
        lent.extend(weakref.ref(one.args[0]) for one in table.values())
        return table

    monkeypatch.setattr(injection, "rewrites", noting)
    told = backbone.describe(["two dogs"])
    for _ in sample(backbone, told, a_latent(backbone, 2), backbone.levels(3), injections=[injection]):
        alive.append(sum(one() is not None for one in lent))
    assert len(lent) > 50
    assert set(alive) == {0}


def a_ball() -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 48, 56), fill="red")
    return image


@pytest.mark.parametrize("settings", [{}, {"source": "noised"}, {"recurrence": 1}, {"decay": "linear"}])
def test_pictures_are_translated(backbone: Backbone, settings: dict[str, Any]) -> None:
    if "decay" in settings:
        if backbone.distilled:
            pytest.skip("it takes no negative pass")
        settings = {**settings, "source_prompt": "a ball"}
    (picture,) = translate(a_ball(), "a pear", backbone=backbone, steps=4, seed=1, **settings)
    (alone,) = translate(a_ball(), "a pear", backbone=backbone, steps=4, seed=1, **settings, share=0.0)
    assert (picture.evaluations.source, alone.evaluations.source) == (2, 0)
    assert not np.array_equal(pixels(picture.image), pixels(alone.image))


def test_a_generated_source_with_its_own_prompt_is_the_picture_itself(backbone: Backbone) -> None:
    (made,) = generate("a cat", backbone=backbone, steps=4, seed=1, scale=2.0)
    branches = {} if backbone.distilled else {"branches": "conditional"}
    (again,) = translate(made, "a cat", backbone=backbone, source="generated", seed=1, scale=2.0, **branches)
    assert np.abs(pixels(again.image) - pixels(made.image)).max() <= 1
    assert again.evaluations.source == 2


def test_near_strokes_alone(backbone: Backbone) -> None:
    settings: dict[str, Any] = {"backbone": backbone, "steps": 3, "seed": 1, "start": "noise"}
    far, near = (translate(CROSS, "a pear", **settings, near=near)[0] for near in (0.0, 0.05))
    assert not np.array_equal(pixels(far.image), pixels(near.image))


def test_features_can_be_named_and_tau_f_alone_is_told_of(backbone: Backbone) -> None:
    with pytest.warns(SketchguideWarning, match="tau_f changes nothing: .* no features that are borrowed by default"):
        (plain,) = translate(a_ball(), "a pear", backbone=backbone, steps=3, seed=1, tau_f=0.5)
    named = {"features": "transformer_blocks.1", "tau_f": 0.5}
    (more,) = translate(a_ball(), "a pear", backbone=backbone, steps=3, seed=1, **named)
    assert not np.array_equal(pixels(more.image), pixels(plain.image))
