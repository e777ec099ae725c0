import hashlib
import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import httpx2
import pytest
import torch
import transformers
from accelerate.hooks import CpuOffload, add_hook_to_module
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    SemanticStableDiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch.testing._internal.two_tensor import TwoTensor
from transformers import CLIPConfig, CLIPImageProcessor

from sketchguide import Sketch, generate, loading
from sketchguide.attention import SketchAttention
from sketchguide.backbones.tiny import (
    tiny_flux,
    tiny_stable_diffusion,
    tiny_stable_diffusion_3,
    tiny_stable_diffusion_xl,
)
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_sketch_attention
from sketchguide.classifiers import LatentClassifier, load_classifier
from sketchguide.errors import MismatchError, ModelNotFoundError, SketchguideError, UsageError, WeightsError
from sketchguide.fingerprints import fingerprint
from sketchguide.images import to_tensor
from sketchguide.loading import check_weights, choose_device, from_pipe, load_backbone, load_predictor
from sketchguide.lora import load_lora
from sketchguide.predictors import LatentPredictor
from sketchguide.shipped import EMBEDDED, find_features, find_part, shipped
from sketchguide.sketchers import Sketcher, SketcherConfig
from sketchguide.weights import parts_of
from support import Tiny, empty, pickled, truncated

CLASSIFIERS = ("classifier", "drawing-classifier")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny().pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def test_a_saved_pipeline_comes_back_as_it_was(tiny: Tiny, original: Path) -> None:
    loaded = load_backbone(original, device="cpu")
    assert loaded.name == str(original)
    assert fingerprint(loaded.network) == fingerprint(tiny().network)
    latent, level = torch.randn(1, 4, 16, 16), tiny().level(0.5)
    with torch.no_grad():
        ours, theirs = (b.predict(latent, level, b.describe(["a cat"])).clean for b in (tiny(), loaded))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # its kernels lie in memory another way


def test_a_dtype_can_be_chosen(original: Path) -> None:
    assert load_backbone(original, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_an_unknown_dtype_is_refused_by_name(original: Path) -> None:
    with pytest.raises(UsageError, match="dtype is 'int8'; it must be auto, float32, bfloat16 or float16"):
        load_backbone(original, device="cpu", dtype="int8")  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "no-such-model",
        "checkpoints/style.safetensors",
        "checkpoints/style.ckpt",
        "checkpoints/style.gguf",
        "../evil",
        "../../etc",
        "owner/../x",
        "owner/..",
        "a/b/c",
        "a b/c",
        "",
    ],
)
def test_unknown_names_are_refused_before_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*args: object, **settings: object) -> None:
        pytest.fail(f"asked the network for {args} {settings}")

    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", download)
    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", download)
    with pytest.raises(ModelNotFoundError) as caught:
        load_backbone(name)
    assert caught.value.field == "model"
    assert caught.value.hint


def test_a_hub_that_does_not_answer_is_told_from_one_that_has_no_such_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_: str) -> None:
        try:
            raise LocalEntryNotFoundError("cannot find the file in the cache")
        except LocalEntryNotFoundError as error:
            raise OSError("does not appear to have a file named model_index.json") from error

    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", download)
    with pytest.raises(ModelNotFoundError, match="the hub cannot be reached") as caught:
        load_backbone("owner/name")
    assert "network" in caught.value.hint


def test_whatever_the_network_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class ForbiddenError(Exception):  # as HTTP libraries have them, of no common kind
        pass

    def download(_: str) -> None:
        raise ForbiddenError("403 by the proxy")

    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", download)
    with pytest.raises(ModelNotFoundError, match=r"the hub gave none of that name: .*403 by the proxy"):
        load_backbone("owner/model-1.5")


