"""Checkpoints of one file: a small Stable Diffusion under the names that such files have."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from sketchguide import from_pipe, generate, load_backbone, run, with_controlnet
from sketchguide.adapters import adapter_of, load_adapter
from sketchguide.backbones.tiny import tiny_stable_diffusion_xl
from sketchguide.errors import (
    MismatchError,
    ModelNotFoundError,
    SketchguideError,
    SketchguideWarning,
    UsageError,
    WeightsError,
)
from sketchguide.fingerprints import fingerprint, fingerprint_of_model
from sketchguide.pictures import recall
from sketchguide.single_file import pipeline_of_file
from support import Tiny, save_adapter

KIND = "stable-diffusion-v1-5/stable-diffusion-v1-5"
XL = "stabilityai/stable-diffusion-xl-base-1.0"
FILES = ["model_index.json", "unet/config.json", "unet/weights.safetensors", "text_encoder/weights.index.json"]
FILES += ["tokenizer/merges.txt", "tokenizer/spiece.model", "safety_checker/config.json", "vae_1_0/config.json"]
LAYERS = 2  # resnets of a block on the way down

IN_RESNETS = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
IN_RESNETS |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
ENDS |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
ENDS |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
IN_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}(?=\.)", rf"\g<1>{theirs}", name)
    return name


def _of_network(name: str, with_attention: list[int]) -> str:
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        way, block, kind, layer, rest = found.groups()
        number = int(block) * (LAYERS + 1) + int(layer) + (way == "down")
        inner = f"0.{_renamed(rest, IN_RESNETS)}" if kind == "resnets" else f"1.{rest}"
        return f"{'input' if way == 'down' else 'output'}_blocks.{number}.{inner}"
    if found := re.match(r"(down|up)_blocks\.(\d)\.\w+samplers\.0\.conv\.(.*)", name):
        way, block, rest = found.groups()
        number = (int(block) + 1) * (LAYERS + 1) - (way == "up")
        inner = "0.op" if way == "down" else f"{2 if int(block) in with_attention else 1}.conv"
        return f"{'input' if way == 'down' else 'output'}_blocks.{number}.{inner}.{rest}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, layer, rest = found.groups()
        return (
            f"middle_block.1.{rest}"
            if kind == "attentions"
            else (f"middle_block.{2 * int(layer)}.{_renamed(rest, IN_RESNETS)}")
        )
    return _renamed(name, ENDS)


def _of_autoencoder(name: str, blocks: int) -> str:
    def numbered(found: re.Match[str]) -> str:
        way, block = found.groups()
        return f"{way}.{block if way == 'down' else blocks - 1 - int(block)}"

    name = re.sub(r"(down|up)_blocks\.(\d)", numbered, name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"(down|up)samplers\.0", r"\1sample", name).replace("resnets", "block")
    if "mid_block.attentions.0" in name:
        name = _renamed(name.replace("mid_block.attentions.0", "mid.attn_1"), IN_ATTENTION)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


IN_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn": "attn"}
IN_OPEN_CLIP |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OF_OPEN_CLIP = {"embeddings.token_embedding.weight": "token_embedding.weight"}
OF_OPEN_CLIP |= {"embeddings.position_embedding.weight": "positional_embedding"}
OF_OPEN_CLIP |= {"final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}


def _as_open_clip(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a CLIP as the code of its second trainers names them: three projections are one matrix there."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("text_model.")
        if plain == "text_projection.weight":
            renamed["text_projection"] = tensor.T
        elif found := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(.*)", plain):
            whole = torch.cat([tensors[name.replace("q_proj", f"{one}_proj")] for one in "qkv"])
            renamed[f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = whole
        elif found := re.match(r"encoder\.layers\.(\d+)\.(.*)", plain):
            if not re.match(r"self_attn\.[kv]_proj", found[2]):
                renamed[f"transformer.resblocks.{found[1]}.{_renamed(found[2], IN_OPEN_CLIP)}"] = tensor
        else:
            renamed[OF_OPEN_CLIP[plain]] = tensor
    return renamed


def of_one_file(pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline) -> dict[str, torch.Tensor]:
    """The weights of a pipeline of Stable Diffusion 1.x or XL under the names of its first code, which checkpoints
    keep."""
    kinds = pipeline.unet.config.up_block_types
    with_attention = [number for number, kind in enumerate(kinds) if kind.startswith("CrossAttn")]
    blocks = len(pipeline.vae.config.up_block_types)
    tensors = {
        f"model.diffusion_model.{_of_network(name, with_attention)}": tensor
        for name, tensor in pipeline.unet.state_dict().items()
    }
    for name, tensor in pipeline.vae.state_dict().items():
        tensors[f"first_stage_model.{_of_autoencoder(name, blocks)}"] = tensor
    second = getattr(pipeline, "text_encoder_2", None)
    place = "cond_stage_model" if second is None else "conditioner.embedders.0"
    for name, tensor in pipeline.text_encoder.state_dict().items():
        tensors[f"{place}.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    if second is not None:
        others = _as_open_clip(second.state_dict())
        tensors |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in others.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def weights(tiny: Tiny) -> dict[str, torch.Tensor]:
    return of_one_file(tiny().pipeline)


@pytest.fixture(scope="module")
def checkpoint(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checkpoint") / "style.safetensors"
    save_file(weights, file)
    return file


@pytest.fixture(scope="module")
def xl() -> StableDiffusionXLPipeline:
    """A small one whose second text encoder is wider and deeper than its first, by which diffusers tells them apart."""
    pipeline = tiny_stable_diffusion_xl()
    wide = pipeline.text_encoder_2.config.to_dict() | {"hidden_size": 32, "projection_dim": 32, "num_hidden_layers": 10}
    told = {"cross_attention_dim": 24 + 32, "projection_class_embeddings_input_dim": 32 + 6 * 8}
    torch.manual_seed(0)
    pipeline.text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**wide)).eval()
    pipeline.unet = UNet2DConditionModel.from_config({**pipeline.unet.config, **told})
    return pipeline


def _described(cache: Path, kind: str) -> Path:
    return cache / f"models--{kind.replace('/', '--')}" / "snapshots" / "0123"


@pytest.fixture(scope="module")
def configured(tiny: Tiny, xl: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's cache, with the configurations that Stable Diffusion 1.5 and XL would have if they were that small."""
    cache = tmp_path_factory.mktemp("hub")
    for kind, pipeline in ((KIND, tiny().pipeline), (XL, xl)):
        described = _described(cache, kind)
        pipeline.save_pretrained(described)
        for file in described.rglob("*.safetensors"):
            file.unlink()
        home = described.parent.parent
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("0123")
    return cache


