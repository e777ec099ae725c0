import torch

from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.predictors import PAPER_TAPS


def test_the_same_seed_is_the_same_model_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (tiny_stable_diffusion(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    name = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(one.unet.state_dict()[name], same.unet.state_dict()[name])
    assert not torch.equal(one.unet.state_dict()[name], other.unet.state_dict()[name])


def test_it_is_small_and_has_the_places_of_stable_diffusion() -> None:
    pipeline = tiny_stable_diffusion(prediction_type="v_prediction", timestep_spacing="trailing")
    count = sum(p.numel() for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters())
    assert count < 2e6
    backbone = UNetBackbone(pipeline)
    strides = {tap.path: tap.stride for tap in backbone.taps}
    assert [strides[path] for path in PAPER_TAPS] == [1, 2, 4, 8, 8, 8, 4, 4, 1]
    assert backbone.prediction_kind == "v_prediction"
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