def refusal(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    return kind("as it was answered", response=httpx2.Response(status, request=httpx2.Request("GET", "https://hub")))


FORBIDDEN, NOT_THERE = refusal(HfHubHTTPError, 403), refusal(RemoteEntryNotFoundError, 404)


@pytest.mark.parametrize(
    ("cause", "files", "error", "words"),
    [
        (FORBIDDEN, (), ModelNotFoundError, "the hub gave none of that name: cannot load owner/model-1.5"),
        (LocalEntryNotFoundError("no route"), (), ModelNotFoundError, "the hub cannot be reached"),
        (NOT_THERE, ("unet/weights.bin",), WeightsError, r"has only pickled weights \(.bin\) of its unet"),
        (NOT_THERE, ("safety_checker/weights.bin",), WeightsError, "does not load as a model of diffusers: cannot"),
        (ImportError("bitsandbytes"), (), WeightsError, "owner/model-1.5 does not load .*: cannot load owner"),
    ],
)
def test_of_a_model_that_the_hub_has_the_reason_is_told(
    cause: Exception, files: tuple[str, ...], error: type[SketchguideError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(source: str, **settings: object) -> None:
        asked.append(source)
        assert settings["use_safetensors"] is True
        assert not settings.get("trust_remote_code")
        raise OSError(f"cannot load {source}\nand much more") from cause

    index = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", loading.AUTOENCODER]}
    index |= {part: ["diffusers", "Any"] for part in ("text_encoder", "tokenizer", "safety_checker")}
    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", lambda _: index)
    channels = {"in_channels": 4, "out_channels": 4}, {"in_channels": 3, "out_channels": 3, "latent_channels": 4}
    configs = dict(zip(("unet", "vae"), channels, strict=True))
    monkeypatch.setattr(loading, "_config_of", lambda _, part, __: configs[part])
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda _: files)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", download)
    with pytest.raises(error, match=words) as caught:
        load_backbone("owner/model-1.5")
    assert asked == ["owner/model-1.5"]
    assert "much more" not in caught.value.message


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model_index\.json"):
        load_backbone(tmp_path)


def test_what_looks_for_indecency_stays_on_the_disk(tiny: Tiny, tmp_path: Path) -> None:
    sight = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(vision_config={**sight, "image_size": 8, "patch_size": 4}, projection_dim=8)
    parts = {"safety_checker": StableDiffusionSafetyChecker(config), "feature_extractor": CLIPImageProcessor()}
    StableDiffusionPipeline(**(tiny().pipeline.components | parts)).save_pretrained(tmp_path)
    assert (tmp_path / "safety_checker").is_dir()
    assert load_backbone(tmp_path).pipeline.safety_checker is None


@pytest.mark.parametrize("name", ["a" * 300, "a/b/" + "c" * 300])
def test_a_name_that_no_file_can_have_is_not_found(tiny: Tiny, name: str) -> None:
    for load in (load_backbone, lambda one: load_predictor(one, tiny()), lambda one: load_lora(one, tiny())):
        with pytest.raises(ModelNotFoundError):
            load(name)
    with pytest.raises(ModelNotFoundError):
        find_part(name, "sketcher", field="sketcher")


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("toaster", "cuda:99", "", "meta", "hpu"):
        with pytest.raises(UsageError) as caught:
            choose_device(name)
        assert caught.value.field == "device"


def test_pipelines_of_other_families_are_refused(tiny: Tiny) -> None:
    other = SimpleNamespace(components={"transformer": object(), "vae": object()})
    with_another_autoencoder = SimpleNamespace(components={**tiny().pipeline.components, "vae": AutoencoderTiny()})
    of_pictures = SimpleNamespace(components={**tiny().pipeline.components, "text_encoder": None})
    with pytest.raises(UsageError, match="with AutoencoderTiny for its vae is not supported"):
        from_pipe(with_another_autoencoder)
    with pytest.raises(UsageError, match="SimpleNamespace is not supported"):
        from_pipe(of_pictures)
    with pytest.raises(UsageError, match="not supported") as caught:
        from_pipe(other)
    assert caught.value.field == "model"


def test_what_would_not_be_heard_is_refused(tiny: Tiny) -> None:
    pipeline = tiny().pipeline
    network = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(16, 32))
    told = StableDiffusionControlNetPipeline(
        **{**pipeline.components, "controlnet": network}, requires_safety_checker=False
    )
    with pytest.raises(UsageError, match="controlnet") as caught:
        from_pipe(told)
    assert "with_controlnet" in caught.value.hint
    with pytest.raises(UsageError, match="not a str"):
        from_pipe("icons-64")
    with pytest.raises(UsageError, match="not the class StableDiffusionPipeline"):
        from_pipe(StableDiffusionPipeline)
    with pytest.raises(UsageError, match="has no scheduler"):
        from_pipe(StableDiffusionPipeline(**pipeline.components | {"scheduler": None}, requires_safety_checker=False))
    with pytest.raises(UsageError, match="A SemanticStableDiffusionPipeline has no encode_prompt of prompts alone"):
        from_pipe(made_of(SemanticStableDiffusionPipeline, pipeline))
    with pytest.raises(UsageError, match="A LEditsPPPipelineStableDiffusion has no encode_prompt of prompts alone"):
        from_pipe(made_of(diffusers.LEditsPPPipelineStableDiffusion, pipeline))


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (tiny_stable_diffusion, "StableDiffusionPipeline"),
        (tiny_stable_diffusion_xl, "StableDiffusionXLPipeline"),
        (tiny_stable_diffusion_3, "StableDiffusion3Pipeline"),
        (tiny_flux, "FluxPipeline"),
    ],
)
def test_the_plain_pipeline_of_the_family_is_named(make: Callable[[], Any], plain: str) -> None:
    parts = make().components
    told = SimpleNamespace(components=parts | {"controlnet": object()})
    with pytest.raises(UsageError, match="controlnet") as caught:
        from_pipe(told)
    assert f"such as {plain}.from_pipe(pipeline, dtype=pipeline.dtype)" in caught.value.hint
    next(part for name, part in parts.items() if name in ("unet", "transformer")).is_quantized = True
    with pytest.raises(UsageError, match="controlnet") as caught:
        from_pipe(told)
    assert f"such as {plain}(**parts)" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionPAGPipeline",
        "StableDiffusionXLPAGPipeline",
        "StableDiffusionAttendAndExcitePipeline",
        "StableDiffusionGLIGENPipeline",
        "StableDiffusionGLIGENTextImagePipeline",
        "StableDiffusionSAGPipeline",
        "TextToVideoZeroPipeline",
        "TextToVideoZeroSDXLPipeline",
    ],
)
def test_pipelines_that_guide_in_a_way_of_their_own_are_refused(tiny: Tiny, name: str) -> None:
    plain = tiny_stable_diffusion_xl() if "XL" in name else tiny().pipeline
    with pytest.raises(UsageError, match=f"A {name} guides in a way of its own") as caught:
        from_pipe(made_of(getattr(diffusers, name), plain))
    assert "plain pipeline" in caught.value.hint


