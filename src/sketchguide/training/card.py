"""The model card of a trained predictor: what it is, what it was made of, how to use it."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

from sketchguide.predictors import PredictorConfig
from sketchguide.training.predictor import PredictorTraining

_CARD = """\
---
library_name: sketchguide
tags:
- sketch-to-image
- latent-guidance-predictor
---

# Latent Guidance Predictor for {model}

Reads an *{map_kind}* map off the activations of `{model}` while it draws, so that a sketch can guide the picture
(Voynov et al. 2022, [arXiv:2211.13752](https://arxiv.org/abs/2211.13752)). The model itself is unchanged and not
included.

## Use

    {command}

```python
from sketchguide import LatentPredictor, generate, load_backbone

backbone = load_backbone({model_text})
predictor = LatentPredictor.from_pretrained({folder_text}).to(backbone.device)
(picture,) = generate("a red apple", sketch="apple.svg", backbone=backbone, predictor=predictor)
picture.save("apple.png")
```

## How it was made

| | |
|---|---|
| base model | `{model}` ({family}, {latent_channels} latent channels) |
| maps | {map_kind}, read as {reads} |
| pictures | {pictures} drawn to train on, {held_out_pictures} held out |
| steps | {steps} of batch {batch} ({views} noise levels a picture), learning rate {rate:g}, seed {seed} |
| time | {minutes:.1f} minutes on {hardware} |
| held-out error | {score} |
| hidden layers | {widths} |
| of the reader of clean latents | {clean_widths} |
| noise levels | progress {start:g} to {stop:g} (0 is pure noise) |

It reads {count} places, {channels} channels in all:

{taps}

The held-out error is that on pictures not trained on, as a share of the error of the best constant: 0 is perfect, 1
knows nothing.

## Licence

To be filled in by whoever publishes it: the licence of the weights, and of the pictures they were trained on.
"""


def model_card(
    config: PredictorConfig,
    settings: PredictorTraining,
    *,
    folder: str | Path,
    pictures: int,
    held_out_pictures: int,
    held_out: float | None,
    seconds: float,
    hardware: str,
) -> str:
    """The README.md (Markdown with the hub's header) of a predictor saved in `folder`.

    `pictures` and `held_out_pictures` are counts of files; `held_out` is `PredictorRun.score`, None if nothing was
    held out; `seconds` is the time spent on training.
    """
    return _CARD.format(
        model=config.backbone,
        map_kind=config.map_kind,
        reads="latents" if config.reads == "latent" else "ink",
        family=config.family,
        latent_channels=config.latent_channels,
        command=usage(config.backbone, folder),
        model_text=json.dumps(config.backbone),
        folder_text=json.dumps(str(folder)),
        pictures=pictures,
        held_out_pictures=held_out_pictures,
        steps=settings.steps,
        batch=settings.batch,
        views=settings.views,
        rate=settings.rate,
        seed=settings.seed,
        minutes=seconds / 60,
        hardware=hardware,
        score="not measured" if held_out is None or math.isnan(held_out) else f"{held_out:.3f}",
        widths=", ".join(map(str, config.widths)),
        clean_widths=", ".join(map(str, config.clean_widths)) or "none",
        start=config.window[0],
        stop=config.window[1],
        count=len(config.taps),
        channels=sum(config.channels),
        taps="\n".join(f"- `{path}` ({n})" for path, n in zip(config.taps, config.channels, strict=True)),
    )


def usage(model: str, folder: str | Path) -> str:
    """The command that draws with the predictor in `folder`."""
    words = ["sketchguide", "generate", "a red apple", "--sketch", "apple.svg", "--model", model]
    return shlex.join([*words, "--predictor", str(folder), "-o", "apple.png"])