@pytest.fixture(autouse=True)
def cached(configured: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(configured))
    return configured


def test_a_checkpoint_of_one_file_is_the_model_that_its_weights_make(tiny: Tiny, checkpoint: Path) -> None:
    loaded = load_backbone(checkpoint, device="cpu")
    assert loaded.name == str(checkpoint)
    assert fingerprint_of_model(loaded) == fingerprint_of_model(tiny())
    assert loaded.pipeline.safety_checker is None
    assert load_backbone(checkpoint, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_one_of_stable_diffusion_xl(xl: StableDiffusionXLPipeline, tmp_path: Path) -> None:
    save_file(of_one_file(xl), tmp_path / "xl.safetensors")
    loaded = load_backbone(tmp_path / "xl.safetensors", device="cpu")
    assert type(loaded.pipeline) is StableDiffusionXLPipeline
    assert fingerprint_of_model(loaded) == fingerprint_of_model(from_pipe(xl, name="xl"))
    ours, theirs = (
        one.predict(torch.ones(1, 4, 32, 32), one.level(0.5), one.describe(["a red cat"])).noise
        for one in (loaded, from_pipe(xl, name="xl"))
    )
    assert torch.equal(ours, theirs)


def test_its_pictures_are_made_again_from_their_recipe(checkpoint: Path, tmp_path: Path) -> None:
    (picture,) = generate("a cat", model=str(checkpoint), device="cpu", seed=3, steps=2)
    picture.save(tmp_path / "cat.png")
    request = recall(tmp_path / "cat.png").request
    assert request.model == str(checkpoint)
    *_, again = run(request)
    assert again.image.tobytes() == picture.image.tobytes()


def test_its_configuration_is_asked_for_once(checkpoint: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def snapshot(name: str, **settings: Any) -> str:
        asked.append(name)
        allowed, ignored = settings["allow_patterns"], settings["ignore_patterns"]
        wanted = filter_repo_objects(FILES, allow_patterns=allowed, ignore_patterns=ignored)
        spared = ("weights", "safety", "README", "vae_1_0")
        assert list(wanted) == [file for file in FILES if not any(word in file for word in spared)]
        return str(_described(cached, KIND))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    load_backbone(checkpoint, device="cpu")
    assert asked == [KIND]


def test_one_that_says_that_it_predicts_v_does(
    weights: dict[str, torch.Tensor], cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = Path(shutil.copytree(_described(cached, KIND), tmp_path / "described"))
    scheduler = EulerDiscreteScheduler.from_config(EulerDiscreteScheduler.load_config(described / "scheduler"))
    scheduler.save_pretrained(described / "scheduler")
    index = described / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "EulerDiscreteScheduler"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(described))
    marked = {**weights, "v_pred": torch.empty(0)}
    save_file(marked, tmp_path / "v.safetensors")
    save_file({**marked, "ztsnr": torch.empty(0)}, tmp_path / "zero.safetensors")
    plain, zero = (load_backbone(tmp_path / f"{name}.safetensors", device="cpu") for name in ("v", "zero"))
    for backbone in (plain, zero):
        assert backbone.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert not plain.pipeline.scheduler.config.rescale_betas_zero_snr
    assert zero.pipeline.scheduler.config.rescale_betas_zero_snr


def test_what_a_t5_holds_once_is_in_both_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "flux.safetensors")
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with torch.device("meta"):
        encoder = T5EncoderModel(config)
    whole = T5EncoderModel(config).state_dict()
    once = {name: tensor for name, tensor in whole.items() if name != "encoder.embed_tokens.weight"}
    encoder.load_state_dict(once, strict=False, assign=True)
    pipeline = SimpleNamespace(components={"text_encoder_2": encoder})
    monkeypatch.setattr("diffusers.FluxPipeline.from_single_file", lambda *_, **__: pipeline)
    made = pipeline_of_file(tmp_path / "flux.safetensors", tmp_path, kind="FluxPipeline", dtype=torch.float32)
    assert made is pipeline
    assert torch.equal(encoder.encoder.embed_tokens.weight, whole["shared.weight"])


def test_a_second_stable_diffusion_is_said_to_be_read_as_one_that_predicts_v(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"pretrained_model_name_or_path": "stabilityai/stable-diffusion-2-1"}  # which is not in the cache
    monkeypatch.setattr("diffusers.loaders.single_file_utils.fetch_diffusers_config", lambda _: config)
    with (
        pytest.warns(SketchguideWarning, match="read as a model that predicts v"),
        pytest.raises(ModelNotFoundError, match="stable-diffusion-2-1, is not at hand") as caught,
    ):
        load_backbone(checkpoint)
    assert "config=FOLDER" in caught.value.hint


def test_a_configuration_that_was_fetched_in_part_is_not_taken_for_whole(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def incomplete(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("the snapshot is incomplete")

    monkeypatch.setattr("huggingface_hub.snapshot_download", incomplete)
    with pytest.raises(ModelNotFoundError, match="the snapshot is incomplete"):
        load_backbone(checkpoint, device="cpu")


# --------------------------------------------------------------------------------------------------------- bad input


def test_scaled_weights_and_unknown_kinds_are_refused(
    weights: dict[str, torch.Tensor], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scale_weight", "weight_scale"):
        save_file({**weights, f"model.diffusion_model.x.{name}": torch.ones(1)}, tmp_path / "scaled.safetensors")
        with pytest.raises(UsageError, match="8 bits with scales"):
            load_backbone(tmp_path / "scaled.safetensors")

    def stumbles(_: object) -> None:
        raise KeyError("pos_embed")

    monkeypatch.setattr("diffusers.loaders.single_file_utils.fetch_diffusers_config", stumbles)
    with pytest.raises(UsageError, match="cannot be told of what kind"):
        load_backbone(checkpoint)


Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def _without(prefix: str) -> Change:
    return lambda weights: {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_without("model."), UsageError, r"no checkpoint of a whole model"),
        (_without("first_stage_model."), WeightsError, r"AutoencoderKL"),
        (_without("cond_stage_model."), WeightsError, r"CLIPTextModel"),
        (_without("model.diffusion_model.middle_block.1.norm.weight"), WeightsError, r"is not complete"),
        (_without("first_stage_model.decoder.conv_in.bias"), WeightsError, r"is not complete"),
        (_without("cond_stage_model.transformer.text_model.final_layer_norm"), WeightsError, r"2 are missing"),
    ],
)
def test_what_is_not_in_the_file_is_said(
    change: Change, error: type[SketchguideError], words: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(change(weights), tmp_path / "part.safetensors")
    with pytest.raises(error, match=words) as caught:
        load_backbone(tmp_path / "part.safetensors", device="cpu")
    assert str(tmp_path / "part.safetensors") in caught.value.message
    assert caught.value.field == "model"
    assert "Traceback" not in caught.value.message


def test_weights_that_are_not_finite_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    broken = load_file(checkpoint)
    broken["first_stage_model.decoder.conv_in.bias"][0] = torch.nan
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=r"weights of vae .* not finite"):
        load_backbone(tmp_path / "broken.safetensors", device="cpu")


def test_a_pickle_is_not_opened(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("model.ckpt", "model.PT", "model.sft", "model"):
        shutil.copy(checkpoint, tmp_path / name)
        with pytest.raises(WeightsError, match=r"is no \.safetensors file") as caught:
            load_backbone(tmp_path / name)
        assert "safetensors" in caught.value.hint


def test_a_file_that_is_cut_short_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    data = checkpoint.read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="no readable safetensors file"):
        load_backbone(tmp_path / "short.safetensors")


def test_a_configuration_that_is_not_at_hand_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=rf"style\.safetensors has no configuration in it, .*{KIND}") as caught:
        load_backbone(checkpoint)
    assert "network" in caught.value.hint


# ------------------------------------------------------------------------------------------------------- ControlNets

CONTROL = {"controlnet_mid_block": "middle_block_out.0", "controlnet_cond_embedding.conv_in": "input_hint_block.0"}
CONTROL |= {"controlnet_cond_embedding.conv_out": "input_hint_block.14"}


def _of_controlnet(name: str) -> str:
    if found := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", name):
        return f"zero_convs.{found[1]}.0.{found[2]}"
    if found := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.*)", name):
        return f"input_hint_block.{2 * int(found[1]) + 2}.{found[2]}"
    renamed = _renamed(name, CONTROL)
    return _of_network(name, []) if renamed == name else renamed