def test_a_pipeline_that_is_refused_is_left_as_it_was() -> None:
    pipeline = tiny_stable_diffusion()
    compiled = torch.compile(pipeline.unet, backend="eager")
    pipeline.unet = compiled.train().requires_grad_(True)
    pipeline.vae.register_to_config(latents_mean=[0.0] * 4)
    with pytest.raises(UsageError, match="latents_mean"):
        from_pipe(pipeline)
    assert pipeline.unet is compiled
    assert pipeline.unet.training
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert all(p.requires_grad for p in part.parameters())
    for part in (pipeline.unet, pipeline.vae.encoder):
        assert not part.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def made_of(kind: Any, pipeline: Any) -> Any:
    """A pipeline of another class with the same parts, as far as both have them."""
    parts = {**pipeline.components, "requires_safety_checker": False}
    asked = inspect.signature(kind).parameters.values()
    return kind(**{one.name: parts.get(one.name) for one in asked if one.name in parts or one.default is one.empty})


def test_a_compiled_network_is_taken_as_it_was() -> None:
    pipeline = tiny_stable_diffusion()
    parts = {"unet": pipeline.unet, "vae": pipeline.vae}
    for part, plain in parts.items():
        setattr(pipeline, part, torch.compile(plain, backend="eager"))
    from_pipe(pipeline)
    for part, plain in parts.items():
        assert getattr(pipeline, part) is plain


