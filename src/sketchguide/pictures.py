"""Finished pictures, and the recipes that their files carry."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sketchguide.errors import SketchError, UsageError
from sketchguide.files import is_file
from sketchguide.images import read_png_text, save_png, to_png
from sketchguide.request import Recipe, Request
from sketchguide.sampling import Evaluations

RECIPE_KEY = "sketchguide"  # under which a PNG has it among its texts
WEB_UI_KEY = "parameters"  # under which Stable Diffusion web UI and its relatives have prompt and settings


@dataclass(frozen=True)
class Picture:
    """A finished picture with all that is needed to make it again."""

    image: Image.Image
    request: Request
    index: int  # which of the request's pictures
    made_with: dict[str, str]  # versions and fingerprints
    evaluations: Evaluations  # that its batch takes alone; what it shares with others counts in full
    tried: int = 1  # which of its tries it is
    confidence: float | None = None  # how sure the recogniser is of it, 0 to 1; None where it was not asked

    def __repr__(self) -> str:
        return f"Picture({self.request.prompt!r}, seed {self.seed}, {self.image.width}x{self.image.height})"

    @property
    def seed(self) -> int:
        return self.request.seed + self.index

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            request=self.request,
            index=self.index,
            made_with=self.made_with,
            evaluations=self.evaluations._asdict(),
            tried=self.tried,
            confidence=self.confidence,
        )

    def save(self, path: str | Path) -> None:
        """Write a PNG that carries the recipe (`sketchguide generate --from` repeats it)."""
        save_png(self.image, path, text=self._text)

    def to_png(self) -> bytes:
        """What `save` writes."""
        return to_png(self.image, text=self._text)

    @property
    def _text(self) -> dict[str, str]:
        return {RECIPE_KEY: self.recipe.model_dump_json()}


def recall(source: str | Path | bytes) -> Recipe:
    """The recipe stored in a PNG that sketchguide wrote, or in its bytes."""
    text = read_png_text(source).get(RECIPE_KEY)
    try:
        recipe = json.loads(text or "")
        request = Request.checked(**recipe.pop("request"))
        return Recipe(request=request, **recipe)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{'The picture' if isinstance(source, bytes) else source} carries no sketchguide recipe.",
            hint="The PNG files of `sketchguide generate`, `translate` and `edit` do, as they were written: no strip "
            "of frames, and none that another program saved again.",
            field="from",
        ) from error


def prompt_in(path: Path) -> str | None:
    """The prompt of a picture that sketchguide or a Stable Diffusion web UI wrote as PNG, None of any other file and of
    a sheet; only its header is read."""
    if path.suffix.lower() != ".png" or not is_file(path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(path, formats=("PNG",)) as image:
                if RECIPE_KEY not in image.info:
                    written = image.info[WEB_UI_KEY]
                    settings = re.search(r"\nSteps: \d", written)
                    prompt = None if settings is None else written[: settings.start()]
                    return None if prompt is None else prompt.partition("\nNegative prompt:")[0].rstrip()
                recipe = json.loads(image.info[RECIPE_KEY])
                return None if recipe.get("sheet") else str(recipe["request"]["prompt"])
    except Exception:  # the decoders raise nearly everything on damaged files
        return None


def carries_recipe(data: bytes) -> bool:
    """Whether a file of these bytes is a PNG that sketchguide wrote."""
    try:
        return RECIPE_KEY in read_png_text(data)
    except SketchError:  # no PNG
        return False
