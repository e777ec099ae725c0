import inspect
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    SemanticStableDiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch.testing._internal.two_tensor import TwoTensor
from transformers import CLIPConfig, CLIPImageProcessor

from sketchguide import generate, loading
from sketchguide.attention import SketchAttention, describe_attention
from sketchguide.backbones.tiny import tiny_stable_diffusion, tiny_stable_diffusion_xl
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.backbones.wrapped import with_sketch_attention
from sketchguide.classifiers import LatentClassifier, load_classifier
from sketchguide.errors import MismatchError, ModelNotFoundError, UsageError, WeightsError
from sketchguide.images import to_tensor
from sketchguide.loading import (
    check_weights,
    choose_device,
    find_features,
    find_part,
    fingerprint,
    fingerprint_of_model,
    from_pipe,
    load_backbone,
    load_lora,
    load_predictor,
    shipped,
    unload_lora,
    wearing,
)
from sketchguide.predictors import LatentPredictor
from sketchguide.sketchers import Sketcher
from sketchguide.translation import translate
from support import Tiny

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
    "name", ["no-such-model", "../evil", "../../etc", "owner/../x", "owner/..", "a/b/c", "a b/c", ""]
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


def test_a_hub_that_does_not_answer_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(source: str, **settings: object) -> None:
        assert settings["use_safetensors"] is True
        assert not settings.get("trust_remote_code")
        raise OSError(f"cannot reach the host for {source}\nand much more")

    index = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", loading.AUTOENCODER]}
    index |= {part: ["diffusers", "Any"] for part in ("text_encoder", "tokenizer")}
    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", lambda _: index)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", download)
    with pytest.raises(ModelNotFoundError, match=r"'owner/model-1\.5'") as caught:
        load_backbone("owner/model-1.5")
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
    for load in (load_backbone, lambda one: load_predictor(one, tiny()), lambda one: load_lora(tiny(), one)):
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
    with pytest.raises(UsageError, match="A SemanticStableDiffusionPipeline has no encode_prompt"):
        from_pipe(made_of(SemanticStableDiffusionPipeline, pipeline))


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


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps({"weight": [1.0]}))


def empty(file: Path) -> None:
    file.write_bytes(b"")


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


@pytest.mark.parametrize("damage", [truncated, pickled, empty, not_finite, incomplete, misshapen, only_a_pickle])
def test_damaged_weights_are_refused_by_name(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / UNET)
    with pytest.raises(WeightsError) as caught:
        load_backbone(folder, device="cpu")
    assert caught.value.field == "model"
    assert str(folder) in caught.value.message
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
    import hashlib

    home = tmp_path / "models"
    file = predictor.save_pretrained(home / "tiny-edges")
    data = file.read_bytes()
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (home / "manifest.json").write_text(json.dumps({"tiny-edges/predictor.safetensors": entry}))
    monkeypatch.setattr(loading, "EMBEDDED", home)
    return file


def test_a_shipped_predictor_belongs_to_its_model(tiny: Tiny, embedded: Path, predictor: LatentPredictor) -> None:
    (one,) = shipped()
    assert (one.name, one.kind, one.size) == ("tiny-edges", "predictor", embedded.stat().st_size)
    for name in (None, "tiny-edges"):
        assert fingerprint(load_predictor(name, tiny())) == fingerprint(predictor)


def test_a_flipped_bit_in_a_shipped_file_is_noticed(tiny: Tiny, embedded: Path) -> None:
    data = bytearray(embedded.read_bytes())
    data[-7] ^= 0x10
    embedded.write_bytes(data)
    LatentPredictor.from_pretrained(embedded)  # the format does not notice
    with pytest.raises(WeightsError, match="sha256"):
        load_predictor(None, tiny())