def test_a_network_that_was_compiled_in_its_place_is_taken_as_it_was() -> None:
    pipeline = tiny_stable_diffusion()
    pipeline.unet.compile(backend="eager")
    pipeline.unet.mid_block.compile(backend="eager")
    pipeline.vae.decoder.compile(backend="eager")
    backbone = from_pipe(pipeline)
    assert all(m._compiled_call_impl is None for part in (pipeline.unet, pipeline.vae) for m in part.modules())
    assert {"mid_block", "up_blocks.1"} <= {tap.path for tap in backbone.taps}


def test_a_network_that_was_compiled_before_it_was_offloaded_is_refused() -> None:
    pipeline = tiny_stable_diffusion()
    plain = pipeline.unet
    pipeline.unet = torch.compile(plain, backend="eager")
    add_hook_to_module(pipeline.unet, CpuOffload("cpu"))
    with pytest.raises(UsageError, match="unet was compiled before it was offloaded"):
        from_pipe(pipeline)
    pipeline = tiny_stable_diffusion()
    add_hook_to_module(pipeline.unet, CpuOffload("cpu"))
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    from_pipe(pipeline)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"in_channels": 9}, "takes 9 channels where its autoencoder makes 4"),
        ({"encoder_hid_dim": 4096}, r"told more than a prompt \(encoder_hid_proj\)"),  # Kolors
        ({"class_embed_type": "projection"}, r"told more than a prompt \(class_embedding\)"),  # Stable unCLIP
        ({"num_class_embeds": 1000}, r"told more than a prompt \(class_embedding\)"),
        ({"addition_embed_type": "image"}, r"told more than a prompt \(addition_embed_type image\)"),
    ],
)
def test_variants_are_refused_before_any_weights_are_read(
    config: dict[str, Any], words: str, tmp_path: Path, tiny: Tiny
) -> None:
    tiny().pipeline.save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    file = tmp_path / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    with pytest.raises(UsageError, match=words):
        load_backbone(tmp_path)


def test_quantised_weights_are_looked_at_by_what_they_are_made_of() -> None:
    values = torch.ones(2, 3)
    parts = dict(parts_of("weight", torch.nn.Parameter(TwoTensor(values, values / 0), requires_grad=False)))
    assert {name: loading._is_finite(part) for name, part in parts.items()} == {"weight.a": True, "weight.b": False}
    assert loading._is_finite(values.to(torch.float8_e4m3fn))
    assert loading._is_finite(values.to(torch.int8))


