"""Ways to make pictures follow drawings, all called alike, so that they can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sketchguide.areas import near_strokes
from sketchguide.attention import SketchAttention
from sketchguide.backbones.base import Backbone
from sketchguide.backbones.wrapped import with_controlnet, with_sketch_attention, with_t2i_adapter
from sketchguide.classifiers import LatentClassifier, find_class_in
from sketchguide.controls.base import Guide
from sketchguide.errors import UsageError
from sketchguide.guidance import class_guide, latent_guide, sketch_guide, weakened
from sketchguide.images import from_ink
from sketchguide.perception import Features
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import Recogniser, Tried, easing_of, resumed, walk_until_recognised
from sketchguide.request import LayoutSettings, Request
from sketchguide.sampling import Begun, Moment
from sketchguide.schedule import steps_of, steps_until
from sketchguide.sketch import SpatialMap
from sketchguide.sketchers import Sketcher
from sketchguide.sources import Borrowed, Change, borrow
from sketchguide.walking import walk


@dataclass(frozen=True)
class Batch:
    """Pictures to make: row i shows `prompts[i]`, follows `maps[i]` and starts from `seeds[i]`.

    Methods that begin with a picture get the drawing, dark ink on white paper, or `pictures[i]`. `request` has every
    other setting; its own prompt, seed, sketch and layout are not looked at. `guides` pull beside those of the method.
    Methods that can act less than they are set to do it by `share`.
    """

    backbone: Backbone
    request: Request
    prompts: Sequence[str]
    maps: Sequence[SpatialMap]
    seeds: Sequence[int]
    pictures: Tensor | None = None  # (B, 3, H, W) in [-1, 1]
    guides: Sequence[Guide] = ()
    share: float = 1.0
    begun: Begun | None = None

    def walk(self, *, guides: Sequence[Guide] = (), source: Borrowed | Change | None = None) -> Iterator[Moment]:
        """`walking.walk` of these pictures."""
        every = [*guides, *self.guides]
        return walk(
            self.request,
            self.backbone,
            prompts=self.prompts,
            seeds=self.seeds,
            guides=every,
            source=source,
            begun=self.begun,
        )

    def of(self, rows: Sequence[int], share: float, begun: Begun | None = None) -> Batch:
        """These of the pictures, by `share` of what acts on all, of which some steps may have `begun`."""
        return replace(
            self,
            prompts=[self.prompts[row] for row in rows],
            maps=[self.maps[row] for row in rows],
            seeds=[self.seeds[row] for row in rows],
            pictures=None if self.pictures is None else self.pictures[list(rows)],
            share=share * self.share,
            begun=begun,
        )

    @property
    def ink(self) -> Tensor:
        """The drawings (B, 1, H, W) in [0, 1], ink 1."""
        return torch.stack([torch.tensor(one.ink)[None] for one in self.maps]).to(self.backbone.device)

    @property
    def clean(self) -> Tensor:
        """The latents (B, C, h, w) of the pictures."""
        return self.backbone.encode(from_ink(1 - self.ink) if self.pictures is None else self.pictures)


Method = Callable[[Batch], Iterator[Moment]]


class Trained(NamedTuple):
    """A network, and what is on record about its training."""

    network: nn.Module
    training: Mapping[str, Any]  # training.json beside the network, or the report of a part; empty where it has none


class Built(NamedTuple):
    """A method, and the networks that it brings along."""

    method: Method
    networks: tuple[Trained, ...] = ()

    def within(self, around: Callable[[Method], Method], *networks: Trained) -> Built:
        """This method in `around`, with what that one brings along."""
        return Built(around(self.method), (*self.networks, *networks))


SDEDIT_AMOUNT = 0.85


def text_to_image(batch: Batch) -> Iterator[Moment]:
    """The prompt alone: the floor."""
    return batch.walk()


def latent_guidance(predictor: LatentPredictor) -> Method:
    """LGP (Voynov et al. 2022) with the settings of the request."""

    def method(batch: Batch) -> Iterator[Moment]:
        guide = latent_guide(batch.request, batch.maps, batch.backbone, predictor)
        return batch.walk(guides=weakened([guide], batch.share))

    return method


def likeness(sketcher: Sketcher, drawing: Features) -> Method:
    """DiffSketching's sketch loss on the predicted picture, without training; it pulls as hard and as often as LGP."""

    def method(batch: Batch) -> Iterator[Moment]:
        request = batch.request
        beta, every = request.beta, request.pulling_every
        guide = sketch_guide(request, batch.maps, batch.backbone, sketcher, drawing, strength=beta, every=every)
        return batch.walk(guides=weakened([guide], batch.share))

    return method


