"""A drawing, the picture without it, and the picture that follows it: the one at the top of the README."""

from pathlib import Path

import torch

from sketchguide import Sketch, generate, load_backbone
from sketchguide.images import save_png, sheet, to_images

sketches = Path(__file__).parent / "sketches"
backbone = load_backbone()
row = []
for name, prompt in (("apple", "a red apple"), ("butterfly", "a butterfly")):
    sketch = Sketch.open(sketches / f"{name}.svg")
    ink = torch.tensor(sketch.rasterize(size=(192, 192)).ink)
    row += to_images((1 - 2 * ink).expand(1, 3, -1, -1))
    for drawing in (None, sketch):
        (picture,) = generate(prompt, sketch=drawing, backbone=backbone, seed=1)
        row.append(picture.image.resize((192, 192)))
save_png(sheet(row, columns=6), "compare.png")