def test_folders_of_other_families_are_refused_before_any_weights_are_read(tmp_path: Path, tiny: Tiny) -> None:
    tiny().pipeline.save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    index = json.loads((tmp_path / "model_index.json").read_text())
    for change in (
        {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
        {"_class_name": "StableDiffusionPipeline", "text_encoder": [None, None]},
    ):
        (tmp_path / "model_index.json").write_text(json.dumps(index | change))
        with pytest.raises(UsageError, match=f"{change['_class_name']} is not supported yet"):
            load_backbone(tmp_path)
    for part, kind in (("vae", "AutoencoderTiny"), ("transformer", "SanaTransformer2DModel")):
        (tmp_path / "model_index.json").write_text(json.dumps(index | {part: ["diffusers", kind]}))
        with pytest.raises(UsageError, match=f"with {kind} for its {part} is not supported yet"):
            load_backbone(tmp_path)


def test_any_loaded_pipeline_is_a_backbone(tiny: Tiny) -> None:
    backbone = from_pipe(tiny().pipeline, name="mine")
    assert isinstance(backbone, UNetBackbone)
    assert (backbone.name, backbone.network) == ("mine", tiny().network)


def test_a_pipeline_loaded_by_diffusers_draws_what_it_does_when_loaded_by_its_name(original: Path) -> None:
    settings: dict[str, Any] = {"seed": 1, "steps": 2, "count": 2, "size": (64, 64)}
    ours = generate("a cat", backbone=load_backbone(original, device="cpu"), **settings)
    theirs = generate("a cat", backbone=from_pipe(StableDiffusionPipeline.from_pretrained(original)), **settings)
    for one, other in zip(ours, theirs, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.recipe == other.recipe  # the folder's name, as text, too


# ----------------------------------------------------------------------------------------------------- damaged files


def not_finite(file: Path) -> None:
    tensors = load_file(file)
    tensors["mid_block.resnets.0.conv1.weight"].flatten()[5] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


def incomplete(file: Path) -> None:
    tensors = load_file(file)
    del tensors["mid_block.resnets.0.conv1.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def misshapen(file: Path) -> None:
    tensors = load_file(file)
    tensors["mid_block.resnets.0.conv1.weight"] = torch.zeros(3, 3)
    save_file(tensors, file, metadata={"format": "pt"})


def only_a_pickle(file: Path) -> None:
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def test_a_folder_with_half_precision_alone_is_loaded(tmp_path: Path) -> None:
    tiny_stable_diffusion().to(dtype=torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert load_backbone(tmp_path).dtype == torch.float32
    assert generate("a cat", backbone=load_backbone(tmp_path), steps=1, size=(64, 64), seed=1)


FULL, HALF = "unet/model.safetensors", "unet/model.fp16.safetensors"
DIFFUSERS = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("kept", "on_hub", "dtype", "variant"),
    [
        ((), (FULL, HALF), torch.bfloat16, "fp16"),
        ((), (FULL, HALF), torch.float32, None),
        ((), (HALF,), torch.float32, "fp16"),
        ((), (FULL, "vae/model.fp16.safetensors", "unet/model.fp16.bin"), torch.float16, None),
        ((), (FULL, HALF, f"vae/{DIFFUSERS}.safetensors", f"vae/{DIFFUSERS}.fp16.bin"), torch.float16, None),
        ((), (FULL, HALF, *(f"vae/{DIFFUSERS}.fp16.{end}" for end in ("bin", "safetensors"))), torch.float16, "fp16"),
        (
            (),
            (FULL, HALF, "text_encoder/pytorch_model.fp16.bin", "text_encoder/model.fp16.safetensors"),
            torch.float16,
            "fp16",
        ),
        ((), (), torch.float16, None),
        ((FULL,), (FULL, HALF), torch.float16, None),
        ((HALF,), (FULL, HALF), torch.float32, "fp16"),
        ((HALF, "unet/other.safetensors"), (), torch.float32, "fp16"),
        ((), ("model.safetensors", HALF), torch.float32, "fp16"),
    ],
)
def test_of_the_hub_the_smaller_weights_are_fetched_where_they_do(
    kept: tuple[str, ...],
    on_hub: tuple[str, ...],
    dtype: torch.dtype,
    variant: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "unet" / "config.json").touch()
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("0123")
    for file in kept:
        (snapshot / file).touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda _: on_hub)
    assert loading.variant_of("owner/name", "unet", dtype) == variant


def test_a_hub_that_does_not_list_its_files_is_asked_for_whole_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.list_repo_files", unreachable)
    assert loading.variant_of("owner/name", "unet", torch.float16) is None


@pytest.mark.parametrize("damage", [truncated, pickled, empty, not_finite, incomplete, misshapen, only_a_pickle])
def test_damaged_weights_are_refused_by_name(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / UNET)
    with pytest.raises(WeightsError) as caught:
        load_backbone(folder, device="cpu")
    assert caught.value.field == "model"
    assert str(folder) in caught.value.message
    if damage is only_a_pickle:
        assert "only pickled weights (.bin) of its unet" in caught.value.message
    if damage in (truncated, pickled, empty):
        assert UNET in caught.value.message
        assert f"{(folder / UNET).stat().st_size} bytes" in caught.value.message


def test_a_text_encoder_without_some_of_its_weights_is_refused(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    lost = sorted(name for name in tensors if name.endswith("fc1.weight"))
    save_file({name: t for name, t in tensors.items() if name not in lost}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"text_encoder .* {len(lost)} are missing.*fc1\.weight"):
        load_backbone(folder, device="cpu")


@pytest.mark.parametrize("kind", ["NoSuchPipeline", None])
def test_a_pipeline_of_an_unknown_class_is_refused(folder: Path, kind: str | None) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index.pop("_class_name")
    (folder / "model_index.json").write_text(json.dumps(index if kind is None else index | {"_class_name": kind}))
    with pytest.raises(WeightsError, match="does not load"):
        load_backbone(folder, device="cpu")


def test_an_index_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")
    with pytest.raises(WeightsError, match="does not load"):
        load_backbone(folder, device="cpu")


def test_code_beside_the_weights_is_not_run(folder: Path) -> None:
    proof = folder.parent / "proof"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Evil: pass\n")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["evil", "Evil"]}))
    with pytest.raises((WeightsError, UsageError)):
        load_backbone(folder, device="cpu")
    assert not proof.exists()


def test_sound_weights_pass(original: Path) -> None:
    check_weights(original)


# ----------------------------------------------------------------------------------------------------------- shipped


@pytest.fixture
def embedded(predictor: LatentPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships one predictor for the tiny model."""
    home = tmp_path / "models"
    file = predictor.save_pretrained(home / "tiny-edges")
    list_files(home)
    monkeypatch.setattr("sketchguide.shipped.EMBEDDED", home)
    return file


def list_files(home: Path) -> None:
    """Write the manifest of the weight files that are there."""
    entries: dict[str, Any] = {}
    for file in home.rglob("*.safetensors"):
        data = file.read_bytes()
        entries[str(file.relative_to(home))] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (home / "manifest.json").write_text(json.dumps(entries))


def test_a_shipped_predictor_belongs_to_its_model(tiny: Tiny, embedded: Path, predictor: LatentPredictor) -> None:
    (one,) = shipped()
    assert (one.name, one.kind, one.size) == ("tiny-edges", "predictor", embedded.stat().st_size)
    for name in (None, "tiny-edges"):
        assert fingerprint(load_predictor(name, tiny())) == fingerprint(predictor)


@pytest.mark.parametrize("kind", ["model", "predictor", "parts"])
def test_a_flipped_bit_in_a_shipped_file_is_noticed(tiny: Tiny, embedded: Path, original: Path, kind: str) -> None:
    home = embedded.parents[1]
    shutil.copytree(original, home / "tiny")
    Sketcher(SketcherConfig(width=8, blocks=1)).save(home / "tiny-parts" / "sketcher.safetensors")
    (home / "tiny-parts" / "sketcher-report.json").write_text("{}")
    list_files(home)
    file, load = {
        "model": (home / "tiny" / UNET, lambda: load_backbone("tiny", device="cpu")),
        "predictor": (embedded, lambda: load_predictor(None, tiny())),
        "parts": (home / "tiny-parts" / "sketcher.safetensors", lambda: find_part(None, "sketcher", field="sketcher")),
    }[kind]
    data = bytearray(file.read_bytes())
    data[-7] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="sha256") as caught:
        load()
    assert caught.value.field == kind
    list_files(home)
    load()  # the format does not notice


@pytest.mark.parametrize("cut", [10, 10**9], ids=["truncated", "empty"])
def test_a_shipped_file_cut_short_is_noticed(tiny: Tiny, embedded: Path, cut: int) -> None:
    data = embedded.read_bytes()
    embedded.write_bytes(data[:-cut])
    with pytest.raises(WeightsError, match=f"{len(data)} with sha256") as caught:
        load_predictor("tiny-edges", tiny())
    assert f"{len(data[:-cut])} bytes" in caught.value.message


def test_a_model_without_a_predictor_says_how_to_get_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sketchguide.shipped.EMBEDDED", Path("/nowhere"))
    assert shipped() == []
    with pytest.raises(UsageError, match="'tiny' has no predictor") as caught:
        load_predictor(None, tiny())
    assert "train" in caught.value.hint


def test_a_predictor_of_another_model_is_refused_naming_both(
    tiny: Tiny, predictor: LatentPredictor, tmp_path: Path
) -> None:
    config = replace(predictor.config, backbone="stable-diffusion", channels=(320, *predictor.config.channels[1:]))
    LatentPredictor(config).save_pretrained(tmp_path)
    with pytest.raises(MismatchError, match=r"'stable-diffusion'.*'tiny'") as caught:
        load_predictor(tmp_path, tiny())
    assert "down_blocks.0.attentions.1 (320 channels here, 16 there)" in caught.value.message


def test_what_the_package_ships_is_sound() -> None:
    if not shipped():
        pytest.skip("no model is shipped yet")
    for one in shipped():
        one.verify()
        manifest = json.loads((EMBEDDED / "manifest.json").read_text())
        files = {str(f.relative_to(EMBEDDED)) for f in one.folder.rglob("*.safetensors")}
        assert files
        assert files <= set(manifest)
        assert not [f for f in one.folder.rglob("*") if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]


def test_the_shipped_parts_are_found_and_work() -> None:
    sketcher = Sketcher.load(find_part(None, "sketcher", field="sketcher"))
    square = torch.full((1, 3, 64, 64), 1.0)
    square[..., 16:48, 16:48] = -0.6
    drawn = sketcher(square)[0, 0]
    outline = torch.zeros(64, 64, dtype=torch.bool)
    outline[14:50, 14:50] = True
    outline[19:45, 19:45] = False
    assert drawn[outline].sum() > 80, "the outline of the square is drawn"
    assert drawn[~outline].mean() < 0.02, "and nothing else"
    with pytest.raises(ModelNotFoundError, match="No toaster comes with this version"):
        find_part(None, "toaster", field="part")
    with pytest.raises(ModelNotFoundError, match="No toaster at 'icons-64-parts'"):
        find_part("icons-64-parts", "toaster", field="part")
    assert find_part(Path("icons-64-parts"), "sketcher", field="sketcher") == find_part(
        None, "sketcher", field="sketcher"
    )


@pytest.mark.parametrize("shown", [True, False])
def test_the_shipped_model_loads_without_the_bars_of_libraries(
    shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        monkeypatch.setattr(library, "_tqdm_active", shown)
    load_backbone("icons-64", device="cpu")
    assert capsys.readouterr().err == ""
    assert [library.is_progress_bar_enabled() for library in libraries] == [shown, shown]


def test_every_shipped_part_fits_the_shipped_model() -> None:
    backbone = load_backbone("icons-64", device="cpu")
    name = "icons-64-parts"
    noisy = LatentClassifier.load(find_part(name, "latent-classifier", field="classifier"))
    noisy.check_fits(backbone)
    seeing, reading = (load_classifier(Path(find_features(name, p, field="features"))) for p in CLASSIFIERS)
    assert noisy.config.classes == seeing.classes
    assert set(seeing.classes) <= set(reading.classes)
    told = with_sketch_attention(
        backbone,
        SketchAttention.load(find_part(name, "sketch-attention", field="attention")),
        torch.zeros(1, 1, 64, 64),
    )
    assert told.name == backbone.name


def test_the_larger_model_draws_as_the_smaller_one_and_follows_with_its_parts(
    recwarn: pytest.WarningsRecorder,
) -> None:
    drawing = Sketch.open(Path(__file__).parents[1] / "examples" / "sketches" / "apple.svg")
    pictures: list[torch.Tensor] = []
    for name, side in (("icons-64", 64), ("icons-128", 128)):
        backbone = load_backbone(name, device="cpu")
        (picture,) = generate("a red apple", backbone=backbone, seed=7)
        assert picture.image.size == (side, side)
        pictures.append(to_tensor([picture.image], size=(64, 64)))
    assert (pictures[1] - pictures[0]).abs().mean() < 0.04
    settings = {"attention": "icons-64-parts", "class_name": "apple", "tries": 2, "sketch_loss": 0.5}
    (followed,) = generate("a red apple", sketch=drawing, backbone=backbone, seed=7, steps=8, **settings)
    assert set(followed.recipe.made_with) >= {"predictor", "attention", "classifier", "recogniser", "sketcher"}
    assert not recwarn


@pytest.mark.parametrize("thing", ["apple", "fish"])
def test_the_shipped_classifiers_know_what_the_model_makes(thing: str) -> None:
    """Not on every picture: the right class is among the first ten of 781."""
    backbone = load_backbone("icons-64", device="cpu")
    (picture,) = generate(f"a {thing}", backbone=backbone, seed=3)
    image = to_tensor([picture.image])
    classifier = load_classifier(find_part(None, "classifier", field="features"))
    noisy = LatentClassifier.load(find_part(None, "latent-classifier", field="classifier"))
    with torch.no_grad():
        for scores in (classifier(image), noisy(backbone.encode(image), backbone.level(0.95))):
            first = scores[0].topk(10).indices.tolist()
            assert thing in [classifier.classes[i] for i in first]
