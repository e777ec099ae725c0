"""Checkpoints of one file, as ComfyUI and web UIs keep them: weights of all parts, and no configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sketchguide.errors import ModelNotFoundError, UsageError, WeightsError, reason_of, warn
from sketchguide.weights import check_no_pickle, opened

_NETWORK = "model.diffusion_model."
_DESCRIPTION = ("*.json", "*.txt", "*.model")  # configurations and tokenizers
_SCALES = (".scale_weight", ".weight_scale")  # of numbers in 8 bits, which diffusers' conversion leaves out
_V_PREDICTING = "stabilityai/stable-diffusion-2-1"


def description_of_file(path: Path) -> Path:
    """A folder with the configurations and tokenizers of the model that the checkpoint `path` is of the kind of.

    They come from the hub, once. Raises WeightsError for a file that is no safetensors, UsageError for one that holds
    no whole model, ModelNotFoundError where the hub does not give them.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    shapes = _shapes_in(path)
    if not any(name.startswith(_NETWORK) for name in shapes):
        raise UsageError(
            f"{path} is no checkpoint of a whole model: nothing in it is called {_NETWORK}…",
            hint="A LoRA goes to --lora, a predictor to --predictor; weights of a network alone need the other parts "
            "too: give a diffusers folder or a hub id (owner/name).",
            field="model",
        )
    if any(name.endswith(_SCALES) for name in shapes):
        raise UsageError(
            f"{path} holds weights in 8 bits with scales, which cannot be read here.",
            hint="Take the file in fp16 or bf16.",
            field="model",
        )
    try:
        kind: str = fetch_diffusers_config(shapes)["pretrained_model_name_or_path"]
    except Exception as error:  # it guesses by names and shapes, and stumbles over some
        raise UsageError(
            f"It cannot be told of what kind the model in {path} is ({reason_of(error)}).",
            hint="Convert it: from_single_file of diffusers, then save_pretrained.",
            field="model",
        ) from error
    if kind == _V_PREDICTING:
        warn(f"{path} is read as a model that predicts v, as {kind} does: the one of 512 pixels does not.")
    return _fetched(kind, path)


def _fetched(kind: str, path: Path) -> Path:
    """The description of the hub's model `kind`: of the parts that are loaded, since the hub's library refuses what was
    fetched before where anything is missing of what is asked for, and no more."""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        index: dict[str, Any] = json.loads(Path(hf_hub_download(kind, "model_index.json")).read_bytes())
        parts = [part for part, entry in index.items() if isinstance(entry, list) and part != "safety_checker"]
        wanted = ["model_index.json", *(f"{part}/{files}" for part in parts for files in _DESCRIPTION)]
        return Path(snapshot_download(kind, allow_patterns=wanted, ignore_patterns=["*.index.json"]))
    except Exception as error:  # not only its own: those of its HTTP library come through
        raise ModelNotFoundError(
            f"{path} has no configuration in it, and that of its kind, {kind}, is not at hand and was not given by the "
            f"hub: {reason_of(error)}",
            hint="Check the network, which is needed once. Where that model is gated, accept the licence on its page "
            "and log in (`hf auth login`); where it is gone, convert the file: from_single_file(…, config=FOLDER) of "
            "diffusers, then save_pretrained.",
            field="model",
        ) from error


def pipeline_of_file(path: Path, description: Path, *, kind: str, dtype: torch.dtype, **parts: Any) -> Any:
    """The checkpoint `path` as a pipeline of the class `kind` of diffusers, which has the configurations in
    `description`, with these `parts`.

    A checkpoint that says so itself, as those of NoobAI do, predicts v, and has no signal left at the last level.
    Raises WeightsError where weights are missing.
    """
    import diffusers
    import transformers

    made: Any = getattr(diffusers, kind)
    try:
        pipeline: Any = made.from_single_file(str(path), config=str(description), dtype=dtype, **parts)
    except NotImplementedError as error:
        if "meta tensor" not in str(error):
            raise
        raise WeightsError(
            f"{path} is not complete: some weights that a {kind} has are not in it.",
            hint="Get it again.",
            field="model",
        ) from error
    for part in pipeline.components.values():
        if isinstance(part, transformers.PreTrainedModel):
            part.tie_weights()  # a T5 is saved with one of its two embeddings, and diffusers does not fill the other
    marks = _shapes_in(path).keys() & {"v_pred", "ztsnr"}
    if "v_pred" in marks:
        scheduler = pipeline.scheduler
        told = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in marks}
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **told)
    return pipeline


def _shapes_in(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, without values."""
    check_no_pickle(path, field="model")
    with opened(path, field="model") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