@pytest.mark.parametrize("cut", [10, 10**9], ids=["truncated", "empty"])
def test_a_shipped_file_cut_short_is_noticed(tiny: Tiny, embedded: Path, cut: int) -> None:
    data = embedded.read_bytes()
    embedded.write_bytes(data[:-cut])
    with pytest.raises(WeightsError, match=f"{len(data)} with sha256") as caught:
        load_predictor("tiny-edges", tiny())
    assert f"{len(data[:-cut])} bytes" in caught.value.message


def test_a_model_without_a_predictor_says_how_to_get_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "EMBEDDED", Path("/nowhere"))
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
        manifest = json.loads((loading.EMBEDDED / "manifest.json").read_text())
        files = {str(f.relative_to(loading.EMBEDDED)) for f in one.folder.rglob("*.safetensors")}
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


def test_fingerprints_follow_the_weights(predictor: LatentPredictor) -> None:
    other = LatentPredictor(predictor.config)
    assert fingerprint(other) != fingerprint(predictor)
    other.load_state_dict(predictor.state_dict())
    assert fingerprint(other) == fingerprint(predictor)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.01)
    assert fingerprint(other) != fingerprint(predictor)


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
    pipeline: Any = tiny_stable_diffusion()
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


# -------------------------------------------------------------------------------------------------------------- LoRAs


