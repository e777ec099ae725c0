"""From a name to a model: what the package ships, a local folder, or a hub id."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from torch import nn

from sketchguide.backbones.base import Backbone
from sketchguide.backbones.pipeline import is_quantized, uncompiled
from sketchguide.backbones.transformer import FluxBackbone, TransformerBackbone
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.defaults import MODEL, DType, find_dtype
from sketchguide.errors import ModelNotFoundError, SketchguideError, UsageError, WeightsError, reason_of
from sketchguide.files import is_dir, is_file
from sketchguide.predictors import LatentPredictor
from sketchguide.shipped import has_predictor, own_predictor, shipped
from sketchguide.single_file import description_of_file, pipeline_of_file
from sketchguide.weights import WEIGHTS, is_hub_id, opened, parts_of

FAMILIES = {family.network_class: family for family in (UNetBackbone, TransformerBackbone, FluxBackbone)}
AUTOENCODER = "AutoencoderKL"
_ENDS = (".bin", ".safetensors")  # of files of weights: pickled, and not
_WEIGHTS = re.compile(r"(diffusion_pytorch_)?model\b.*\.safetensors$")  # as diffusers and transformers call them
_PLAIN = {"SD3Transformer2DModel": "StableDiffusion3Pipeline", "FluxTransformer2DModel": "FluxPipeline"}
_GUIDING = (  # classes of diffusers
    "PAGMixin",
    "StableDiffusionAttendAndExcitePipeline",
    "StableDiffusionGLIGENPipeline",
    "StableDiffusionGLIGENTextImagePipeline",
    "StableDiffusionSAGPipeline",
    "TextToVideoZeroPipeline",
    "TextToVideoZeroSDXLPipeline",
)


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a pipeline of a family that is supported, with weights of its network."""
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
        kinds = _kinds_of(index)
    except (OSError, ValueError, AttributeError, IndexError):
        return False
    return _family_of(kinds) is not None and any((folder / _network_of(kinds)).glob("*.safetensors"))


def _kinds_of(index: Mapping[str, Any]) -> dict[str, str]:
    """The classes of the parts that a model_index.json names."""
    return {part: entry[1] for part, entry in index.items() if isinstance(entry, list) and entry[0]}


@dataclass(frozen=True)
class Found:
    """A model that is there, before any of its weights are read or even fetched."""

    source: str | Path  # a folder, a checkpoint of one file, or a hub id
    described: str | Path  # where the configurations of its parts are: `source`, or for a checkpoint a folder
    index: Mapping[str, Any]  # its model_index.json
    kinds: Mapping[str, str]  # the class of each part


def load_backbone(name: str | Path = MODEL, *, device: str = "auto", dtype: DType = "auto") -> Backbone:
    """Load a model the package ships (`icons-128`), a diffusers folder, a checkpoint of one file, or a hub id
    (`owner/name`).

    `device` is "auto" (CUDA, else Apple's MPS, else the CPU) or any torch device; `dtype` "auto" is float32 on the CPU
    and bfloat16 elsewhere. Only safetensors weights are read and no remote code is run. What a checkpoint of one file
    leaves out, its configuration and tokenizers, is that of the hub's model of its kind.

    Raises ModelNotFoundError, WeightsError (truncated, changed, pickled or not finite), UsageError (no such device or
    dtype, or a pipeline of a family that is not supported).
    """
    find_dtype(dtype)
    where = choose_device(device)
    chosen = (torch.float32 if where.type == "cpu" else torch.bfloat16) if dtype == "auto" else getattr(torch, dtype)
    found = find_model(name)
    source = found.source
    if isinstance(source, Path):
        check_weights(source)
    is_embedded = any(one.folder == source for one in shipped())
    with told_of(name, source, found.kinds), _without_bars() if is_embedded else nullcontext():
        pipeline = _pipeline_of(found, chosen)
    pipeline.set_progress_bar_config(disable=True)
    for part, module in pipeline.components.items():
        if not isinstance(module, nn.Module):
            continue
        if missing := [name for name, parameter in module.named_parameters() if parameter.is_meta]:
            raise _incomplete(part, source, missing)
        if not all(_is_finite(part) for named in module.named_parameters() for _, part in parts_of(*named)):
            raise WeightsError(
                f"The weights of {part} in {source} are not finite.", hint="Get them again.", field="model"
            )
    return from_pipe(pipeline.to(where), name=str(name))


