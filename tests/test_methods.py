from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter

from sketchguide.errors import UsageError
from sketchguide.guidance import latent_guide
from sketchguide.images import from_ink
from sketchguide.methods import (
    Batch,
    controlnet,
    latent_guidance,
    plug_and_play,
    sdedit,
    sketch_attention,
    t2i_adapter,
    text_to_image,
)
from sketchguide.predictors import LatentPredictor
from sketchguide.request import LayoutSettings
from sketchguide.walking import walk
from support import Tiny, attention_for, made

NETWORK = "small"


def test_every_row_has_its_own_prompt_map_and_seed(batch: Batch, predictor: LatentPredictor):
    method = latent_guidance(predictor)
    # in more steps a ReLU that rounding turns over is heard
    batch = replace(batch, request=batch.request.model_copy(update={"steps": 2}))
    both = made(method, batch)
    for i in range(2):
        one = Batch(batch.backbone, batch.request, batch.prompts[i : i + 1], batch.maps[i : i + 1], [batch.seeds[i]])
        torch.testing.assert_close(both[i : i + 1], made(method, one), rtol=1e-4, atol=1e-4)


def test_guidance_is_the_guide_of_the_request(batch: Batch, predictor: LatentPredictor):
    guide = latent_guide(batch.request, batch.maps, batch.backbone, predictor)
    *_, last = walk(batch.request, batch.backbone, prompts=batch.prompts, seeds=batch.seeds, guides=[guide])
    assert torch.equal(made(latent_guidance(predictor), batch), last.latent)
    assert not torch.equal(made(text_to_image, batch), last.latent)


def test_a_predictor_learns_nothing_from_what_it_guides(batch: Batch, predictor: LatentPredictor):
    before = {name: values.clone() for name, values in predictor.state_dict().items()}
    wanted = made(latent_guidance(predictor), batch)
    assert torch.equal(made(latent_guidance(predictor.train()), batch), wanted)
    assert all(torch.equal(values, before[name]) for name, values in predictor.state_dict().items())


def test_sdedit_stays_nearer_to_the_drawing_the_fewer_steps_it_walks(batch: Batch):
    drawn = batch.backbone.encode(from_ink(1 - batch.ink))
    far = [float((made(sdedit(amount), batch) - drawn).norm()) for amount in (0.25, 0.5, 1.0)]
    assert far[0] < far[1] < far[2]
    with pytest.raises(UsageError, match="amount is 0; it must be above 0"):
        made(sdedit(0), batch)


def test_features_give_every_row_the_layout_of_its_own_drawing(batch: Batch, predictor: LatentPredictor):
    settings = LayoutSettings.checked(source="noised", near=0.1)
    for method, tolerance in (
        (plug_and_play(settings), 1e-3),
        (plug_and_play(LayoutSettings.checked(source="noised"), predictor), 1e-3),
        (plug_and_play(LayoutSettings()), 2e-2),  # rounding grows on the way up and down through a random network
    ):
        both = made(method, batch)
        for i in range(2):
            one = replace(batch, prompts=[batch.prompts[i]], maps=[batch.maps[i]], seeds=[batch.seeds[i]])
            torch.testing.assert_close(both[i : i + 1], made(method, one), rtol=0, atol=tolerance)
    assert not torch.allclose(made(plug_and_play(settings), batch), made(text_to_image, batch))


def test_pictures_take_the_place_of_drawings(batch: Batch):
    drawn = from_ink(1 - batch.ink)
    for method in (sdedit(0.5), plug_and_play(LayoutSettings())):
        same = made(method, batch)
        assert torch.equal(made(method, replace(batch, pictures=drawn)), same)
        assert not torch.allclose(made(method, replace(batch, pictures=-drawn)), same)


def test_a_controlnet_that_has_learned_nothing_changes_nothing(batch: Batch):
    network = ControlNetModel.from_unet(batch.backbone.network, conditioning_embedding_out_channels=(8, 16))
    torch.testing.assert_close(made(controlnet(network), batch), made(text_to_image, batch))


def test_what_is_told_of_drawings_is_shown_their_ink(whole: Tiny, batch: Batch, monkeypatch: pytest.MonkeyPatch):
    backbone, told = whole(), list[Any]()
    batch = replace(batch, backbone=backbone)
    monkeypatch.setattr("sketchguide.methods.walk", lambda _, wrapped, **__: told.append(wrapped) or iter(()))
    control = ControlNetModel.from_unet(backbone.network, conditioning_embedding_out_channels=(8, 16))
    channels = list(backbone.network.config.block_out_channels)
    adapter = T2IAdapter(in_channels=1, channels=channels, downscale_factor=backbone.stride)
    for method in (controlnet(control), t2i_adapter(adapter), sketch_attention(attention_for(backbone))):
        list(method(batch))
    drawn = torch.stack([torch.tensor(one.ink)[None] for one in batch.maps])
    for one, shown in zip(told, (drawn.expand(-1, 3, -1, -1), drawn, drawn), strict=True):
        assert torch.equal(one.image, shown)
