"""The command line run in this process, a tiny model on the disk, and a predictor trained for it."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from sketchguide.cli import main
from sketchguide.loading import load_backbone
from support import small_stable_diffusion


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        return json.loads(self.out)


Run = Callable[..., Result]


def _run(*arguments: str | Path) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def signals_are_heard() -> Iterator[None]:
    """A suite started in the background ignores Ctrl-C, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def loaded_once() -> Iterator[Callable[..., Any]]:
    """Commands that make pictures leave a model as it was, so one that is loaded serves the next of them too."""
    kept: dict[Any, Any] = {}

    def load(name: str | Path, **how: Any) -> Any:
        folder = Path(name)
        newest = max((file.stat().st_mtime_ns for file in folder.rglob("*")), default=0) if folder.is_dir() else 0
        key = (folder.resolve(), newest, *sorted(how.items()))
        if key not in kept:
            kept[key] = load_backbone(name, **how)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sketchguide.arguments.load_backbone", load)
        yield load


@pytest.fixture(scope="session")
def sketchguide() -> Run:
    return _run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    small_stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of two things, their captions the names of their folders."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        kind = ("red ball", "blue box")[index % 2]
        image = Image.new("RGB", (64, 64), "white")
        box = (8 + index, 10, 40 + index, 50)
        draw = ImageDraw.Draw(image)
        (draw.ellipse if index % 2 == 0 else draw.rectangle)(box, fill=kind.split()[0])
        (folder / kind).mkdir(exist_ok=True)
        image.save(folder / kind / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def training(pictures: Path, model: Path) -> list[str]:
    """What every training run here is called with."""
    return ["train", "--data", str(pictures), "--model", str(model), "--batch", "2", "--device", "cpu"]


@pytest.fixture(scope="session")
def trained(sketchguide: Run, training: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with a finished predictor, and what the command said."""
    folder = tmp_path_factory.mktemp("trained") / "predictor"
    return folder, sketchguide(*training, "--steps", "6", "-o", folder)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the tiny model's size, with colours."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    image = Image.new("RGB", (64, 64), "navy")
    ImageDraw.Draw(image).ellipse((10, 14, 50, 56), fill="orange")
    image.save(path)
    return path


@pytest.fixture(scope="session")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawing") / "ball.svg"
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        '<circle cx="32" cy="32" r="20" fill="none" stroke="black"/></svg>'
    )
    return path


@pytest.fixture(scope="session")
def quick(model: Path) -> list[str]:
    """Options of a picture that takes a moment."""
    return ["--model", str(model), "--steps", "2", "--device", "cpu"]
