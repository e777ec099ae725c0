from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sketchguide.errors import SketchguideWarning, UsageError
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.data import Pictures, find_examples
from sketchguide.training.predictor import PredictorRun, PredictorTraining
from sketchguide.training.run import warn_of_long_captions
from sketchguide.training.told import ToldTraining
from support import Tiny, gone_on
from training.test_predictor import TAPS, Ink


def run_of(tiny: Tiny, pictures: Pictures, steps: int) -> PredictorRun:
    asked = PredictorTraining(steps=steps, batch=2, views=2, widths=(8,), taps=TAPS)
    return PredictorRun(tiny(), pictures, Ink(), asked)


def test_the_pictures_that_were_drawn_are_counted_over_an_interruption(tiny: Tiny, boxes: Path, tmp_path: Path) -> None:
    examples = find_examples(boxes)
    whole, first, second = (Pictures(examples, size=(64, 64)) for _ in range(3))
    assert not whole.used
    for _ in run_of(tiny, whole, 5):
        pass
    assert 1 < len(whole.used) < len(examples)
    run = run_of(tiny, first, 5)
    for step in run:
        if step.step == 2:
            break
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, run.state(), {})
    assert first.used < whole.used
    for _ in gone_on(run_of(tiny, second, 5), checkpoints):
        pass
    assert second.used == whole.used


def test_a_picture_that_cannot_be_read_is_not_counted(boxes: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((boxes / "0.png").read_bytes())
    for number in range(1, 12):
        (tmp_path / f"b{number}.png").write_bytes((boxes / "1.png").read_bytes())
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="without a caption"):
        pictures = Pictures(find_examples(tmp_path), size=(64, 64))
    pictures.batch(torch.Generator().manual_seed(0), 200)
    assert len(pictures.used) == 11
    assert pictures.fixed(12)[0].shape[0] == 11
    assert len(pictures.used) == 11


def test_captions_that_are_read_in_part_are_counted_by_a_few() -> None:
    seen: list[str] = []

    def unread(captions: list[str]) -> list[str]:
        seen.extend(captions)
        return [caption[100:] for caption in captions]

    backbone: Any = SimpleNamespace(name="tiny", unread=unread)
    warn_of_long_captions(backbone, ["a" * length for length in range(101)])
    assert seen == ["a" * 100]
    expected = f"^Captions are longer than tiny reads, about 900 of 1001; the longest loses '{'a' * 80} …'.$"
    with pytest.warns(SketchguideWarning, match=expected):
        warn_of_long_captions(backbone, ["a" * length for length in range(1001)])
    assert len(seen) < 20


@pytest.mark.parametrize("rate", [0, -1, 1.5, float("inf"), float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(UsageError) as caught:
        ToldTraining(rate=rate)
    assert caught.value.field == "rate"
    with pytest.raises(UsageError):
        PredictorTraining(rate=rate)
