"""The trainer of the peers, in benchmarks/peers/train.py."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel

from sketchguide.backbones.wrapped import with_controlnet, with_t2i_adapter
from sketchguide.errors import TrainingError
from sketchguide.extractors import EXTRACTORS
from sketchguide.training.data import Pictures, find_examples
from sketchguide.training.told import ToldRun, ToldTraining
from support import Tiny, load_script

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "peers" / "train.py"
EVERY_KIND = pytest.mark.parametrize("kind", ["controlnet", "t2i-adapter"])


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        yield load_script(SCRIPT, patch)


@EVERY_KIND
def test_training_helps_and_leaves_the_model_alone(peers: ModuleType, tiny: Tiny, boxes: Path, kind: str) -> None:
    backbone = tiny(prediction_type="v_prediction")
    told = peers.build_peer(kind, backbone, seed=0)
    settings = ToldTraining(rate=1e-2, drop=0.5, steps=8, batch=2, warmup=1, cubic=peers.KINDS[kind].cubic)
    run = ToldRun(told, Pictures(find_examples(boxes), size=(32, 32)), EXTRACTORS["edges"], settings)
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    scored = run.pictures.fixed(2)
    first = run.score(*scored)
    if kind == "controlnet":
        assert first == 1.0  # it begins by adding nothing
    list(run)
    assert run.score(*scored) < min(1.0, first) - 5e-4
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.network.state_dict().items())


def test_a_controlnet_pools_the_prompt_as_its_unet_does(peers: ModuleType, tmp_path: Path) -> None:
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=24,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    peers.build_controlnet(unet, 4).save_pretrained(tmp_path)
    controlnet = ControlNetModel.from_pretrained(tmp_path)
    prompt = torch.randn(2, 7, 24)
    with torch.no_grad():
        assert torch.equal(controlnet.add_embedding(prompt), unet.add_embedding(prompt))
        hint = controlnet.controlnet_cond_embedding(torch.rand(1, 3, 64, 64))
    assert hint.shape == (1, 16, 16, 16)


@EVERY_KIND
def test_the_command(
    peers: ModuleType,
    tiny: Tiny,
    boxes: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbone = tiny()
    monkeypatch.setattr(backbone, "default_size", (32, 32))
    monkeypatch.setattr(peers, "load_backbone", lambda *_, **__: backbone)
    out = tmp_path / "peer"
    command = ["train.py", kind, "--data", str(boxes), "-o", str(out), "--steps", "1", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--images", "5"])
    peers.main()
    facts = json.loads((out / "training.json").read_text())
    assert (facts["kind"], facts["steps"], facts["images"]) == (kind, 1, 5)
    assert 1 <= facts["training_images"] <= 2  # a batch of two, drawn with replacement
    trained: Any = (ControlNetModel if kind == "controlnet" else T2IAdapter).from_pretrained(out)
    assert facts["trainable_parameters"] == sum(p.numel() for p in trained.parameters())
    told = (with_controlnet if kind == "controlnet" else with_t2i_adapter)(backbone, trained, torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        clean = told.predict(torch.randn(1, 4, 16, 16), told.level(0.5), told.describe(["a box"])).clean
    assert clean.isfinite().all()

    peers.main()  # it is done, and says so again
    assert json.loads((out / "training.json").read_text())["steps"] == 1
    monkeypatch.setattr(sys, "argv", [*command, "--images", "4"])
    with pytest.raises(SystemExit) as stopped:
        peers.main()
    assert stopped.value.code == 2
    assert "images was 5, now 4" in capsys.readouterr().err


@pytest.fixture
def peer(
    peers: ModuleType, tiny: Tiny, boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int], None]], int]:
    """`peer(after)`: trains a small peer, calling `after` with the number of each step, and returns the exit code."""
    backbone = tiny()
    monkeypatch.setattr(backbone, "default_size", (32, 32))
    monkeypatch.setattr(peers, "load_backbone", lambda *_, **__: backbone)
    out = str(tmp_path / "peer")
    command = ["train.py", "t2i-adapter", "--data", str(boxes), "-o", out, "--steps", "3", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", command)
    every = peers.ToldRun.__iter__

    def trained(after: Callable[[int], None]) -> int:
        def steps(run: Any) -> Iterator[Any]:
            for step in every(run):
                after(step.step)
                yield step

        monkeypatch.setattr(peers.ToldRun, "__iter__", steps)
        try:
            peers.main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return trained


def saved(folder: Path) -> list[str]:
    return [one.name for one in (folder / "peer" / "checkpoints").glob("step-*")]


def test_a_stopped_peer_is_saved_and_goes_on(
    peer: Callable[[Callable[[int], None]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peer(lambda _: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert capsys.readouterr().err.endswith("Stopped. The same command goes on from the last step that is saved.\n")
    assert saved(tmp_path) == ["step-00000001"]
    seen: list[int] = []
    assert peer(seen.append) == 0
    assert seen == [2, 3]


def test_a_peer_that_is_stopped_twice_stops_at_once(
    peer: Callable[[Callable[[int], None]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice(_: int) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    assert peer(twice) == 143
    assert "Stopped. The same command goes on" in capsys.readouterr().err
    assert saved(tmp_path) == []


def test_a_peer_whose_training_fails_is_saved_up_to_there(
    peer: Callable[[Callable[[int], None]], int], tmp_path: Path
) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise TrainingError("The loss is not finite.")

    assert peer(fail) == 1
    assert saved(tmp_path) == ["step-00000003"]
