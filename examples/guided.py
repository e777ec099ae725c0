"""What `generate` does by default, by hand: one guide, a preview after every step, nothing hidden."""

from pathlib import Path

from sketchguide import LatentGuide, Proportional, Sketch, load_backbone, load_predictor, sample
from sketchguide.guidance import target_of
from sketchguide.images import save_png, sheet, to_images
from sketchguide.seeds import generators, noise

backbone = load_backbone("icons-64")
predictor = load_predictor(None, backbone)
drawing = Sketch.open(Path(__file__).parent / "sketches" / "sailboat.svg").rasterize(size=backbone.default_size)
target, weight = target_of(drawing, backbone, predictor)
pull = Proportional(2.8, even=0.6)
guide = LatentGuide(predictor, target, weight, window=(0.0, 0.85), strength=pull, every=2, handover=0.4)

previews = []
latent = noise(generators([7]), (backbone.latent_channels, *(side // backbone.stride for side in drawing.ink.shape)))
for moment in sample(
    backbone,
    backbone.describe(["a sailboat"]),
    latent,
    backbone.levels(24),
    negative=backbone.describe([""]),
    scale=4.0,
    negative_time=0.3,
    guides=[guide],
):
    previews += to_images(backbone.decode(moment.clean))
save_png(sheet(previews, columns=8), "steps.png")
