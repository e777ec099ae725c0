"""Transformer pipelines that walk by flow: Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
from torch import Tensor

from sketchguide.backbones.base import Condition
from sketchguide.backbones.pipeline import Noise, PipelineBackbone, text_encoders
from sketchguide.errors import UsageError
from sketchguide.levels import Level, levels_of
from sketchguide.solvers import DDIM, SolverChoice

_POOLED = "pooled_projections"
_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
_OTHERWISE = ("use_dynamic_shifting", "stochastic_sampling", "invert_sigmas")
_T5_TOKENS = 256  # that the pipeline reads


class TransformerBackbone(PipelineBackbone):
    """`StableDiffusion3Pipeline` and its like, with two text encoders or all three."""

    family = "transformer"
    part = "transformer"

    def __init__(self, pipeline: Any, *, name: str = "") -> None:
        super().__init__(pipeline, name=name)
        self._read = self._read_scheduler()

    def _more_than_a_prompt(self) -> str | None:
        return "image_proj" if getattr(self.network, "image_proj", None) is not None else None

    @property
    def multiple(self) -> int:
        return self.stride * self.network.config.patch_size

    @property
    def solvers(self) -> Mapping[str, SolverChoice]:
        """Euler's rule under both of its names: on a straight path DDIM's is the same."""
        rule = SolverChoice(DDIM(), _SCHEDULER)
        return {"euler": rule, "ddim": rule}

    def levels(self, steps: int, solver: str | None = None) -> list[Level]:
        """`steps + 1` levels, noisiest first, as the pipeline's scheduler spaces them."""
        if solver is not None and solver not in self.solvers:
            raise UsageError(
                f"{self.name} walks by flow, for which there is no solver {solver!r} here.",
                hint=f"Choose one of: {', '.join(self.solvers)}.",
                field="solver",
            )
        return levels_of(self._scheduler(), steps)

    def _read_scheduler(self) -> Noise:
        sigmas = [float(sigma) for sigma in self._scheduler().sigmas.flip(0)]
        times, alphas = [sigma * len(sigmas) for sigma in sigmas], [1 - sigma for sigma in sigmas]
        return Noise(self.pipeline.scheduler, "flow", times, alphas, sigmas)

    @property
    def _reader(self) -> tuple[Any, int]:
        if "text_encoder_3" in text_encoders(self.pipeline):
            return self.pipeline.tokenizer_3, _T5_TOKENS
        return super()._reader

    def _encode_prompts(self, prompts: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        embedding, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=False
        )
        return embedding, {_POOLED: pooled}

    def _forward(self, latent: Tensor, times: Tensor, condition: Condition) -> Tensor:
        told: dict[str, Any] = {**condition.extras, "encoder_hidden_states": condition.embedding}
        told = {name: value.to(latent.device, latent.dtype) for name, value in told.items()}
        return self.network(latent, timestep=times.expand(len(latent)), **told, return_dict=False)[0]

    def _scheduler(self) -> Any:
        """A fresh one: diffusers schedulers keep state between calls."""
        found = self.pipeline.scheduler
        if type(found).__name__ != _SCHEDULER:
            raise UsageError(
                f"{self.name} has the scheduler {type(found).__name__}, which is not offered for a model that walks by "
                "flow.",
                hint=f"Set pipeline.scheduler to a {_SCHEDULER}.",
                field="model",
            )
        if otherwise := [name for name in _OTHERWISE if found.config.get(name)]:
            raise UsageError(
                f"The scheduler of {self.name} has {otherwise[0]}, which is not supported.",
                hint=f"Set it to False: {_SCHEDULER}.from_config(pipeline.scheduler.config, {otherwise[0]}=False).",
                field="model",
            )
        return getattr(diffusers, _SCHEDULER).from_config(found.config)
