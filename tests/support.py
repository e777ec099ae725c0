"""Names for the types of the shared fixtures."""

from collections.abc import Callable

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.predictors import LatentPredictor

Tiny = Callable[..., UNetBackbone]
MakePredictor = Callable[..., LatentPredictor]
