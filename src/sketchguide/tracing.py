"""From a picture to a drawing of it: the outlines and main inner lines, to draw something else by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sketchguide.errors import SketchError
from sketchguide.extractors import EXTRACTORS, SMALLEST
from sketchguide.images import as_picture, open_image, to_tensor
from sketchguide.sketch import Sketch, SpatialMap

SIDE = 512  # pixels of the longer side; edges are looked for on a coarser grid, so more would only be larger


def trace(picture: Image.Image | str | Path | bytes) -> Sketch:
    """The lines in a photograph, a painting or another `picture`, or in its file, by the extractor that LGP learns
    from (`Edges`).

    A drawing has its lines already, and `Sketch.open` takes them; here both sides of a thick line would be lines.

    Raises:
        SketchError: a file that cannot be read; a picture without an edge, or more than 32 times as long as wide.
        UsageError: something else than a picture or file.
    """
    name = Path(picture).stem if isinstance(picture, str | Path) else ""
    if isinstance(picture, bytes):
        small = open_image(picture, field="picture")
    else:
        small = as_picture(picture, field="picture").copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    if min(small.size) < SMALLEST:
        raise SketchError(
            f"The picture is more than {SIDE // SMALLEST} times as long as wide.",
            hint="Cut it to what matters.",
            field="picture",
        )
    ink = EXTRACTORS["edges"](to_tensor([small]))[0, 0].numpy()
    if SpatialMap(ink, np.ones_like(ink)).blank:
        raise SketchError("There is no edge in the picture.", hint="Take one with more contrast.", field="picture")
    return Sketch(raster=ink, aspect=small.width / small.height, name=name)
