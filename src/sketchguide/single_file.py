"""Checkpoints of one file, as ComfyUI and web UIs keep them: weights of all parts, and no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sketchguide.errors import ModelNotFoundError, UsageError, WeightsError, reason_of
from sketchguide.weights import opened

_NETWORK = "model.diffusion_model."
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_DESCRIPTION = ("*.json", "*.txt", "*.model")  # configurations and tokenizers


def description_of_file(path: Path) -> Path:
    """A folder with the configurations and tokenizers of the model that the checkpoint `path` is of the kind of.

    They come from the hub, once. Raises WeightsError for a file that is no safetensors, UsageError for one that holds
    no whole model, ModelNotFoundError where the hub does not give them.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download

    shapes = _shapes_in(path)
    if not any(name.startswith(_NETWORK) for name in shapes):
        raise UsageError(
            f"{path} is no checkpoint of a whole model: nothing in it is called {_NETWORK}…",
            hint="A LoRA goes to --lora, a predictor to --predictor; weights of a network alone need the other parts "
            "too: give a diffusers folder or a hub id (owner/name).",
            field="model",
        )
    kind: str = fetch_diffusers_config(shapes)["pretrained_model_name_or_path"]
    try:
        return Path(snapshot_download(kind, allow_patterns=list(_DESCRIPTION), ignore_patterns=["*.index.json"]))
    except Exception as error:  # not only its own: those of its HTTP library come through
        raise ModelNotFoundError(
            f"{path} has no configuration in it, and that of its kind, {kind}, is not at hand and was not given by the "
            f"hub: {reason_of(error)}",
            hint="Check the network. It is needed once; where it is gated, accept the licence on its page and log in "
            "(`hf auth login`).",
            field="model",
        ) from error


def pipeline_of_file(path: Path, description: Path, *, kind: str, dtype: torch.dtype, **parts: Any) -> Any:
    """The checkpoint `path` as a pipeline of the class `kind` of diffusers, which has the configurations in
    `description`, with these `parts`.

    A checkpoint that says so itself, as those of NoobAI do, predicts v, and has no signal left at the last level.
    Raises WeightsError where weights are missing.
    """
    import diffusers

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
    marks = _shapes_in(path).keys() & {"v_pred", "ztsnr"}
    if "v_pred" in marks:
        scheduler = pipeline.scheduler
        told = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in marks}
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **told)
    return pipeline


def _shapes_in(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, without values."""
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path} is a pickle, which could run code: only safetensors are read.",
            hint="Get its .safetensors.",
            field="model",
        )
    with opened(path, field="model") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
