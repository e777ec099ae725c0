from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from sketchguide.errors import UsageError
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.data import Example, Pictures
from sketchguide.training.sketcher import SketcherRun, SketcherTraining, dice

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(4):
        image = Image.new("RGB", (32, 32), "white")
        ImageDraw.Draw(image).ellipse((4 + index, 5, 22 + index, 26), fill=(200, 20 * index, 40))
        image.save(folder / f"{index}.png")
    return Pictures([Example(path, "", path.name) for path in sorted(folder.iterdir())], size=(32, 32))


def settings(**more: object) -> SketcherTraining:
    return SketcherTraining(**({"steps": 40, "batch": 4, "width": 8, "blocks": 1, "rate": 5e-3} | more))  # pyright: ignore[reportArgumentType]


def test_p_learns_to_draw_what_the_extractors_draw(pictures: Pictures) -> None:
    run = SketcherRun(pictures, settings(), device=CPU)
    images, _ = pictures.fixed(4)
    before = run.score(images)
    list(run)
    assert run.score(images) < 0.75 * before


def test_a_resumed_run_is_the_uninterrupted_one(pictures: Pictures, tmp_path: Path) -> None:
    whole, half = (SketcherRun(pictures, settings(steps=4), device=CPU) for _ in range(2))
    list(whole)
    for _ in zip(range(2), half, strict=False):
        pass
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(half.step, half.state(), {})
    rest = SketcherRun(pictures, settings(steps=4), device=CPU, resume=checkpoints.latest())
    list(rest)
    for name, value in whole.sketcher.state_dict().items():
        assert torch.equal(value, rest.sketcher.state_dict()[name]), name


def test_dice_by_hand() -> None:
    ink = torch.zeros(3, 1, 4, 4)
    ink[0, 0, 0], ink[1, 0, 1] = 1, 1
    assert dice(ink, ink).tolist() == [0, 0, 0]
    assert dice(ink[:1], ink[1:2]).item() == pytest.approx(1 - 1 / 9)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"styles": ("oil",)}):
        with pytest.raises(UsageError):
            settings(**wrong)
