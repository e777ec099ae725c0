"""A fingerprint must follow the weights, wherever they lie."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch.testing._internal.two_tensor import TwoTensor

from sketchguide import generate
from sketchguide.attention import SketchAttention, describe_attention
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_sketch_attention
from sketchguide.errors import UsageError
from sketchguide.fingerprints import fingerprint, fingerprint_of_model
from sketchguide.loading import from_pipe
from sketchguide.predictors import LatentPredictor
from sketchguide.translation import translate
from support import Tiny, small_stable_diffusion


def test_fingerprints_follow_the_weights(predictor: LatentPredictor) -> None:
    other = LatentPredictor(predictor.config)
    assert fingerprint(other) != fingerprint(predictor)
    other.load_state_dict(predictor.state_dict())
    assert fingerprint(other) == fingerprint(predictor)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.01)
    assert fingerprint(other) != fingerprint(predictor)


def test_how_weights_lie_in_memory_changes_no_fingerprint() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(5, 7, 3), torch.nn.Conv2d(7, 2, 1))
    before = fingerprint(network)
    assert fingerprint(network.to(memory_format=torch.channels_last)) == before


def test_the_fingerprint_of_a_model_follows_all_its_networks(tiny: Tiny) -> None:
    backbone = UNetBackbone(tiny_stable_diffusion(), name="tiny")
    attention = SketchAttention(describe_attention(backbone.taps, backbone="tiny", pixels=backbone.stride))
    told = with_sketch_attention(backbone, attention, torch.zeros(1, 1, 64, 64))
    before = fingerprint_of_model(backbone)
    assert before == fingerprint_of_model(tiny()) != fingerprint_of_model(told)
    for part in (backbone.network, backbone.autoencoder, backbone.pipeline.text_encoder):
        weight = next(iter(part.parameters()))
        with torch.no_grad():
            weight.mul_(2)
        assert fingerprint_of_model(backbone) != before
        with torch.no_grad():
            weight.div_(2)
    assert fingerprint_of_model(backbone) == before


def test_offloaded_weights_have_the_fingerprint_of_those_at_hand() -> None:
    pipeline: Any = tiny_stable_diffusion()
    before = fingerprint(pipeline.unet)
    cpu_offload(pipeline.unet, execution_device=torch.device("cpu"))
    assert next(pipeline.unet.parameters()).is_meta
    assert fingerprint(pipeline.unet) == before
    (picture,) = generate("a cat", backbone=from_pipe(pipeline), seed=1, steps=1, size=(64, 64))
    assert picture.made_with["model"]


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_weights_on_a_disk_have_the_fingerprint_of_those_at_hand(kind: str, tmp_path: Path) -> None:
    pipeline: Any = small_stable_diffusion()
    before = fingerprint(pipeline.unet)
    cpu = torch.device("cpu")
    groups = {} if kind == "leaf_level" else {"num_blocks_per_group": 2}
    pipeline.unet.enable_group_offload(cpu, cpu, offload_type=kind, offload_to_disk_path=str(tmp_path), **groups)
    assert fingerprint(pipeline.unet) == before
    backbone = from_pipe(pipeline)
    (picture,) = generate("a cat", backbone=backbone, seed=1, steps=2)
    assert translate(picture, "a dog", backbone=backbone, source="generated", seed=1)
    assert fingerprint(pipeline.unet) == before


def test_wrapped_weights_have_a_fingerprint_that_follows_what_they_wrap() -> None:
    """As those of torchao are."""
    values = torch.arange(6.0).reshape(2, 3)

    def made_of(*parts: torch.Tensor) -> torch.nn.Module:
        network = torch.nn.Module()
        network.weight = torch.nn.Parameter(TwoTensor(*parts), requires_grad=False)
        return network

    assert fingerprint(made_of(values, values)) == fingerprint(made_of(values.clone(), values.clone()))
    assert fingerprint(made_of(values, values)) != fingerprint(made_of(values, values + 1))


def test_weights_that_are_nowhere_are_named() -> None:
    with pytest.raises(UsageError, match=r"conv_in\.weight are not there"):
        fingerprint(tiny_stable_diffusion().unet.to("meta"))
