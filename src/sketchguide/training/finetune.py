"""DiffSketching: fine-tune a model on a few drawings and photos of one thing (BMVC 2022, 2305.18812).

Reference photos are inverted with the frozen network; the trainable one walks the same noise down again. What arrives
shall still show the same thing (L_i) and shall, drawn by the photo-to-sketch network P, look like the drawings (L_p).
Noise that leads to no photo is walked down as well, or little would change in pictures of other seeds.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sketchguide.backbones.base import Backbone, Condition
from sketchguide.backbones.pipeline import PipelineBackbone, check_keeps_weights, is_quantized, text_encoders
from sketchguide.errors import OutputError, SketchError, TrainingError, UsageError, reason_of
from sketchguide.images import from_ink
from sketchguide.inversion import invert
from sketchguide.levels import Level, Prediction
from sketchguide.lora import LORA_FILE, adapted, beside_others, check_others, take_off
from sketchguide.perception import Features, identity_loss, perceptual_loss
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise, seeded
from sketchguide.sketchers import Sketcher
from sketchguide.training.checkpoints import Checkpoint
from sketchguide.training.run import TrainingRun, check_settings, describe
from sketchguide.weights import write_weights

GradientMode = Literal["chain", "last", "step"]
ADAPTER = "diffsketching"
_AT_ONCE = 2**18  # pixels whose graph is held at once: the parts of more are computed again on the way back

_NO_SIGNAL = 1e-6  # flow schedulers shift by float32, and so past 0

# Where adapters sit in diffusers' networks: attention over the picture, what leads in and out of it (of transformers
# the network's last layer too), and the convolutions of residual blocks.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv1", "conv2")


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Settings of a run. The paper: the whole chain, every weight, Adam with rate 1e-4, EMA 0.9999."""

    steps: int = 600
    batch: int | None = None  # pairs per step; none: 4, or 1 with fewer than 4 drawings, as in the paper
    unseen: int = 6  # rows per step that begin with noise of their own; none in the paper
    rate: float | None = None  # none: 1e-4 for all weights as in the paper, 3e-3 for adapters, which are few
    identity: float = 0.4  # lambda: L = lambda L_i + (1 - lambda) L_p
    gradient: GradientMode = "step"  # through the whole chain, its last steps, or each step's predicted clean image
    last: int = 2  # the steps that carry a gradient where `gradient` is "last"
    levels: int = 8  # steps of the chain from pure noise
    depth: float = 1.0  # share of them that is walked: less keeps more of the photo
    refine: int = 3  # network passes per step of the inversion; more approach the exact inverse
    rank: int = 8  # of the adapters
    targets: tuple[str, ...] = TARGETS  # the layers that get one, by the ends of their names
    full: bool = False  # train every weight of the network, not adapters
    style: str = "edges"  # in which P draws
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self, steps=1, last=1, levels=1, refine=1, rank=1, batch=1, unseen=0)
        if not 0 <= self.identity <= 1:
            raise UsageError(f"identity is {self.identity}; it must lie in 0..1.", field="identity")
        if not 0 < self.depth <= 1:
            raise UsageError(f"depth is {self.depth}; it must be above 0 and at most 1.", field="depth")
        if self.gradient not in ("chain", "last", "step"):
            raise UsageError(f"gradient is {self.gradient!r}; it must be chain, last or step.", field="gradient")


@dataclass(frozen=True)
class Judges:
    """The frozen networks that the losses stand on."""

    sketcher: Sketcher  # P
    identity: Features  # L_i: what the picture shows
    drawing: Features  # L_p: what a drawing looks like

    def of_drawings(self, ink: Tensor) -> tuple[Tensor, ...]:
        """Stages of drawings (B, 1, H, W) in [0, 1], ink 1."""
        return self.drawing(from_ink(ink))

    def drawn(self, images: Tensor, style: str) -> tuple[Tensor, ...]:
        """Stages of what P draws of images (B, 3, H, W)."""
        return self.of_drawings(self.sketcher(images, style))


def pair_up(photos: int, drawings: int, *, paired: bool | None = None) -> list[tuple[int, int]]:
    """Which photo is tuned to which drawing: one to one where `paired` or (None) as many, else each to each."""
    together = photos == drawings if paired is None else paired
    return [(i, i) for i in range(photos)] if together else list(product(range(photos), range(drawings)))


