"""What several test files share beside the fixtures: names for types, a drawing and pictures of it, distances, a
predictor in a moment, damage."""

import importlib.util
import pickle
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, T2IAdapter, UNet2DConditionModel
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from sketchguide.adapters import Adapter
from sketchguide.attention import SketchAttention, describe_attention
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.classifiers import IconClassifier, save_classifier
from sketchguide.controls.base import Step, Strength
from sketchguide.controls.strengths import Proportional
from sketchguide.extractors import EXTRACTORS
from sketchguide.generation import generate
from sketchguide.levels import Level, Window
from sketchguide.methods import Batch, Method
from sketchguide.pictures import Picture
from sketchguide.predictors import LatentPredictor
from sketchguide.seeds import seeded
from sketchguide.sketch import Sketch, SpatialMap
from sketchguide.sketchers import Sketcher, SketcherConfig
from sketchguide.taps import Rewrite
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.data import Pictures, find_examples
from sketchguide.training.predictor import PredictorRun, PredictorTraining
from sketchguide.training.run import TrainingRun

Tiny = Callable[..., UNetBackbone]
MakePredictor = Callable[..., LatentPredictor]
Run = TypeVar("Run", bound=TrainingRun)
Result = TypeVar("Result")

SIZE = (32, 32)
CROSS = Sketch.from_strokes([[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, 0.8]]])


@dataclass(frozen=True)
class Rewriting:
    """An injection that rewrites the same places in the same way at every level."""

    table: Mapping[str, Rewrite]
    window: Window = (0.0, 1.0)

    def rewrites(self, level: Level) -> Mapping[str, Rewrite]:
        del level
        return self.table


@dataclass(frozen=True)
class Pull:
    """A guide with any loss."""

    of: Callable[[Step], Tensor]
    reads: Sequence[str] = ()
    window: Window = (0.0, 1.0)
    strength: Strength = field(default_factory=lambda: Proportional(0.5))
    every: int = 1

    def loss(self, step: Step) -> Tensor:
        return self.of(step)


def small_stable_diffusion(*, seed: int = 0) -> StableDiffusionPipeline:
    """`tiny_stable_diffusion` with a third of its blocks and attention at one size only, for tests to which the rest is
    no matter: a pass takes a third of the time.
    """
    pipeline = tiny_stable_diffusion(seed=seed)
    shape: dict[str, Any] = {
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    }
    with seeded(seed):
        # as keywords: what the config says it has by default is dropped from it, whatever its value
        unet = UNet2DConditionModel.from_config(pipeline.unet.config, **shape)
    assert unet.config.layers_per_block == 1
    return StableDiffusionPipeline(**(pipeline.components | {"unet": unet}), requires_safety_checker=False)


def shallow(pipeline: Any, *, seed: int = 0) -> Any:
    """`pipeline` with three blocks in its transformer, and of Flux two more of a single stream, for tests of seams."""
    config = pipeline.transformer.config
    few = {"num_layers": 3} | ({"num_single_layers": 2} if "num_single_layers" in config else {})
    with seeded(seed):
        pipeline.register_modules(transformer=type(pipeline.transformer).from_config(config, **few))
    assert len(pipeline.transformer.transformer_blocks) == 3
    return pipeline


def pixels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def draw(tiny: Tiny, predictor: LatentPredictor, **settings: Any) -> list[Picture]:
    """Pictures of SIZE in two steps that follow CROSS, but for what `settings` say."""
    given = {"sketch": CROSS, "seed": 7, "steps": 2, "size": SIZE, **settings}
    return generate("a cat", backbone=tiny(), predictor=predictor if given["sketch"] else None, **given)


def a_map(size: tuple[int, int], *, at: float) -> SpatialMap:
    """A line across, `at` of the height down."""
    ink = np.zeros((size[1], size[0]), np.float32)
    ink[int(at * size[1])] = 1
    return SpatialMap(ink, np.ones_like(ink))