def _pipeline_of(found: Found, dtype: torch.dtype) -> Any:
    """The pipeline itself, on the CPU, without what looks for indecency."""
    import diffusers

    spared: dict[str, Any] = {part: None for part, entry in found.index.items() if entry == [None, None]}
    if "safety_checker" in found.kinds:
        spared |= {"safety_checker": None, "requires_safety_checker": False}
    if found.described != found.source:
        kind = str(found.index["_class_name"])
        return pipeline_of_file(Path(found.source), Path(found.described), kind=kind, dtype=dtype, **spared)
    return diffusers.DiffusionPipeline.from_pretrained(
        found.source,
        dtype=dtype,
        use_safetensors=True,
        variant=variant_of(found.source, _network_of(found.kinds), dtype),
        **_text_encoders(found.source, found.index, dtype),
        **spared,
    )


def find_model(name: str | Path) -> Found:
    """The model called `name`, before any weights are read or even fetched.

    Raises as `load_backbone` for a model that is not there or not supported.
    """
    from diffusers import DiffusionPipeline

    source = _source(name)
    described = source
    if isinstance(source, Path) and is_file(source):
        described = description_of_file(source)
    with told_of(name, source):
        index: Any = DiffusionPipeline.load_config(described)
        kinds = _kinds_of(index)
    family, network = _family_of(kinds), _network_of(kinds)
    if family is None:
        raise _unsupported(str(index.get("_class_name", name)), kinds)
    with told_of(name, source, kinds):
        taken, made = (_config_of(described, part, kinds[part]) for part in (network, "vae"))
    family.check_told(str(name), taken)
    with suppress(KeyError):  # where defaults are left out what is loaded has them
        family.check_channels(str(name), taken, made)
    return Found(source, described, index, kinds)


