"""What `generate` does with one try, by hand: one guide, a preview after every step, nothing hidden."""

from pathlib import Path

from sketchguide import LatentGuide, Proportional, Sketch, load_backbone, load_predictor, sample, target_of
from sketchguide.defaults import EVEN, EVERY, HANDOVER, NEGATIVE_TIME, SCALE, STEPS, STOP, STRENGTH
from sketchguide.images import save_png, sheet, to_images
from sketchguide.seeds import generators, noise

backbone = load_backbone()
predictor = load_predictor(None, backbone)
drawing = Sketch.open(Path(__file__).parent / "sketches" / "sailboat.svg").rasterize(size=backbone.default_size)
target, weight = target_of(drawing, backbone, predictor)
pull = Proportional(STRENGTH.default, even=EVEN.default)
window = (0.0, STOP.default)
guide = LatentGuide(
    predictor, target, weight, window=window, strength=pull, every=EVERY.default, handover=HANDOVER.default
)

previews = []
latent = noise(generators([7]), (backbone.latent_channels, *(side // backbone.stride for side in drawing.ink.shape)))
for moment in sample(
    backbone,
    backbone.describe(["a sailboat"]),
    latent,
    backbone.levels(STEPS.default),
    negative=backbone.describe([""]),
    scale=SCALE.default,
    negative_time=NEGATIVE_TIME.default,
    guides=[guide],
):
    previews += to_images(backbone.decode(moment.clean))
save_png(sheet(previews, columns=10), "steps.png")