def made(method: Method, batch: Batch) -> Tensor:
    """The latents that `method` ends with."""
    *_, last = method(batch)
    return last.latent


def returned(steps: Generator[Any, None, Result]) -> Result:
    """What a generator ends with when all its steps have been taken."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def attention_for(backbone: Backbone, *, acts: bool = True) -> SketchAttention:
    """Sketch attention that has learned nothing; what it adds is random, or nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = SketchAttention(describe_attention(backbone.taps, backbone=backbone.name, pixels=backbone.stride))
        for layer in attention.layers if acts else ():
            torch.nn.init.normal_(layer.get_parameter("out.weight"), std=0.2)
    return attention


def save_adapter(adapter: Adapter, backbone: UNetBackbone, folder: Path) -> Path:
    """One that was trained for nothing, and changes pictures."""
    if adapter == "controlnet":
        network = ControlNetModel.from_unet(backbone.network, conditioning_embedding_out_channels=(8, 16))
        for block in (*network.controlnet_down_blocks, network.controlnet_mid_block):
            nn.init.normal_(block.weight)
    else:
        channels = list(backbone.network.config.block_out_channels)
        network = T2IAdapter(
            channels=channels, num_res_blocks=1, downscale_factor=backbone.stride, adapter_type="full_adapter"
        )
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data *= 8
    network.save_pretrained(folder)
    return folder


def save_sketch_loss(folder: Path) -> None:
    """What the sketch loss needs, as it is before training: what draws, and what compares drawings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        Sketcher(SketcherConfig(width=8, blocks=1)).save(folder / "sketcher.safetensors")
        drawing = IconClassifier(("a", "b"), size=32, channels=(8, 16))
        save_classifier(drawing, folder / "drawing-classifier.safetensors")


def lora_of(part: str, file: Path, *layers: str) -> Path:
    """A file with random layers for one network of a small model."""
    network = getattr(small_stable_diffusion(), part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        inject_adapter_in_model(LoraConfig(r=2, init_lora_weights=False, target_modules=list(layers)), network)
    tensors = get_peft_model_state_dict(network, adapter_name="default")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{part}.{name}": tensor for name, tensor in tensors.items()}, file)
    return file


def load_script(path: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """The script at `path`, imported for as long as `patch` lasts; skips where this distribution comes without it."""
    if not path.is_file():
        pytest.skip(f"{path.name} is not part of this distribution")
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def hook_count(network: nn.Module) -> int:
    """Of all kinds of hooks, on all of its modules."""
    return sum(
        len(hooks)
        for module in network.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert theirs.isfinite().all()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def changed(one: Picture, other: Picture) -> int:
    """The largest difference between two pictures, of 255."""
    return int(np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image)).max())


def draw_boxes(folder: Path, *, count: int) -> None:
    """Captioned pictures to train on."""
    for i in range(count):
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste((40 * i, 120, 250 - 40 * i), (8 + 3 * i, 12, 40 + 3 * i, 50))
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a box")


def trained(backbone: Backbone, folder: Path, **settings: Any) -> LatentPredictor:
    """A predictor of two steps, saved in `folder` and loaded again."""
    draw_boxes(folder, count=3)
    pictures = Pictures(find_examples(folder), size=(64, 64))
    training = PredictorTraining(steps=2, batch=2, views=1, **settings)
    run = PredictorRun(backbone, pictures, EXTRACTORS["edges"], training)
    list(run)
    run.predictor.save_pretrained(folder / "edges")
    return LatentPredictor.from_pretrained(folder / "edges")


def gone_on(run: Run, checkpoints: Checkpoints) -> Run:
    """A new run that is as the last one of the checkpoints was."""
    latest = checkpoints.latest()
    assert latest is not None
    run.go_on(latest)
    return run


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps({"weight": [1.0]}))


def empty(file: Path) -> None:
    file.write_bytes(b"")