def config_of(
    settings: FineTuning, backbone: PipelineBackbone, prompt: str, pairs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """What a resumed run must have in common with the one it continues."""
    return {**asdict(settings), "model": backbone.name, "prompt": prompt, "pairs": len(pairs)}


def tunable(backbone: Backbone) -> PipelineBackbone:
    """The backbone, if its network can be tuned. UsageError otherwise."""
    if not isinstance(backbone, PipelineBackbone):
        raise UsageError(
            f"{backbone.name!r} cannot be tuned; it is no plain pipeline.",
            hint="Tune the pipeline, without a ControlNet or adapter.",
            field="model",
        )
    return backbone


class FineTuneRun(TrainingRun):
    """One run. `references` (R, 3, H, W) in [-1, 1] are photos, `drawings` (S, 1, H, W) in [0, 1] have ink 1. `paired`
    ones go together in their order, as equally many do unless told otherwise; else every photo with every drawing.

    The backbone's own network learns (through adapters, unless `full`): it is the frozen one again when `remove` has
    been called, or never, where `full`.
    """

    def __init__(
        self,
        backbone: PipelineBackbone,
        references: Tensor,
        drawings: Tensor,
        judges: Judges,
        settings: FineTuning,
        *,
        prompt: str,
        paired: bool | None = None,
    ) -> None:
        backbone = tunable(backbone)
        if not bool((drawings.amax(dim=(1, 2, 3)) > 0.05).all()):
            raise SketchError("A drawing is blank.", hint="Draw something, or leave it out.", field="sketch")
        if references.shape[-2:] != drawings.shape[-2:]:
            raise UsageError(
                f"The photos are {references.shape[-1]}x{references.shape[-2]}, the drawings "
                f"{drawings.shape[-1]}x{drawings.shape[-2]}.",
                field="photo",
            )
        if paired and len(references) != len(drawings):
            raise UsageError(
                f"{len(references)} photos and {len(drawings)} drawings cannot go together in pairs.",
                hint="Give as many of one as of the other.",
                field="photo",
            )
        judges.sketcher.number(settings.style)
        self.backbone = backbone
        self.judges = judges
        self.settings = settings
        self.prompt = prompt
        self.batch = settings.batch or (4 if len(drawings) >= 4 else 1)
        self.peak = settings.rate or (1e-4 if settings.full else 3e-3)
        count = len(references)
        self._pairs = pair_up(count, len(drawings), paired=paired)
        self._references = references.to(backbone.device)
        self._size = (references.shape[-1], references.shape[-2])
        self._lead, self.levels = _chain(backbone, settings, self._size)
        self._dtype = backbone.dtype  # before every weight becomes float32, if it does
        take_off([ADAPTER], backbone.network)
        _check_can_learn(backbone, settings)
        self._said = describe(backbone, [prompt])  # once: what learns is no text encoder
        with torch.no_grad():
            told = self._told(count)
            path = invert(backbone, backbone.encode(references), self.levels, told, iterations=settings.refine)
            self._starts = path.at(self.levels[0])
            self._identities = judges.identity(self._references)
            self._wanted = judges.of_drawings(drawings.to(backbone.device))
            self.reconstruction = self._descend(self._starts, self.levels, carrying=0)
        self.trained = _trainable(backbone.network, settings)
        self._frozen = [p.detach().clone() for p in self.trained]
        self._average = [p.clone() for p in self._frozen]
        self._updates = 0
        self._walk: dict[str, Any] | None = None
        self._scaler = torch.amp.GradScaler(backbone.device.type, enabled=self._dtype == torch.float16)
        optimizer = torch.optim.Adam(self.trained, lr=self.peak, betas=(0.9, 0.999))
        super().__init__(nn.ParameterList(self.trained), optimizer, seed=settings.seed)

    def go_on(self, latest: Checkpoint) -> None:
        super().go_on(latest)
        self._average = [value.to(p) for value, p in zip(latest.state["average"], self.trained, strict=True)]
        self._updates = int(latest.state["updates"])
        self._scaler.load_state_dict(latest.state["scaler"])
        self._walk = latest.state["walk"]

    @property
    def config(self) -> dict[str, Any]:
        """See `config_of`."""
        return config_of(self.settings, self.backbone, self.prompt, self._pairs)

    @property
    def updates(self) -> int:
        """Steps that changed the weights."""
        return self._updates

    def rate(self) -> float:
        return self.peak

    def state(self) -> dict[str, Any]:
        scaler = self._scaler.state_dict()
        more = {"average": self._average, "updates": self._updates, "scaler": scaler, "walk": self._walk}
        return {**super().state(), **more}

    def loss(self) -> Tensor:
        if self.settings.gradient == "step":
            clean, kept, pairs = self._walked()
        else:
            pairs = self._drawn_pairs()
            start = self._begun(pairs)
            kept = self._undisturbed(start[len(pairs) :], self.levels)
            steps = len(self.levels) - 1
            carrying = steps if self.settings.gradient == "chain" else min(steps, self.settings.last)
            clean = self._descend(start, self.levels, carrying=carrying)
        # In this order: a decoding without a graph may take the autoencoder's weights from the graph of one before it.
        shown = self._shown(kept)
        return self.compare(self._decoded(clean), pairs, shown).mean()

    @torch.no_grad()
    def _shown(self, latent: Tensor) -> Sequence[Tensor]:
        """What clean latents (U, C, h, w) show: the stages of their pictures, none without any."""
        return self.judges.identity(self._decoded(latent)) if len(latent) else ()

    def compare(self, images: Tensor, pairs: Sequence[tuple[int, int]], shown: Sequence[Tensor] = ()) -> Tensor:
        """lambda L_i + (1 - lambda) L_p (B,) of pictures (B, 3, H, W).

        The first ones are held, row by row, to a photo and a drawing; those beyond `pairs` to the drawing that they are
        nearest to and to what is `shown` (B - pairs, …) by the pictures that the frozen network makes of their start.
        """
        photos, drawings = (torch.tensor(numbers, device=images.device) for numbers in zip(*pairs, strict=True))
        same = [stage[photos] for stage in self._identities]
        if shown:
            same = [torch.cat(both) for both in zip(same, shown, strict=True)]
        apart = self._apart(images)
        paired, free = apart[: len(pairs)].gather(1, drawings[:, None])[:, 0], apart[len(pairs) :].amin(dim=1)
        share = self.settings.identity
        kind = identity_loss(self.judges.identity(images), same)
        return share * kind + (1 - share) * torch.cat([paired, free])

    def _apart(self, images: Tensor) -> Tensor:
        """Perceptual distance (B, S) of what P draws of `images` (B, 3, H, W) from each of the drawings."""
        drawn = self.judges.drawn(images, self.settings.style)
        each = [
            perceptual_loss(drawn, [stage[i : i + 1].expand(len(images), -1, -1, -1) for stage in self._wanted])
            for i in range(len(self._wanted[0]))
        ]
        return torch.stack(each, dim=1)

    def _begun(self, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Where a chain begins: the inverted photos of `pairs`, then `unseen` rows of noise drawn anew, which the
        frozen network brings to the chain's first level."""
        inverted = self._starts[[photo for photo, _ in pairs]]
        fresh = torch.randn(self.settings.unseen, *inverted.shape[1:], generator=self.rng).to(inverted)
        return torch.cat([inverted, self._undisturbed(fresh, self._lead)])

    def _undisturbed(self, latent: Tensor, levels: Sequence[Level]) -> Tensor:
        """Latents (U, C, h, w) at the first of `levels`, walked down to the last by the frozen network."""
        if not len(latent):
            return latent
        with self._holding(self._frozen):
            return self._descend(latent, levels, carrying=0)

    def _foreseen(self, latent: Tensor, level: Level) -> Tensor:
        """The clean latents (U, C, h, w) that the frozen network sees in `latent`."""
        if not len(latent):
            return latent
        with torch.no_grad(), self._holding(self._frozen):
            return self._foretold(latent, level).clean

    def _drawn_pairs(self) -> list[tuple[int, int]]:
        chosen = torch.randint(len(self._pairs), (self.batch,), generator=self.rng)
        return [self._pairs[i] for i in chosen.tolist()]

    def _told(self, count: int) -> Condition:
        return self._said.rows([0] * count)

    def _descend(self, latent: Tensor, levels: Sequence[Level], *, carrying: int) -> Tensor:
        """The deterministic walk down `levels`; its last `carrying` steps keep a graph, one step in memory at a time
        (Chen et al. 2016, 1604.06174)."""
        pairs = list(pairwise(levels))
        for step, (now, to) in enumerate(pairs):
            parts = self._parts(latent)
            if len(pairs) - step > carrying:
                with torch.no_grad():
                    latent = torch.cat([self._down(part, now, to) for part in parts])
            else:
                latent = torch.cat([checkpoint(self._down, part, now, to, use_reentrant=False) for part in parts])
        return latent

    def _down(self, latent: Tensor, now: Level, to: Level) -> Tensor:
        prediction = self._predict(latent, now)
        return to.alpha * prediction.clean + to.sigma * prediction.noise

    def _predict(self, latent: Tensor, now: Level) -> Prediction:
        """In the precision the model was loaded in, also where its weights are trained in float32."""
        mixed = self.settings.full and self._dtype != torch.float32
        with torch.autocast(self.backbone.device.type, self._dtype if mixed else None, enabled=mixed):
            return self.backbone.predict(latent, now, self._told(len(latent)))

    def _parts(self, latent: Tensor) -> Sequence[Tensor]:
        """Latents (B, C, h, w) in rows few enough for memory; where pictures are small, all of them together."""
        pixels = latent.shape[-2] * latent.shape[-1] * self.backbone.stride**2
        return latent.split(max(1, _AT_ONCE // pixels))

    def _foretold(self, latent: Tensor, now: Level) -> Prediction:
        parts = self._parts(latent)
        if len(parts) == 1:
            return self._predict(latent, now)
        made = [checkpoint(self._predict, part, now, use_reentrant=False) for part in parts]
        return Prediction(*map(torch.cat, zip(*made, strict=True)))

    def _decoded(self, clean: Tensor) -> Tensor:
        parts = self._parts(clean)
        if len(parts) == 1:
            return self.backbone.decode(clean)
        if not clean.requires_grad:
            return torch.cat([self.backbone.decode(part) for part in parts])
        # Reentrant: the other kind works by hooks on what a graph keeps, and a widened autoencoder has its own there.
        return torch.cat([checkpoint(self.backbone.decode, part, use_reentrant=True) for part in parts])

    def _walked(self) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """One step of a walk that goes on over the updates: the predicted clean latents, the walk's own detached (Kim
        et al. 2022, DiffusionCLIP, 2110.02711), what the frozen network predicts where they began with noise, and the
        pairs of the others."""
        if self._walk is None or self._walk["place"] == len(self.levels) - 1:
            pairs = self._drawn_pairs()
            self._walk = {"place": 0, "pairs": pairs, "latent": self._begun(pairs)}
        place, latent = self._walk["place"], self._walk["latent"].to(self.backbone.device)
        pairs = [(int(photo), int(drawing)) for photo, drawing in self._walk["pairs"]]
        now, to = self.levels[place], self.levels[place + 1]
        kept = self._foreseen(latent[len(pairs) :], now)
        prediction = self._foretold(latent, now)
        following = (to.alpha * prediction.clean + to.sigma * prediction.noise).detach()
        if bool(following.isfinite().all()):
            self._walk = {"place": place + 1, "pairs": pairs, "latent": following}
        else:
            self._walk = None  # a bad update must not haunt the steps after it
        return prediction.clean, kept, pairs

    def _update(self, loss: Tensor) -> bool:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, 1.0)
        good = bool(loss.isfinite() and norm.isfinite())
        if good and float(norm) == 0:
            raise TrainingError(
                "No gradient reaches the weights, so nothing would be learned.",
                hint="Something on the way from the picture to the loss is detached, or the judges see nothing in it.",
            )
        if good:
            self._scaler.step(self.optimizer)
        self._scaler.update()
        if good:
            self._updates += 1
            decay = min(0.9999, (1 + self._updates) / (10 + self._updates))
            for mean, parameter in zip(self._average, self.trained, strict=True):
                mean.lerp_(parameter.detach(), 1 - decay)
        return good

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the network has the running averages of the weights: those that are saved."""
        return self._holding(self._average)

    @contextmanager
    def _holding(self, values: Sequence[Tensor]) -> Generator[None]:
        own = [p.detach().clone() for p in self.trained]
        self._set(values)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def pictures(self, seeds: Sequence[int], *, scale: float = 1.0, steps: int = 20) -> Tensor:
        """What the network draws from noise it was not trained on: (len(seeds), 3, H, W) about [-1, 1], on the CPU."""
        latent = noise(generators(seeds), self._starts.shape[1:]).to(self.backbone.device)
        negative = self.backbone.describe([""] * len(seeds))
        levels = self.backbone.levels(steps, "ddim", self._size)
        *_, last = sample(self.backbone, self._told(len(seeds)), latent, levels, negative=negative, scale=scale)
        return self.backbone.decode(last.latent).clamp(-1, 1).cpu()

    @torch.no_grad()
    def sketch_distance(self, images: Tensor) -> float:
        """Mean perceptual distance of what P draws of `images` (B, 3, H, W) from all the drawings."""
        return float(self._apart(images.to(self.backbone.device)).mean())

    @torch.no_grad()
    def nearest_distance(self, images: Tensor) -> float:
        """The mean over `images` of the distance from the drawing that is nearest."""
        return float(self._apart(images.to(self.backbone.device)).amin(dim=1).mean())

    def fidelity(self) -> float:
        """PSNR in dB of the inverted and redrawn references against what the autoencoder makes of them."""
        with torch.no_grad():
            redrawn = self.backbone.decode(self.reconstruction).clamp(-1, 1)
            kept = self.backbone.decode(self.backbone.encode(self._references)).clamp(-1, 1)
            error = float((redrawn - kept).square().mean()) / 4  # pictures span 2
        return math.inf if error == 0 else -10 * math.log10(error)

    def save(self, folder: Path) -> Path:
        """Write the averaged weights: a LoRA file that diffusers' `load_lora_weights` reads, or, where every weight was
        trained, the whole pipeline in `folder`/model. Raises OutputError."""
        with self.averaged():
            if self.settings.full:
                return self._save_pipeline(folder / "model")
            from peft import get_peft_model_state_dict

            adapters = get_peft_model_state_dict(self.backbone.network, adapter_name=ADAPTER)  # pyright: ignore[reportArgumentType]
            about = {"kind": "diffsketching-lora", "version": 1, **self.config, "trained_steps": self.step}
            header = {"format": "pt", "sketchguide": json.dumps(about)}
            target = folder / LORA_FILE
            tensors = {f"{self.backbone.part}.{name}": tensor for name, tensor in adapters.items()}
            write_weights(tensors, target, metadata=header, field="output")
            return target

    def _save_pipeline(self, target: Path) -> Path:
        """Whole or not at all: an earlier one is replaced when the new one lies beside it."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as place:
                new, old = Path(place) / "new", Path(place) / "old"
                self.backbone.pipeline.save_pretrained(new)
                if target.exists():
                    target.rename(old)
                try:
                    new.rename(target)
                except OSError:
                    if old.exists():
                        old.rename(target)
                    raise
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"{target} cannot be written: {reason}.", field="output") from error
        return target

    def remove(self) -> None:
        """Take the adapters off: the network is again what it was."""
        if not self.settings.full:
            take_off([ADAPTER], self.backbone.network)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.trained, values, strict=True):
            parameter.copy_(value)


def _chain(backbone: PipelineBackbone, settings: FineTuning, size: tuple[int, int]) -> tuple[list[Level], list[Level]]:
    """The levels from pure noise to the walk's first, and those of the walk, noisiest first; one without any signal,
    from which nothing leads back, does not belong to the walk. `size` (width, height) is that of the pictures."""
    every = backbone.levels(settings.levels, "ddim", size)
    first = settings.levels - max(1, round(settings.depth * settings.levels))
    first += abs(every[first].alpha) < _NO_SIGNAL
    if first == settings.levels:
        raise UsageError(
            f"{backbone.name!r} begins with pure noise, from which one step leads nowhere.",
            hint="Give two levels or more.",
            field="levels",
        )
    return every[: first + 1], every[first:]


def _check_can_learn(backbone: PipelineBackbone, settings: FineTuning) -> None:
    """UsageError where the network cannot be trained as it is, or what would be saved could not be loaded."""
    for network in (backbone.network, backbone.autoencoder):
        check_keeps_weights(network)
    if not settings.full:
        check_others(backbone)
        return
    if adapted(backbone.network, *text_encoders(backbone.pipeline).values()):
        raise UsageError(
            f"{backbone.name!r} has LoRAs, beside which all of its weights cannot be trained.",
            hint="Call `fuse_lora()`, then `unload_lora_weights()` on the pipeline, or train adapters.",
            field="full",
        )
    if is_quantized(backbone.network):
        raise UsageError(
            f"The weights of {backbone.name!r} are quantised and cannot be trained.",
            hint="Load it without quantisation, or train adapters.",
            field="full",
        )


def _trainable(network: Any, settings: FineTuning) -> list[nn.Parameter]:
    """The parameters that learn, in float32: every one, or those of fresh adapters whose effect is zero at first."""
    if settings.full:
        network.float().requires_grad_(True)
        return list(network.parameters())
    from peft import LoraConfig

    with seeded(settings.seed):
        config = LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=list(settings.targets))
        try:
            with warnings.catch_warnings(), beside_others(ADAPTER, network):
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a LoRA of the user, which is kept
                network.add_adapter(config, adapter_name=ADAPTER)
        except ValueError as error:
            take_off([ADAPTER], network)
            raise UsageError(f"targets fit no layer: {reason_of(error)}", field="targets") from error
    chosen = [p for name, p in network.named_parameters() if ".lora_" in name and ADAPTER in name]
    for parameter in chosen:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return chosen
