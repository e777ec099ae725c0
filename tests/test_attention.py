"""Sketch attention, and the backbone that wears it."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sketchguide.attention import SketchAttention, describe_attention, positions
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import with_sketch_attention
from sketchguide.controls.edges import LatentGuide
from sketchguide.errors import MismatchError, SketchguideError, TapError, UsageError, WeightsError
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from support import MakePredictor, Tiny, attention_for, hook_count

INK = torch.zeros(1, 1, 32, 32)
INK[..., 8:24, 8] = 1


def begin(count: int, size: tuple[int, int] = (16, 16)) -> Tensor:
    return noise(generators(range(count)), (4, *size))


def look(backbone: Backbone, latent: Tensor, progress: float = 0.5) -> Tensor:
    with torch.no_grad():
        return backbone.predict(latent, backbone.level(progress), backbone.describe(["a box"] * len(latent))).clean


def test_every_self_attention_has_a_place(tiny: Tiny) -> None:
    backbone = tiny()
    config = attention_for(backbone).config
    assert set(config.paths) == {path for path, _ in backbone.network.named_modules() if path.endswith(".attn1")}
    assert len(config.paths) == len(config.channels) == len(config.strides) > 2
    assert config.pixels == backbone.stride


def test_untrained_it_changes_nothing_and_trained_it_tells_drawings_apart(tiny: Tiny) -> None:
    backbone, latent = tiny(), begin(2)
    plain = look(backbone, latent)
    assert torch.equal(look(with_sketch_attention(backbone, attention_for(backbone, acts=False), INK), latent), plain)
    attention = attention_for(backbone)
    told = look(with_sketch_attention(backbone, attention, INK), latent)
    other = look(with_sketch_attention(backbone, attention, INK.flip(-1)), latent)
    assert not torch.allclose(told, plain, atol=1e-3)
    assert not torch.allclose(told, other, atol=1e-4)


def test_scale_and_window_switch_it_off(tiny: Tiny) -> None:
    backbone, latent = tiny(), begin(1)
    attention = attention_for(backbone)
    assert torch.equal(look(with_sketch_attention(backbone, attention, INK, scale=0.0), latent), look(backbone, latent))
    early = with_sketch_attention(backbone, attention, INK, window=(0.0, 0.4))
    assert torch.equal(look(early, latent), look(backbone, latent))
    assert not torch.equal(look(early, latent, 0.2), look(backbone, latent, 0.2))


def test_rows_have_their_own_drawings(tiny: Tiny) -> None:
    backbone, latent = tiny(), begin(2)
    attention = attention_for(backbone)
    both = look(with_sketch_attention(backbone, attention, torch.cat([INK, INK.flip(-1)])), latent)
    first = look(with_sketch_attention(backbone, attention, INK), latent[:1])
    second = look(with_sketch_attention(backbone, attention, INK.flip(-1)), latent[1:])
    assert torch.allclose(both, torch.cat([first, second]), atol=1e-4)


def test_other_sizes_than_the_models_own(tiny: Tiny) -> None:
    backbone = tiny()
    ink = torch.nn.functional.pad(INK, (0, 16))
    latent = begin(1, (16, 24))
    told = look(with_sketch_attention(backbone, attention_for(backbone), ink), latent)
    assert told.shape == latent.shape
    with pytest.raises(UsageError, match="The image is 32x32, the picture 48x32"):
        look(with_sketch_attention(backbone, attention_for(backbone), INK), latent)


def test_it_goes_with_a_guide_and_leaves_no_hook(tiny: Tiny, make_predictor: MakePredictor) -> None:
    backbone = tiny()
    told = with_sketch_attention(backbone, attention_for(backbone), INK)
    guide = LatentGuide(make_predictor(), torch.zeros(1, 4, 16, 16), torch.ones(1, 1, 16, 16))
    levels = backbone.levels(3)
    (*_, last) = sample(told, told.describe(["a box"]), begin(1), levels, guides=[guide])
    (*_, other) = sample(backbone, backbone.describe(["a box"]), begin(1), levels, guides=[guide])
    assert last.latent.isfinite().all()
    assert not torch.allclose(last.latent, other.latent, atol=1e-3)
    assert hook_count(backbone.network) == 0


def test_no_hook_survives_an_error(tiny: Tiny) -> None:
    backbone = tiny()
    told = with_sketch_attention(backbone, attention_for(backbone), INK)
    with pytest.raises(RuntimeError):
        told.run(torch.zeros(1, 3, 16, 16), torch.tensor([500.0]), told.describe(["a box"]))
    assert hook_count(backbone.network) == 0


def test_a_saved_one_is_the_same(tiny: Tiny, tmp_path: Path) -> None:
    backbone = tiny()
    attention = attention_for(backbone)
    attention.save(tmp_path / "sketch-attention.safetensors")
    again = SketchAttention.load(tmp_path / "sketch-attention.safetensors")
    assert again.config == attention.config
    latent = begin(1)
    assert torch.equal(
        look(with_sketch_attention(backbone, again, INK), latent),
        look(with_sketch_attention(backbone, attention, INK), latent),
    )


def test_files_that_hold_something_else(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "sketch-attention.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="no readable safetensors file"):
        SketchAttention.load(file)
    attention_for(tiny()).save(file)
    data = bytearray(file.read_bytes())
    file.write_bytes(bytes(data).replace(b"sketch-attention", b"sketch-attentiom"))
    with pytest.raises(WeightsError, match="another kind"):
        SketchAttention.load(file)


def test_another_network_is_refused_with_both_names(tiny: Tiny) -> None:
    backbone = tiny()
    config = attention_for(backbone).config
    wider = dataclasses.replace(config, channels=tuple(2 * c for c in config.channels), backbone="elsewhere")
    with pytest.raises(MismatchError, match=r"'elsewhere'.*'tiny'"):
        with_sketch_attention(backbone, SketchAttention(wider), INK)
    finer = dataclasses.replace(config, pixels=2 * config.pixels)
    with pytest.raises(MismatchError, match="smaller than pictures"):
        with_sketch_attention(backbone, SketchAttention(finer), INK)


def test_bad_input_is_named(tiny: Tiny) -> None:
    backbone = tiny()
    with pytest.raises(UsageError, match="3 channels; sketch attention takes 1"):
        with_sketch_attention(backbone, attention_for(backbone), torch.zeros(1, 3, 32, 32))
    with pytest.raises(TapError, match="tiny has no transformer blocks"):
        describe_attention([], backbone="tiny", pixels=2)
    for change in ({"paths": ()}, {"width": 33}, {"pixels": 3}):
        with pytest.raises(SketchguideError):
            dataclasses.replace(attention_for(backbone).config, **change)


def test_positions_of_a_larger_picture_go_on_around_those_of_a_smaller() -> None:
    small, large = positions(4, 4, 32).view(4, 4, 32), positions(6, 8, 32).view(6, 8, 32)
    assert torch.allclose(large[1:5, 2:6], small, atol=1e-5)
    assert len(torch.unique(large.flatten(0, 1).round(decimals=4), dim=0)) == 48