@pytest.fixture(scope="module")
def lines(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter("controlnet", tiny(), tmp_path_factory.mktemp("lines"))


@pytest.fixture(scope="module")
def control(lines: Path) -> dict[str, torch.Tensor]:
    return load_file(lines / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("layout", ["control_model.", "", "of diffusers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_controlnet_of_one_file_is_what_it_is_in_a_folder(
    tiny: Tiny, lines: Path, control: dict[str, torch.Tensor], tmp_path: Path, layout: str, dtype: torch.dtype
) -> None:
    names = {name: name if layout == "of diffusers" else f"{layout}{_of_controlnet(name)}" for name in control}
    other = {"model.diffusion_model.out.2.weight": torch.zeros(2)} if layout == "control_model." else {}
    save_file({names[name]: tensor.to(dtype) for name, tensor in control.items()} | other, tmp_path / "a.safetensors")
    loaded, plain = (load_adapter("controlnet", path, tiny()) for path in (tmp_path / "a.safetensors", lines))
    if dtype == torch.float32:
        assert fingerprint(loaded) == fingerprint(plain)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    image = torch.rand(1, 3, 32, 32)
    latent, level, said = torch.randn(1, 4, 16, 16), tiny().level(0.5), tiny().describe(["a cat"])
    with torch.no_grad():
        ours, theirs = (
            with_controlnet(tiny(), one, image).predict(latent, level, said).noise for one in (loaded, plain)
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2 if dtype == torch.float16 else 0)


def test_the_configuration_beside_a_file_is_used(tiny: Tiny, tmp_path: Path) -> None:
    folder = save_adapter("t2i_adapter", tiny(), tmp_path)
    file = folder / "diffusion_pytorch_model.safetensors"
    loaded = load_adapter("t2i_adapter", file, tiny())
    assert fingerprint(loaded) == fingerprint(load_adapter("t2i_adapter", folder, tiny()))
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"single file, without the config\.json of a T2IAdapter") as caught:
        load_adapter("t2i_adapter", file, tiny())
    assert caught.value.field == "t2i_adapter"


def test_a_file_that_changed_is_loaded_again(tiny: Tiny, control: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = tmp_path / "lines.safetensors"
    save_file(control, file)
    first = adapter_of("controlnet", str(file), tiny())
    assert adapter_of("controlnet", str(file), tiny()) is first
    save_file(control | {"conv_in.bias": control["conv_in.bias"] + 1}, file)
    assert adapter_of("controlnet", str(file), tiny()) is not first


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {},
        lambda _: {"unet.to_q.lora_A.weight": torch.zeros(2)},
        lambda control: {name: tensor for name, tensor in control.items() if name != "time_embed.0.bias"},
        lambda control: {name: tensor for name, tensor in control.items() if name != "zero_convs.1.0.bias"},
        lambda control: control | {"input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)},
        lambda control: control | {"difference": torch.ones(1)},
    ],
    ids=["empty", "lora", "incomplete", "a zero", "another size", "differences"],
)
def test_a_file_that_is_no_controlnet_for_the_model_is_refused(
    tiny: Tiny, control: dict[str, torch.Tensor], tmp_path: Path, change: Change
) -> None:
    named = {_of_controlnet(name): tensor for name, tensor in control.items()}
    save_file(change(named), tmp_path / "lines.safetensors")
    with pytest.raises(MismatchError, match=r"lines\.safetensors is no ControlNetModel that fits 'tiny'") as caught:
        load_adapter("controlnet", tmp_path / "lines.safetensors", tiny())
    assert caught.value.field == "controlnet"
    assert len(caught.value.message) < 400 + len(str(tmp_path))


def test_a_controlnet_in_a_pickle_is_not_opened(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "lines.pth").write_bytes(b"anything")
    with pytest.raises(WeightsError, match=r"is no \.safetensors file"):
        load_adapter("controlnet", tmp_path / "lines.pth", tiny())
