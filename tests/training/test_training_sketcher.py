import math
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sketchguide.errors import UsageError
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.data import Example, Pictures
from sketchguide.training.sketcher import SketcherRun, SketcherTraining, dice
from support import gone_on

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(4):
        image = Image.new("RGB", (32, 32), "white")
        ImageDraw.Draw(image).ellipse((4 + index, 5, 22 + index, 26), fill=(200, 20 * index, 40))
        image.save(folder / f"{index}.png")
    return Pictures([Example(path, "", path.name) for path in sorted(folder.iterdir())], size=(32, 32))


def ink(images: Tensor) -> Tensor:
    """What is dark in pictures (B, 3, H, W)."""
    return (images.mean(dim=1, keepdim=True) < 0).float()


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
    rest = gone_on(SketcherRun(pictures, settings(steps=4), device=CPU), checkpoints)
    list(rest)
    for name, value in whole.sketcher.state_dict().items():
        assert torch.equal(value, rest.sketcher.state_dict()[name]), name


def test_what_is_kept_stays_small(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    one = 4 * (3 + 1) * 32 * 32 * 4  # bytes of four pictures and their maps
    for allowed, kept in ((1, 1), (2 * one, 2), (2**31, 5)):
        monkeypatch.setattr("sketchguide.training.run.POOL_BYTES", allowed)
        run = SketcherRun(pictures, settings(), device=CPU)
        list(run)
        assert len(run._pool) == kept


def test_maps_are_turned_with_their_pictures(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who draws what is dark has no loss, however the pictures lie."""
    run = SketcherRun(pictures, settings(noise=0.0, pool=1), device=CPU)
    images, _ = pictures.fixed(4)
    images[:, :, :8, :8] = -1.0
    run._pool[0] = (images, torch.zeros(4, dtype=torch.int64), ink(images))
    corners: set[tuple[float, ...]] = set()

    def draw(seen: Tensor, _: Tensor) -> Tensor:
        corners.add(tuple(seen[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist()))
        return 100 * (2 * ink(seen) - 1)

    monkeypatch.setattr(run.sketcher, "logits", draw)
    assert [float(run.loss()) for _ in range(24)] == pytest.approx([0.0] * 24, abs=1e-5)
    assert len(corners) == 4


def test_p_sees_noise_of_every_amount(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SketcherRun(pictures, settings(noise=0.5, pool=1), device=CPU)
    plain = torch.full((32, 3, 16, 16), 0.25)
    run._pool[0] = (plain, torch.zeros(32, dtype=torch.int64), torch.zeros(32, 1, 16, 16))
    given: list[Tensor] = []
    logits = run.sketcher.logits
    monkeypatch.setattr(run.sketcher, "logits", lambda seen, styles: given.append(seen) or logits(seen, styles))
    run.loss()
    noise = given[0] - plain
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    amounts = noise.flatten(1).std(dim=1)
    assert float(amounts.min()) < 0.1
    assert 0.4 < float(amounts.max()) < 0.55


def test_the_rate_falls_along_a_cosine(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SketcherRun(pictures, settings(steps=10, rate=0.01), device=CPU)
    monkeypatch.setattr(run, "loss", lambda: sum(0 * p.sum() for p in run.sketcher.parameters()))
    rates = [run.optimizer.param_groups[0]["lr"] for _ in run]
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])


def test_dice_by_hand() -> None:
    lines = torch.zeros(3, 1, 4, 4)
    lines[0, 0, 0], lines[1, 0, 1] = 1, 1
    assert dice(lines, lines).tolist() == [0, 0, 0]
    assert dice(lines[:1], lines[1:2]).item() == pytest.approx(1 - 1 / 9)
    half, whole = torch.full((1, 1, 4, 4), 0.5), torch.ones(1, 1, 4, 4)
    assert dice(half, whole).item() == pytest.approx(1 - (2 * 8 + 1) / (4 + 16 + 1))
    assert dice(half, half).item() == 0


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"styles": ("oil",)}):
        with pytest.raises(UsageError):
            settings(**wrong)
