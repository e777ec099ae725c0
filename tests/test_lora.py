"""A LoRA must go on beside those that are there, and go again without a trace."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from accelerate.hooks import (
    AlignDevicesHook,
    CpuOffload,
    SequentialHook,
    add_hook_to_module,
    remove_hook_from_module,
)
from huggingface_hub.errors import RemoteEntryNotFoundError
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from sketchguide import generate
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.errors import MismatchError, ModelNotFoundError, SketchguideWarning, UsageError, WeightsError
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.lora import LORA_FILE, adapted, load_lora, unload_lora, wearing
from support import empty, lora_of, pickled, small_stable_diffusion, truncated


@pytest.fixture
def styled(monkeypatch: pytest.MonkeyPatch) -> UNetBackbone:
    """A backbone with two LoRAs of the user, of which one acts, at 0.6."""
    # transformers asks for a newer peft than there may be, without needing it for what is tested here
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.18")
    pipeline: Any = small_stable_diffusion()
    config = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q"])
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        torch.manual_seed(4)
        for name in ("idle", "style"):
            pipeline.unet.add_adapter(config, adapter_name=name)
    pipeline.set_adapters(["style"], [0.6])
    return UNetBackbone(pipeline, name="tiny")


def state_of(backbone: UNetBackbone) -> dict[str, Any]:
    """All that a LoRA can change about the networks: layers, what is trained, and what acts how much."""
    state: dict[str, Any] = {"configs": {}}
    for part, network in backbone.networks.items():
        state["configs"][part] = sorted(getattr(network, "peft_config", {}))
        for path, layer in network.named_modules():
            scales = dict(getattr(layer, "scaling", {}))
            state[f"{part}.{path}"] = type(layer), layer.training, scales, getattr(layer, "active_adapters", None)
        state |= {f"{part}.{path}": p.requires_grad for path, p in network.named_parameters()}
    return state


def seen_by(backbone: UNetBackbone) -> torch.Tensor:
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return backbone.predict(latent, backbone.level(0.5), backbone.describe(["a cat"])).noise


@pytest.mark.parametrize(
    ("part", "layers"), [("unet", ("to_q", "to_v")), ("text_encoder", ("q_proj",))], ids=["network", "text encoder"]
)
def test_a_lora_goes_without_a_trace(styled: UNetBackbone, tmp_path: Path, part: str, layers: tuple[str, ...]) -> None:
    file = lora_of(part, tmp_path / "lora.safetensors", *layers)
    before, seen, printed = state_of(styled), seen_by(styled), fingerprint_of_model(styled)
    load_lora(file, styled, scale=0.5)
    assert not torch.allclose(seen_by(styled), seen, atol=1e-5)
    assert not [name for name, value in state_of(styled).items() if value is True]  # nothing is trained
    for name, layer in styled.network.named_modules():
        if "style" in getattr(layer, "scaling", {}):
            assert layer.scaling["style"] == 0.6, name
            assert set(layer.active_adapters) == {"style", "sketchguide-1"}
    unload_lora(styled)
    assert state_of(styled) == before
    assert fingerprint_of_model(styled) == printed
    assert torch.equal(seen_by(styled), seen)
    unload_lora(styled)  # changes nothing
    assert state_of(styled) == before


def test_the_scale_of_a_lora_is_its_own(styled: UNetBackbone, tmp_path: Path) -> None:
    file = lora_of("unet", tmp_path / "lora.safetensors", "to_q")
    seen = seen_by(styled)
    load_lora(file, styled, scale=0.0)
    assert torch.allclose(seen_by(styled), seen, atol=1e-6)


def test_several_loras_add_up_each_at_its_own_scale(styled: UNetBackbone, tmp_path: Path) -> None:
    """What each adds to a layer's output is added; the picture of a request has them, in any number."""
    layers = {"a": ("to_q",), "b": ("to_q", "to_v")}
    files = [lora_of("unet", tmp_path / name / LORA_FILE, *own) for name, own in layers.items()]
    before, seen = state_of(styled), seen_by(styled)
    load_lora(files, styled, scale=[0.5, 2.0])
    both = seen_by(styled)
    scales = [dict(layer.scaling) for _, _, layer in adapted(styled.network)]
    assert {"idle": 1.0, "style": 0.6, "sketchguide-1": 0.5, "sketchguide-2": 2.0} in scales
    assert {"sketchguide-2": 2.0} in scales
    worn = state_of(styled)
    save_file({"lora.of.another.kind": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="1 scales are given for 2 LoRAs"):
        load_lora(files, styled, scale=[1.0])
    with pytest.raises(MismatchError, match=r"other.*does not fit"):
        load_lora([files[1], tmp_path / "other.safetensors"], styled)
    assert state_of(styled) == worn
    assert torch.equal(seen_by(styled), both)
    load_lora(files[0], styled, scale=0.5)
    assert not torch.equal(seen_by(styled), both)
    load_lora(files, styled, scale=0.0)
    assert torch.allclose(seen_by(styled), seen, atol=1e-6)
    unload_lora(styled)
    assert state_of(styled) == before
    folders = [str(file.parent) for file in files]
    settings: dict[str, Any] = {"backbone": styled, "seed": 1, "steps": 2}
    (picture,) = generate("a cat", lora=folders, lora_scale=[0.5, 2], **settings)
    assert picture.request.loras == {folders[0]: 0.5, folders[1]: 2.0}
    load_lora(files, styled, scale=[0.5, 2.0])
    (same,) = generate("a cat", **settings)
    assert picture.image.tobytes() == same.image.tobytes()
    (alone,) = generate("a cat", lora=folders[1], lora_scale=2, **settings)
    assert alone.image.tobytes() != same.image.tobytes()


def test_the_fingerprint_of_a_model_follows_how_much_of_a_lora_is_on(styled: UNetBackbone, tmp_path: Path) -> None:
    file = lora_of("unet", tmp_path / "lora.safetensors", "to_q")
    printed = [fingerprint_of_model(load_lora(file, styled, scale=scale)) for scale in (0.3, 1.0, 0.3)]
    assert printed[0] == printed[2] != printed[1]
    styled.pipeline.disable_lora()
    assert fingerprint_of_model(styled) != printed[2]
    styled.pipeline.enable_lora()


def test_a_lora_that_does_not_fit_leaves_nothing_behind(styled: UNetBackbone, tmp_path: Path) -> None:
    tensors = load_file(lora_of("unet", tmp_path / "network.safetensors", "to_q", "to_v"))
    tensors |= load_file(lora_of("text_encoder", tmp_path / "text.safetensors", "q_proj"))
    name = next(name for name in tensors if name.startswith("text_encoder") and "lora_B" in name)
    save_file(tensors | {name: torch.zeros(5, 2)}, tmp_path / "bad.safetensors")  # after the network's have gone well
    save_file({"lora.of.another.kind": torch.zeros(2)}, tmp_path / "other.safetensors")
    before = state_of(styled)
    for file in ("bad", "other"):
        with pytest.raises(MismatchError, match="does not fit 'tiny'") as caught:
            load_lora(tmp_path / f"{file}.safetensors", styled)
        assert caught.value.field == "lora"
        assert state_of(styled) == before


def test_one_whose_magnitudes_would_be_left_out_is_refused(styled: UNetBackbone, tmp_path: Path) -> None:
    tensors = load_file(lora_of("unet", tmp_path / "lora.safetensors", "to_q"))
    magnitudes = {name.replace("lora_B.weight", "dora_scale"): torch.ones(32) for name in tensors if "lora_B" in name}
    save_file(tensors | magnitudes, tmp_path / "dora.safetensors")
    before = state_of(styled)
    with pytest.raises(MismatchError, match=r"'\S*dora\.safetensors' is a DoRA") as caught:
        load_lora(tmp_path / "dora.safetensors", styled)
    assert "plain LoRA" in caught.value.hint
    assert state_of(styled) == before


def test_layers_that_the_network_lacks_are_told_of(styled: UNetBackbone, tmp_path: Path) -> None:
    tensors = load_file(lora_of("unet", tmp_path / "lora.safetensors", "to_q"))
    text = load_file(lora_of("text_encoder", tmp_path / "text.safetensors", "q_proj"))
    second = {name.replace("text_encoder", "text_encoder_2"): tensor.clone() for name, tensor in text.items()}
    tensors |= text | second  # of the second there is no encoder
    deeper = {name.replace("up_blocks.1", "up_blocks.7"): tensor.clone() for name, tensor in tensors.items()}
    save_file(deeper | tensors, tmp_path / "deeper.safetensors")
    with pytest.warns(SketchguideWarning, match=r"deeper\.safetensors' fits 'tiny' in part alone: .*up_blocks\.7"):
        load_lora(tmp_path / "deeper.safetensors", styled)
    save_file(tensors, tmp_path / "fits.safetensors")
    load_lora(tmp_path / "fits.safetensors", styled)  # says nothing


def test_a_lora_for_one_request_gives_way_to_the_one_before(styled: UNetBackbone, tmp_path: Path) -> None:
    mine = lora_of("unet", tmp_path / "mine.safetensors", "to_q", "to_v")
    other = lora_of("unet", tmp_path / "other.safetensors", "to_k")
    save_file({"lora.of.another.kind": torch.zeros(2)}, tmp_path / "bad.safetensors")
    settings: dict[str, Any] = {"seed": 1, "steps": 1, "size": (64, 64)}
    (alone,) = generate("a cat", backbone=styled, lora=str(other), **settings)
    load_lora(mine, styled, scale=0.5)
    before, printed = state_of(styled), fingerprint_of_model(styled)
    (beside,) = generate("a cat", backbone=styled, lora=str(other), **settings)
    assert beside.made_with == alone.made_with
    assert (state_of(styled), fingerprint_of_model(styled)) == (before, printed)
    with pytest.raises(MismatchError):
        generate("a cat", backbone=styled, lora=str(tmp_path / "bad.safetensors"), **settings)
    assert (state_of(styled), fingerprint_of_model(styled)) == (before, printed)


def test_a_lora_that_is_on_is_not_read_again(styled: UNetBackbone, tmp_path: Path) -> None:
    mine = lora_of("unet", tmp_path / "mine.safetensors", "to_q", "to_v")
    load_lora(mine, styled, scale=0.5)
    before = state_of(styled)
    mine.unlink()
    with wearing({str(mine): 0.5}, styled):
        assert state_of(styled) == before
    assert state_of(styled) == before
    with pytest.raises(ModelNotFoundError), wearing({str(mine): 0.6}, styled):
        pass


@pytest.mark.parametrize("way", ["unload_lora", "unload_lora_weights"])
def test_a_lora_that_was_taken_off_elsewhere_does_not_come_back(styled: UNetBackbone, tmp_path: Path, way: str) -> None:
    mine = lora_of("unet", tmp_path / "mine.safetensors", "to_q", "to_v")
    other = lora_of("unet", tmp_path / "other.safetensors", "to_k")
    load_lora(mine, styled)
    if way == "unload_lora":
        unload_lora(UNetBackbone(styled.pipeline))
    else:
        styled.pipeline.unload_lora_weights()
    before = state_of(styled)
    with wearing({str(other): 1.0}, styled):
        assert state_of(styled) != before
    assert state_of(styled) == before
    save_file({"lora.of.another.kind": torch.zeros(2)}, tmp_path / "bad.safetensors")
    with pytest.raises(MismatchError):
        load_lora(tmp_path / "bad.safetensors", styled)
    assert state_of(styled) == before


def test_a_lora_that_another_backbone_loaded_comes_back(styled: UNetBackbone, tmp_path: Path) -> None:
    files = [lora_of("unet", tmp_path / f"{layer}.safetensors", layer) for layer in ("to_q", "to_k", "to_v")]
    load_lora(files[0], styled)
    load_lora(files[1], UNetBackbone(styled.pipeline))
    before = state_of(styled)
    with wearing({str(files[2]): 1.0}, styled):
        assert state_of(styled) != before
    assert state_of(styled) == before


def test_the_dropout_of_a_lora_that_was_loaded_later_drops_nothing() -> None:
    backbone = UNetBackbone(small_stable_diffusion())
    before = seen_by(backbone)
    config = LoraConfig(r=2, lora_dropout=0.5, init_lora_weights=False, target_modules=["to_q"])
    inject_adapter_in_model(config, backbone.network)
    assert torch.equal(seen_by(backbone), seen_by(backbone))
    assert not torch.equal(seen_by(backbone), before)


@pytest.mark.parametrize("way", ["fuse_lora", "disable_lora"])
def test_a_lora_beside_others_that_would_hold_it_back_is_refused(
    styled: UNetBackbone, tmp_path: Path, way: str
) -> None:
    getattr(styled.pipeline, way)()
    with pytest.raises(UsageError, match="are fused or switched off") as caught:
        load_lora(lora_of("unet", tmp_path / "lora.safetensors", "to_q"), styled)
    assert "enable_lora" in caught.value.hint


def test_a_lora_that_was_fused_stays_until_it_is_no_more(styled: UNetBackbone, tmp_path: Path) -> None:
    plain = seen_by(styled)
    mine, other = (lora_of("unet", tmp_path / f"{layer}.safetensors", layer) for layer in ("to_q", "to_k"))
    load_lora(mine, styled)
    loaded = seen_by(styled)
    styled.pipeline.fuse_lora()
    with pytest.raises(UsageError, match="fused into the model's weights") as caught:
        unload_lora(styled)
    assert "unfuse_lora" in caught.value.hint
    with pytest.raises(UsageError, match="are fused or switched off"), wearing({str(other): 1.0}, styled):
        raise AssertionError
    torch.testing.assert_close(seen_by(styled), loaded)
    styled.pipeline.unfuse_lora()
    unload_lora(styled)
    torch.testing.assert_close(seen_by(styled), plain)


def test_of_several_loras_none_goes_while_one_is_fused(styled: UNetBackbone, tmp_path: Path) -> None:
    load_lora([lora_of("unet", tmp_path / f"{name}.safetensors", "to_q") for name in "ab"], styled)
    worn = state_of(styled)
    styled.pipeline.fuse_lora(adapter_names=["sketchguide-2"])
    with pytest.raises(UsageError, match="fused into the model's weights"):
        unload_lora(styled)
    styled.pipeline.unfuse_lora()
    assert state_of(styled) == worn


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError])
def test_a_lora_whose_loading_is_broken_off_gives_way_to_the_one_before(
    styled: UNetBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    mine, other = (lora_of("unet", tmp_path / f"{layer}.safetensors", layer) for layer in ("to_q", "to_k"))
    load_lora(mine, styled, scale=0.5)
    before, load = state_of(styled), styled.pipeline.load_lora_weights

    def broken_off(file: str, **settings: Any) -> None:
        load(file, **settings)
        if file == str(other):
            raise error

    monkeypatch.setattr(styled.pipeline, "load_lora_weights", broken_off)
    with pytest.raises(error), wearing({str(other): 1.0}, styled):
        raise AssertionError
    assert state_of(styled) == before


def test_a_lora_comes_from_the_hub_by_its_usual_name(
    styled: UNetBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(lora_of("unet", tmp_path / "blob", "to_q"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    seen = seen_by(styled)
    load_lora("someone/style", styled)
    assert asked == [("someone/style", LORA_FILE)]
    assert not torch.allclose(seen_by(styled), seen, atol=1e-5)


@pytest.mark.parametrize("hub", [True, False])
def test_the_only_file_of_another_name_is_taken(
    styled: UNetBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: bool
) -> None:
    folder = tmp_path / "style"
    lora_of("unet", folder / "my-style.safetensors", "to_q")
    lora_of("unet", folder / "older" / "my-style.safetensors", "to_q")
    files = ["README.md", "my-style.safetensors", "older/my-style.safetensors"]

    def download(_: str, file: str) -> str:
        if file not in files:
            answer = httpx2.Response(404, request=httpx2.Request("GET", "https://hub.example/" + file))
            raise RemoteEntryNotFoundError(f"no {file}", response=answer)
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("sketchguide.lora.list_repo_files", lambda _: files)
    name: str | Path = "someone/style" if hub else folder
    seen = seen_by(styled)
    load_lora(name, styled)
    assert not torch.allclose(seen_by(styled), seen, atol=1e-5)
    unload_lora(styled)
    files.append("other.safetensors")
    lora_of("unet", folder / "other.safetensors", "to_q")
    with pytest.raises(ModelNotFoundError) as caught:
        load_lora(name, styled)
    assert "several files: my-style.safetensors, other.safetensors. Give the one" in caught.value.hint


@pytest.mark.parametrize(
    "error", [RuntimeError("of an HTTP library"), ConnectionError("no route"), ValueError("no id")]
)
def test_a_lora_that_the_hub_does_not_give_is_not_found(
    styled: UNetBackbone, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(*_: str) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(ModelNotFoundError, match="'runs/tuned' here, and the hub gave no LoRA of that name") as caught:
        load_lora("runs/tuned", styled)
    assert (caught.value.field, LORA_FILE in caught.value.hint) == ("lora", True)


@pytest.mark.parametrize("damage", [pickled, truncated, empty], ids=lambda damage: damage.__name__)
def test_a_damaged_lora_is_refused_wherever_it_comes_from(
    styled: UNetBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    file = lora_of("unet", tmp_path / "lora" / LORA_FILE, "to_q")
    damage(file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(file))
    for name in (file, file.parent, "someone/style"):
        with pytest.raises(WeightsError) as caught:
            load_lora(name, styled)
        assert caught.value.field == "lora"


def test_a_lora_that_is_not_finite_is_refused(
    styled: UNetBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lora_of("unet", tmp_path / "lora.safetensors", "to_q")
    tensors = load_file(file)
    next(iter(tensors.values())).flatten()[0] = float("inf")
    save_file(tensors, file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(file))
    with pytest.raises(WeightsError, match="not finite"):
        load_lora("someone/style", styled)


@pytest.mark.parametrize(
    ("hook", "method"),
    [(CpuOffload("cpu"), "enable_model_cpu_offload"), (AlignDevicesHook("cpu"), "enable_sequential_cpu_offload")],
)
def test_one_that_does_not_fit_leaves_offloading_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Any, method: str
) -> None:
    """diffusers takes the hooks off before it loads, and leaves them off where it fails."""
    backbone = UNetBackbone(small_stable_diffusion(), name="tiny")
    add_hook_to_module(backbone.network, SequentialHook(hook))
    called: list[Any] = []
    monkeypatch.setattr(backbone.pipeline, method, lambda device: called.append(device))

    def failing(*_: Any, **__: Any) -> None:
        remove_hook_from_module(backbone.network)
        raise ValueError("size mismatch")

    monkeypatch.setattr(backbone.pipeline, "load_lora_weights", failing)
    with pytest.raises(MismatchError, match="size mismatch"):
        load_lora(lora_of("unet", tmp_path / "lora.safetensors", "to_q"), backbone)
    assert called == [torch.device("cpu")]
