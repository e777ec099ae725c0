"""A picture, edits that keep its layout, and a drawing whose layout and lines are kept: all by the embedded model."""

from pathlib import Path

from sketchguide import generate, load_backbone, translate
from sketchguide.images import from_base64, save_png, sheet

backbone = load_backbone()
(apple,) = generate("a noto red apple", backbone=backbone, seed=4, steps=16)
edits = translate(apple.image, ["a green apple", "a yellow pear"], backbone=backbone, seed=7, steps=16)

drawing = Path(__file__).parent / "sketches" / "apple.svg"
(drawn,) = translate(
    drawing, "a red apple on a blue background", sketch=drawing, source="noised", backbone=backbone, seed=7, steps=16
)
assert drawn.request.layout is not None
source = from_base64(drawn.request.layout.picture)

row = [apple.image, *(edit.image for edit in edits), source, drawn.image]
labels = ["source", *(edit.request.prompt for edit in edits), "drawing", drawn.request.prompt]
save_png(sheet([image.resize((192, 192)) for image in row], columns=5, labels=labels), "translate.png")