def sdedit(amount: float = SDEDIT_AMOUNT) -> Method:
    """Image-to-image from the picture itself (SDEdit, Meng et al. 2022)."""

    def method(batch: Batch) -> Iterator[Moment]:
        source = Change(batch.clean, steps_of(amount, batch.request))
        return batch.walk(source=source)

    return method


def plug_and_play(settings: LayoutSettings, predictor: LatentPredictor | None = None) -> Method:
    """The layout of the picture by its features (Tumanyan et al. 2023); with a predictor, the lines by LGP as well."""
    if settings.source == "generated":
        raise UsageError(
            "A drawing was not generated: it has no latents of its own.",
            hint="Choose source=inverted or source=noised.",
            field="source",
        )

    def method(batch: Batch) -> Iterator[Moment]:
        mask = near_strokes(batch.ink, settings.near, batch.backbone) if settings.near else None
        borrowed = yield from borrow(settings, batch.request, batch.backbone, batch.clean, mask=mask)
        guides = [] if predictor is None else [latent_guide(batch.request, batch.maps, batch.backbone, predictor)]
        yield from batch.walk(guides=weakened(guides, batch.share), source=borrowed)

    return method


def controlnet(network: nn.Module, weight: float = 1.0, mode: int | None = None) -> Method:
    """A ControlNet of diffusers (Zhang et al. 2023), shown white ink on black; `mode` as in `with_controlnet`."""
    return _told(weight, lambda told, hint, scale: with_controlnet(told, network, hint, scale=scale, mode=mode))


def t2i_adapter(network: nn.Module, weight: float = 1.0) -> Method:
    """A diffusers T2IAdapter (Mou et al. 2023), shown white ink on black."""
    config: Any = network.config
    return _told(
        weight,
        lambda told, hint, scale: with_t2i_adapter(told, network, hint, scale=scale),
        channels=config.in_channels,
    )


def sketch_attention(attention: SketchAttention, weight: float = 1.0) -> Method:
    """DiffSketching's attention to the drawing (Wang et al. 2022)."""

    def method(batch: Batch) -> Iterator[Moment]:
        told = with_sketch_attention(batch.backbone, attention, batch.ink, scale=weight * batch.share)
        return replace(batch, backbone=told).walk()

    return method


def towards_class(method: Method, classifier: LatentClassifier) -> Method:
    """`method` with classifier guidance beside it (Dhariwal & Nichol 2021), each picture to what its prompt names."""

    def towards(batch: Batch) -> Iterator[Moment]:
        numbers = [find_class_in(prompt, classifier.config.classes) for prompt in batch.prompts]
        guide = class_guide(batch.request, numbers, classifier)
        return method(replace(batch, guides=[*batch.guides, guide]))

    return towards


def until_recognised(method: Method, recogniser: Recogniser, *, until: float = 1.0) -> Method:
    """`method`, which acts until that part of the steps, and pictures that do not show what their prompt names again,
    with less of it; the last moment alone has all of them."""

    def trying(batch: Batch) -> Iterator[Moment]:
        def walk(rows: Sequence[int], number: int, first: Sequence[Tensor]) -> Iterator[Moment]:
            kept, share = easing_of(number, recogniser.tries)
            steps = int(kept * steps_until(until, batch.request))
            return method(batch.of(rows, share, resumed(first, rows, steps)))

        moment: Moment | None = None
        for event in walk_until_recognised(walk, batch.backbone.decode, batch.prompts, recogniser):
            if isinstance(event, Tried):
                assert moment is not None, "the first try comes before"
                yield moment._replace(latent=event.latent, clean=event.latent, evaluations=event.evaluations)
            else:
                moment = event.moment
                yield moment

    return trying


def _told(weight: float, wrap: Callable[[Backbone, Tensor, float], Backbone], *, channels: int = 3) -> Method:
    def method(batch: Batch) -> Iterator[Moment]:
        told = wrap(batch.backbone, batch.ink.expand(-1, channels, -1, -1), weight * batch.share)
        return replace(batch, backbone=told).walk()

    return method