@contextmanager
def told_of(
    name: str | Path, source: str | Path, parts: Collection[str] = (), *, kind: str = "model", field: str = "model"
) -> Generator[None]:
    """Within the block errors of the libraries about the model `name`, which is at `source`, are told as ours; `parts`
    are what it consists of, where that was found already: "" alone of what has none.
    """
    try:
        yield
    except (SketchguideError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # not only their own: those of the hub's HTTP library come through
        reason = reason_of(error)
        at_hand = "; `sketchguide models` lists what is at hand" if kind == "model" else ""
        if not isinstance(source, Path) and _came_of(error, LocalEntryNotFoundError):  # it does not answer
            raise ModelNotFoundError(
                f"No {kind} {str(name)!r} here, and the hub cannot be reached to look for it there.",
                hint=f"Check the network{at_hand}.",
                field=field,
            ) from error
        if parts and (pickled := _pickled(source, parts)):
            of = f" of its {pickled[0]}" if pickled[0] else ""
            raise WeightsError(
                f"{source} has only pickled weights (.bin){of}, which could run code and are not read.",
                hint=f"Take a {kind} that has .safetensors.",
                field=field,
            ) from error
        if isinstance(source, Path):
            raise WeightsError(
                f"{source} does not load as a {kind} of diffusers: {reason}",
                hint="Get it again; what has another layout, load in Python and save it by save_pretrained.",
                field=field,
            ) from error
        refused = _came_of(error, HfHubHTTPError) and not _came_of(error, RemoteEntryNotFoundError)
        if parts and not refused:
            raise WeightsError(
                f"{source} does not load as a {kind} of diffusers: {reason}",
                hint="Where a package is asked for, install it; else check the network, and fetch it again: "
                f"`hf download {source} --force-download`.",
                field=field,
            ) from error
        raise ModelNotFoundError(
            f"No {kind} {str(name)!r} here, and the hub gave none of that name: {reason}",
            hint="Check the name and the network, and where it is gated or private, that you have its licence and are "
            f"logged in (`hf auth login`){at_hand}.",
            field=field,
        ) from error


@contextmanager
def _without_bars() -> Generator[None]:
    """Within the block diffusers and transformers show no progress: what takes a second needs none."""
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

    both, of_hub_too = (diffusers.utils.logging, transformers.utils.logging), are_progress_bars_disabled()
    shown = [logging for logging in both if logging.is_progress_bar_enabled()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of HF_HUB_DISABLE_PROGRESS_BARS, which has the last word for the hub's
        for logging in shown:
            logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()  # that of transformers goes for the hub as well
        if of_hub_too:
            disable_progress_bars()


def _came_of(error: BaseException | None, kind: type[Exception]) -> bool:
    """Whether an error, or one that led to it, is of this kind."""
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _pickled(source: str | Path, parts: Collection[str]) -> list[str]:
    """Those of the `parts` of a model whose weights are read and are there as pickles alone."""
    if isinstance(source, Path):
        files = [file.relative_to(source).as_posix() for file in source.rglob("*.*")]
    else:
        files = _on_hub(source)
    pickled, safe = ({file.rpartition("/")[0] for file in files if file.endswith(end)} for end in _ENDS)
    return sorted((pickled - safe) & set(parts) - {"safety_checker"})


def _text_encoders(source: str | Path, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, nn.Module]:
    """The parts of a pipeline that transformers loads: it draws weights that are missing at random and goes on."""
    import transformers

    encoders: dict[str, nn.Module] = {}
    for part, entry in index.items():
        if not isinstance(entry, list) or entry[0] != "transformers":
            continue
        kind: Any = getattr(transformers, str(entry[1]), None)
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            loaded: Any = kind.from_pretrained(
                source,
                subfolder=part,
                dtype=dtype,
                use_safetensors=True,
                variant=variant_of(source, part, dtype),
                output_loading_info=True,
            )
            encoders[part], found = loaded
            if found["missing_keys"]:
                raise _incomplete(part, source, sorted(found["missing_keys"]))
    return encoders


def _config_of(source: str | Path, part: str, kind: str) -> Mapping[str, Any]:
    """The configuration of a part of a pipeline, a class of diffusers."""
    import diffusers

    config: Any = getattr(diffusers, kind).load_config(source, subfolder=part)
    return config


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool((tensor if tensor.element_size() > 1 else tensor.float()).isfinite().all())  # float8 knows no isfinite


def variant_of(source: str | Path, part: str, dtype: torch.dtype) -> str | None:
    """ "fp16" where the weights of `part`, or of what has no parts (""), are at hand in that precision alone; or, of
    those that are yet to be fetched, where there are none in another or a half precision is asked for.
    """
    kept = [file.name for file in _folder_of(source, part).glob("*") if _WEIGHTS.match(file.name)]
    listed = [] if kept or isinstance(source, Path) else _on_hub(source)
    pickled = (name.removesuffix("bin") for name in listed if name.endswith("/diffusion_pytorch_model.fp16.bin"))
    if any(f"{name}safetensors" not in listed for name in pickled):
        return None  # diffusers asks for that precision in all of its parts, and is to take no pickles
    there = [file.name for file in map(PurePosixPath, listed) if file.parent == PurePosixPath(part)]
    names = kept or [name for name in there if _WEIGHTS.match(name)]
    half = [name for name in names if ".fp16" in name]
    return "fp16" if half and (len(half) == len(names) or not (kept or dtype.itemsize > 2)) else None


def _folder_of(source: str | Path, part: str) -> Path:
    """The folder of a part, or where what was fetched of it lies; one that is not there where that is nothing."""
    from huggingface_hub import try_to_load_from_cache

    if isinstance(source, Path):
        return source / part
    config = try_to_load_from_cache(source, PurePosixPath(part, "config.json").as_posix())
    return Path(config).parent if isinstance(config, str) else Path(source, part)


def _on_hub(name: str) -> list[str]:
    """The files of a hub id; none where the hub does not tell: to fetch them will say why."""
    from huggingface_hub import list_repo_files

    try:
        return list_repo_files(name)
    except Exception:  # not only its own: those of its HTTP library come through
        return []


def _incomplete(part: str, source: str | Path, missing: Sequence[str]) -> WeightsError:
    return WeightsError(
        f"The weights of {part} in {source} are not complete: {len(missing)} are missing, {missing[0]} first.",
        hint="Get them again.",
        field="model",
    )


def from_pipe(pipeline: Any, *, name: str = "") -> Backbone:
    """Use a diffusers pipeline that is already loaded, with the LoRA, dtype and offloading it has.

    The family is read from its components. Its networks are frozen and put into eval mode, for good: go on training
    with a copy, or set `requires_grad_` and `train` again. Weights that lie on the CPU are laid out `channels_last`. A
    UNet or autoencoder in the wrapper of `torch.compile` is taken out of it: what is read and rewritten inside needs it
    plain; where it was compiled before it was offloaded, that does not go. Raises UsageError for a pipeline that is not
    supported, which is then as it was.
    """
    import diffusers

    if isinstance(pipeline, type) or not hasattr(pipeline, "components"):
        given = f"the class {pipeline.__name__}" if isinstance(pipeline, type) else f"a {type(pipeline).__name__}"
        raise UsageError(
            f"from_pipe takes a loaded diffusers pipeline, not {given}.",
            hint="Names, folders and hub ids go to load_backbone.",
            field="model",
        )
    made = type(pipeline)
    parts: dict[str, Any] = {name: uncompiled(part) for name, part in pipeline.components.items() if part is not None}
    if wrapped := [name for name, part in pipeline.components.items() if _is_offloaded_outside(part)]:
        raise UsageError(
            f"The {wrapped[0]} was compiled before it was offloaded: taken out of torch.compile it stays where it is.",
            hint="Offload the pipeline first and compile after that, or do not compile.",
            field="model",
        )
    ours = {name: getattr(diffusers, name) for name in (*FAMILIES, AUTOENCODER)}
    kinds = {
        name: next((known for known, kind in ours.items() if isinstance(part, kind)), type(part).__name__)
        for name, part in parts.items()
    }
    plain = f"Take the plain pipeline, such as {_plain_of(kinds, parts)}"
    for part, wrap in (("controlnet", "with_controlnet"), ("adapter", "with_t2i_adapter")):
        if part in parts:
            raise UsageError(
                f"The {part} of a {made.__name__} would not be heard.", hint=f"{plain}, and {wrap}.", field="model"
            )
    if any(kind.__name__ in _GUIDING for kind in made.__mro__):
        raise UsageError(
            f"A {made.__name__} guides in a way of its own, which would not be followed.",
            hint=f"{plain}.",
            field="model",
        )
    if (family := _family_of(kinds)) is None:
        raise _unsupported(made.__name__, kinds)
    reads = getattr(pipeline, "encode_prompt", None)
    if reads is None or next(iter(inspect.signature(reads).parameters), "") != "prompt":
        raise UsageError(
            f"A {made.__name__} has no encode_prompt of prompts alone, by which they are read.",
            hint=f"{plain}.",
            field="model",
        )
    if "scheduler" not in parts:
        raise UsageError(
            f"This {made.__name__} has no scheduler.",
            hint="Set pipeline.scheduler to the kind that the model was trained with.",
            field="model",
        )
    backbone = family(pipeline, name=name)
    for module in parts.values():
        if isinstance(module, nn.Module) and all(p.device.type == "cpu" for p in module.parameters()):
            module.to(memory_format=torch.channels_last)  # convolutions are a tenth to a third faster there
    return backbone


def _plain_of(kinds: Mapping[str, str], parts: Mapping[str, Any]) -> str:
    """The code that makes the plain pipeline of its family of one with these parts, which have the classes `kinds`."""
    of_unets = "StableDiffusionXLPipeline" if "text_encoder_2" in kinds else "StableDiffusionPipeline"
    plain = _PLAIN.get(kinds.get(_network_of(kinds), ""), of_unets)
    if any(isinstance(part, nn.Module) and is_quantized(part) for part in parts.values()):
        return f"{plain}(**parts) with those of pipeline.components that it takes"  # others it would cast
    return f"{plain}.from_pipe(pipeline, dtype=pipeline.dtype)"


def _is_offloaded_outside(part: Any) -> bool:
    """Whether accelerate moves what is in the wrapper of `torch.compile` only where that is called."""
    inner = uncompiled(part)
    return inner is not part and hasattr(inner, "_hf_hook") and "forward" not in vars(inner)


def _network_of(parts: Collection[str]) -> Literal["unet", "transformer"]:
    """What a pipeline with these parts calls its network."""
    return "transformer" if "transformer" in parts else "unet"


def _family_of(kinds: Mapping[str, str]) -> type[UNetBackbone | TransformerBackbone | FluxBackbone] | None:
    """What takes a pipeline whose parts have these classes, if anything does: it is told its prompt by as many text
    encoders as such networks have, with their tokenizers.
    """
    family = FAMILIES.get(kinds.get(_network_of(kinds), ""))
    if family is None or kinds.get("vae") != AUTOENCODER:
        return None
    numbers = [number for number in ("", "_2", "_3") if f"text_encoder{number}" in kinds]
    told = numbers[:1] == [""] and all(f"tokenizer{number}" in kinds for number in numbers)
    return family if told and len(numbers) in family.encoders else None


def _unsupported(pipeline: str, kinds: Mapping[str, str]) -> UsageError:
    """`kinds`: the class of each part."""
    network = _network_of(kinds)
    known = {network: FAMILIES, "vae": (AUTOENCODER,)}
    others = [f"{kinds[part]} for its {part}" for part, names in known.items() if kinds.get(part) not in (None, *names)]
    return UsageError(
        f"{pipeline}{f' with {others[0]}' if others else ''} is not supported yet.",
        hint="Supported: pipelines with an AutoencoderKL and a UNet2DConditionModel (Stable Diffusion 1.x, 2.x, XL), "
        "an SD3Transformer2DModel (3, 3.5) or a FluxTransformer2DModel, each with its text encoders.",
        field="model",
    )


def load_predictor(name: str | Path | None, backbone: Backbone) -> LatentPredictor:
    """The predictor called `name` (shipped, folder, file or hub id), checked against `backbone` and on its device.

    None means the one that ships with the backbone's model.
    """
    name = own_predictor(backbone.name) if name is None else name
    predictor = read_predictor(name).to(backbone.device)
    predictor.check_fits(backbone)
    return predictor


def check_predictor(name: str | Path | None, model: str) -> None:
    """Raises as `load_predictor`, but before a model that comes without one is loaded, or even fetched, which may take
    long."""
    if not has_predictor(model):
        find_model(model)
        read_predictor(own_predictor(model) if name is None else name)


def read_predictor(name: str | Path) -> LatentPredictor:
    """The predictor called `name` (shipped, folder, file or hub id), on the CPU, for whatever model."""
    source: str | Path = name
    if match := [s for s in shipped() if s.name == str(name)]:
        match[0].verify()
        source = match[0].folder
    predictor = LatentPredictor.from_pretrained(source)
    predictor.source = str(name)
    return predictor


def choose_device(device: str) -> torch.device:
    """The torch device called `device`; "auto" is the fastest there is."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
        if chosen.type == "meta":
            raise NotImplementedError("it holds no values")
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise UsageError(f"No device {device!r} here.", hint="Use auto, cpu, cuda or mps.", field="device") from error
    return chosen


def _source(name: object) -> str | Path:
    """A verified shipped folder, a local folder with a model_index.json, a file, or a hub id."""
    if not isinstance(name, str | Path):
        raise UsageError(
            f"The model is a {type(name).__name__}; it must be a name, a folder or a hub id.",
            hint="A loaded pipeline goes to from_pipe.",
            field="model",
        )
    text = str(name)
    for one in shipped():
        if one.name == text and one.kind == "model":
            one.verify()
            return one.folder
    path = Path(name)
    if is_dir(path) and not is_file(path / "model_index.json"):
        files = sorted(file.name for file in path.glob("*.safetensors"))
        hint = "Give the folder that `pipeline.save_pretrained` wrote."
        if files:
            hint = f"Give one of the files in it: {', '.join(files[:5])}{', …' if len(files) > 5 else ''}."
        raise ModelNotFoundError(
            f"{path} is no diffusers pipeline: it has no model_index.json.",
            hint=hint,
            field="model",
        )
    if is_dir(path) or is_file(path):
        return path
    if is_hub_id(text) and path.suffix not in WEIGHTS:
        return text
    known = ", ".join(s.name for s in shipped() if s.kind == "model")
    raise ModelNotFoundError(
        f"No model {text!r}.",
        hint=f"Shipped: {known}. Or give a diffusers folder, a checkpoint of one file (.safetensors) or a hub id "
        "(owner/name).",
        field="model",
    )


def check_weights(source: Path) -> None:
    """WeightsError for a .safetensors file, `source` or in that folder, that is truncated or something else in
    disguise."""
    for file in sorted(source.rglob("*.safetensors")) if is_dir(source) else (source,):
        with opened(file, field="model"):
            pass