def lora_of(part: str, file: Path, *layers: str) -> Path:
    """A file with random layers for one network of a tiny model."""
    network = getattr(tiny_stable_diffusion(), part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        inject_adapter_in_model(LoraConfig(r=2, init_lora_weights=False, target_modules=list(layers)), network)
    tensors = get_peft_model_state_dict(network, adapter_name="default")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{part}.{name}": tensor for name, tensor in tensors.items()}, file)
    return file


@pytest.fixture
def styled(monkeypatch: pytest.MonkeyPatch) -> UNetBackbone:
    """A backbone with two LoRAs of the user, of which one acts, at 0.6."""
    # transformers asks for a newer peft than there may be, without needing it for what is tested here
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.18")
    pipeline: Any = tiny_stable_diffusion()
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
    load_lora(styled, file, scale=0.5)
    assert not torch.allclose(seen_by(styled), seen, atol=1e-5)
    assert not [name for name, value in state_of(styled).items() if value is True]  # nothing is trained
    for name, layer in styled.network.named_modules():
        if "style" in getattr(layer, "scaling", {}):
            assert layer.scaling["style"] == 0.6, name
            assert set(layer.active_adapters) == {"style", loading.LORA}
    unload_lora(styled)
    assert state_of(styled) == before
    assert fingerprint_of_model(styled) == printed
    assert torch.equal(seen_by(styled), seen)
    unload_lora(styled)  # changes nothing
    assert state_of(styled) == before


def test_the_scale_of_a_lora_is_its_own(styled: UNetBackbone, tmp_path: Path) -> None:
    file = lora_of("unet", tmp_path / "lora.safetensors", "to_q")
    seen = seen_by(styled)
    load_lora(styled, file, scale=0.0)
    assert torch.allclose(seen_by(styled), seen, atol=1e-6)


def test_the_fingerprint_of_a_model_follows_how_much_of_a_lora_is_on(styled: UNetBackbone, tmp_path: Path) -> None:
    file = lora_of("unet", tmp_path / "lora.safetensors", "to_q")
    printed = [fingerprint_of_model(load_lora(styled, file, scale=scale)) for scale in (0.3, 1.0, 0.3)]
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
            load_lora(styled, tmp_path / f"{file}.safetensors")
        assert caught.value.field == "lora"
        assert state_of(styled) == before


def test_a_lora_for_one_request_gives_way_to_the_one_before(styled: UNetBackbone, tmp_path: Path) -> None:
    mine = lora_of("unet", tmp_path / "mine.safetensors", "to_q", "to_v")
    other = lora_of("unet", tmp_path / "other.safetensors", "to_k")
    save_file({"lora.of.another.kind": torch.zeros(2)}, tmp_path / "bad.safetensors")
    settings: dict[str, Any] = {"seed": 1, "steps": 1, "size": (64, 64)}
    (alone,) = generate("a cat", backbone=styled, lora=str(other), **settings)
    load_lora(styled, mine, scale=0.5)
    before, printed = state_of(styled), fingerprint_of_model(styled)
    (beside,) = generate("a cat", backbone=styled, lora=str(other), **settings)
    assert beside.made_with == alone.made_with
    assert (state_of(styled), fingerprint_of_model(styled)) == (before, printed)
    with pytest.raises(MismatchError):
        generate("a cat", backbone=styled, lora=str(tmp_path / "bad.safetensors"), **settings)
    assert (state_of(styled), fingerprint_of_model(styled)) == (before, printed)


@pytest.mark.parametrize("way", ["unload_lora", "unload_lora_weights"])
def test_a_lora_that_was_taken_off_elsewhere_does_not_come_back(styled: UNetBackbone, tmp_path: Path, way: str) -> None:
    mine = lora_of("unet", tmp_path / "mine.safetensors", "to_q", "to_v")
    other = lora_of("unet", tmp_path / "other.safetensors", "to_k")
    load_lora(styled, mine)
    if way == "unload_lora":
        unload_lora(UNetBackbone(styled.pipeline))
    else:
        styled.pipeline.unload_lora_weights()
    before = state_of(styled)
    with wearing(styled, other, scale=1.0):
        assert state_of(styled) != before
    assert state_of(styled) == before
    save_file({"lora.of.another.kind": torch.zeros(2)}, tmp_path / "bad.safetensors")
    with pytest.raises(MismatchError):
        load_lora(styled, tmp_path / "bad.safetensors")
    assert state_of(styled) == before


def test_a_lora_that_another_backbone_loaded_comes_back(styled: UNetBackbone, tmp_path: Path) -> None:
    files = [lora_of("unet", tmp_path / f"{layer}.safetensors", layer) for layer in ("to_q", "to_k", "to_v")]
    load_lora(styled, files[0])
    load_lora(UNetBackbone(styled.pipeline), files[1])
    before = state_of(styled)
    with wearing(styled, files[2], scale=1.0):
        assert state_of(styled) != before
    assert state_of(styled) == before


def test_the_dropout_of_a_lora_that_was_loaded_later_drops_nothing() -> None:
    backbone = UNetBackbone(tiny_stable_diffusion())
    config = LoraConfig(r=2, lora_dropout=0.5, init_lora_weights=False, target_modules=["to_q"])
    inject_adapter_in_model(config, backbone.network)
    assert torch.equal(seen_by(backbone), seen_by(backbone))


@pytest.mark.parametrize("way", ["fuse_lora", "disable_lora"])
def test_a_lora_beside_others_that_would_hold_it_back_is_refused(
    styled: UNetBackbone, tmp_path: Path, way: str
) -> None:
    getattr(styled.pipeline, way)()
    with pytest.raises(UsageError, match="are fused or switched off") as caught:
        load_lora(styled, lora_of("unet", tmp_path / "lora.safetensors", "to_q"))
    assert "enable_lora" in caught.value.hint


def test_a_lora_comes_from_the_hub_by_its_usual_name(
    styled: UNetBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(lora_of("unet", tmp_path / "blob", "to_q"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    seen = seen_by(styled)
    load_lora(styled, "someone/style")
    assert asked == [("someone/style", loading.LORA_FILE)]
    assert not torch.allclose(seen_by(styled), seen, atol=1e-5)


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
        load_lora(styled, "runs/tuned")
    assert (caught.value.field, loading.LORA_FILE in caught.value.hint) == ("lora", True)


@pytest.mark.parametrize("damage", [pickled, truncated, empty], ids=lambda damage: damage.__name__)
def test_a_damaged_lora_is_refused_wherever_it_comes_from(
    styled: UNetBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    file = lora_of("unet", tmp_path / "lora" / loading.LORA_FILE, "to_q")
    damage(file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(file))
    for name in (file, file.parent, "someone/style"):
        with pytest.raises(WeightsError) as caught:
            load_lora(styled, name)
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
        load_lora(styled, "someone/style")
