from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sketchguide.cli.signals import Stopped
from sketchguide.sizes import BATCH
from sketchguide.walking import walk_from

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def quickly(model: Path) -> list[str]:
    return ["--model", str(model), "--steps", "2", "--device", "cpu", "--frames", "3"]


def test_a_strip_between_seeds_begins_with_the_first(sketchguide: Run, quickly: list[str], tmp_path: Path) -> None:
    for ends, name in (("38", "a.png"), ("83", "b.png")):
        assert sketchguide("interpolate", *ends, *quickly, "--prompt", "a duck", "-o", tmp_path / name).code == 0
    one, other = (Image.open(tmp_path / name) for name in ("a.png", "b.png"))
    assert one.size == (3 * 64 + 4 * 4, 64 + 2 * 4)
    first, last = (4, 4, 68, 68), (140, 4, 204, 68)
    gap = [abs(a - b) for a, b in zip(one.crop(first).tobytes(), other.crop(last).tobytes(), strict=True)]
    assert max(gap) <= 1  # rounding depends on the place in the batch
    assert one.crop(first).tobytes() != one.crop(last).tobytes()


def test_what_changes_nothing_is_told(sketchguide: Run, quickly: list[str], tmp_path: Path) -> None:
    words = ["interpolate", "1", "2", *quickly, "--prompt", "", "--json", "-o", tmp_path / "a.png"]
    result = sketchguide(*words, "--lora-scale", "0.5", "--predictor", "nosuch")
    assert result.code == 0, result
    told = " ".join(result.json["warnings"])
    assert "lora_scale changes nothing" in told
    assert "predictor changes nothing" in told
    assert "The prompt is empty" in told
    assert sketchguide(*words, "--lora-scale", "100").code == 2


def test_what_is_not_read_is_told(sketchguide: Run, quickly: list[str], tmp_path: Path) -> None:
    words = ["interpolate", "1", "2", *quickly, "--prompt", "a " * 76 + "the end", "--frames", "2", "--json"]
    result = sketchguide(*words, "-o", tmp_path / "a.png")
    assert result.code == 0, result
    assert any("not read" in warning and "the end" in warning for warning in result.json["warnings"])


def test_pictures_are_inverted_and_a_gif_comes_and_goes(sketchguide: Run, quickly: list[str], tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 64), "white")
    wide.save(tmp_path / "wide.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    pictures = (tmp_path / "wide.png", tmp_path / "red.png")
    result = sketchguide("interpolate", *pictures, *quickly, "-o", tmp_path / "out.gif", "--json")
    assert result.code == 0, result
    assert any("cut at the middle" in warning for warning in result.json["warnings"])
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.n_frames in (2, 3, 4)  # equal neighbours are merged
        assert gif.info["duration"] % 100 == 0
    assert (
        sketchguide("interpolate", "1", "2", *quickly, "--prompt", "a", "--rate", "35", "-o", tmp_path / "f.gif").code
        == 0
    )
    with Image.open(tmp_path / "f.gif") as gif:
        assert gif.info["duration"] == 30


def test_the_frames_at_both_ends_are_the_pictures(sketchguide: Run, photo: Path, tmp_path: Path) -> None:
    """On the embedded model, whose inversion leads back: noise in place of an inverted picture would not."""
    ends = (tmp_path / "ball.png", photo)
    ball = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(ball).ellipse((12, 12, 52, 52), fill="red")
    ball.save(ends[0])
    words = ["--prompt", "a red ball", "--frames", "2", "--steps", "12", "--device", "cpu", "--model", "icons-64"]
    result = sketchguide("interpolate", *ends, *words, "-o", tmp_path / "a.png")
    assert result.code == 0, result
    strip = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(float)
    frames = strip[4:68, 4:68], strip[4:68, 72:136]
    pictures = [np.asarray(Image.open(path).convert("RGB")).astype(float) for path in ends]
    gaps = [[float(np.abs(frame - picture).mean()) for picture in pictures] for frame in frames]
    assert gaps[0][0] < gaps[0][1] / 3
    assert gaps[1][1] < gaps[1][0] / 3


def test_frames_follow_no_blank_drawing(sketchguide: Run, quickly: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    sketch = ["--sketch", tmp_path / "blank.png"]
    for name, options in (("with", sketch), ("without", [])):
        words = [*quickly, "--prompt", "a", *options, "--json"]
        result = sketchguide("interpolate", "1", "2", *words, "-o", tmp_path / f"{name}.png")
        assert result.code == 0, result
        assert any("follow none" in warning for warning in result.json["warnings"]) == bool(options)
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_frames_follow_a_drawing_by_the_named_predictor(
    sketchguide: Run, quickly: list[str], trained: tuple[Path, object], drawing: Path, tmp_path: Path
) -> None:
    made = [tmp_path / "with.png", tmp_path / "without.png"]
    for path, more in zip(made, (["--sketch", drawing, "--predictor", trained[0]], []), strict=True):
        result = sketchguide("interpolate", "1", "2", "--prompt", "a", *quickly, *more, "-o", path)
        assert result.code == 0, result
    assert made[0].read_bytes() != made[1].read_bytes()


def test_two_drawings_are_ends_like_any_others(
    sketchguide: Run, quickly: list[str], trained: tuple[Path, object], drawing: Path, tmp_path: Path
) -> None:
    """What `--sketch` twice makes between equal seeds."""
    other = tmp_path / "line.svg"
    other.write_text(drawing.read_text().replace('r="20"', 'r="8"'))
    words = ["--prompt", "a duck", *quickly, "--predictor", trained[0]]
    named = ["3", "3", "--sketch", drawing, "--sketch", other]
    for name, ends in (("ends", [drawing, other, "--seed", "3"]), ("named", named)):
        result = sketchguide("interpolate", *ends, *words, "-o", tmp_path / f"{name}.png")
        assert result.code == 0, result
    assert (tmp_path / "ends.png").read_bytes() == (tmp_path / "named.png").read_bytes()
    unsaid = sketchguide("interpolate", drawing, other, *quickly, "-o", tmp_path / "none.png")
    assert (unsaid.code, unsaid.err.splitlines()[0]) == (2, "Error: There is no prompt.")
    for ends in ([drawing, "3"], [drawing, other, "--sketch", drawing]):
        result = sketchguide("interpolate", *ends, *words, "-o", tmp_path / "none.png")
        assert result.code == 2
        assert "must both be drawings" in result.err


def test_what_cannot_be_written_is_told_before_the_work(sketchguide: Run, quickly: list[str], tmp_path: Path) -> None:
    (tmp_path / "out.gif").mkdir()
    result = sketchguide("interpolate", "1", "2", *quickly, "-o", tmp_path / "out.gif")
    assert result.code == 2
    assert "out.gif is a folder" in result.err


def test_a_film_has_every_frame_there_and_back(sketchguide: Run, quickly: list[str], tmp_path: Path) -> None:
    import av

    film = ["interpolate", "1", "2", "--prompt", "a", *quickly]
    once = sketchguide(*film, "--once", "--rate", "25", "-o", tmp_path / "once.mp4")
    assert "3 frames, spherical" in once.out
    with av.open(str(tmp_path / "once.mp4")) as shown:
        assert shown.streams.video[0].average_rate == 25
        assert len(list(shown.decode(video=0))) == 3
    (tmp_path / "once.mp4").unlink()
    result = sketchguide(*film, "-o", tmp_path / "out.mp4")
    assert (result.code, result.err) == (0, "")
    assert "3 frames, 4 with the way back, spherical" in result.out
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(str(tmp_path / "out.mp4")) as film:
        told = film.streams.video[0].codec_context
        assert (told.colorspace, told.color_primaries, told.color_trc, told.color_range) == (1, 1, 1, 1)  # BT.709
        frames = [frame.reformat(format="rgb24", src_colorspace=1).to_ndarray() for frame in film.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape == (64, 64, 3)
    assert sketchguide("interpolate", "1", "2", "--prompt", "a", *quickly, "-o", tmp_path / "out.png").code == 0
    with Image.open(tmp_path / "out.png") as strip:
        first = np.asarray(strip.convert("RGB"))[4:68, 4:68]
    assert np.abs(frames[0].mean(axis=(0, 1)) - first.mean(axis=(0, 1))).max() < 3


def test_a_film_that_cannot_be_encoded_is_told(
    sketchguide: Run, quickly: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_a_codec(*_: Any, **__: Any) -> None:
        raise ValueError("no such codec")

    monkeypatch.setattr("av.open", without_a_codec)
    result = sketchguide("interpolate", "1", "2", "--prompt", "a", *quickly, "-o", tmp_path / "out.mp4")
    assert result.code == 1
    assert "PyAV cannot write the MP4: no such codec" in result.err
    assert not list(tmp_path.iterdir())


def test_a_film_without_its_encoder_is_refused_at_once(
    sketchguide: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sketchguide.cli.interpolate.CODEC", "nosuch")
    result = sketchguide("interpolate", "1", "2", "-o", tmp_path / "out.mp4")
    assert result.code == 2
    assert "no encoder nosuch" in result.err


def test_frames_that_are_finished_are_kept_when_it_is_stopped(
    sketchguide: Run, quickly: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = iter([walk_from, stop])
    monkeypatch.setattr("sketchguide.frames.walk_from", lambda *given, **more: next(walked)(*given, **more))
    words = ["--prompt", "a", "--frames", str(BATCH + 2)]
    result = sketchguide("interpolate", "1", "2", *quickly, *words, "-o", tmp_path / "out.png")
    assert result.code == 130
    assert f"The first {BATCH} of {BATCH + 2} frames were finished and are kept." in " ".join(result.err.split())
    with Image.open(tmp_path / "out.png") as strip:
        assert strip.size == (BATCH * 68 + 4, 72)


def stop(*_: Any, **__: Any) -> None:
    raise Stopped(2)


def test_a_film_without_its_library_is_refused_at_once(
    sketchguide: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sketchguide.cli.interpolate.find_spec", lambda _: None)
    result = sketchguide("interpolate", "1", "2", "-o", tmp_path / "out.mp4")
    assert result.code == 2
    assert "sketchguide[video]" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("1", "2", "--frames", "1"), "frames is 1"),
        (("1", "2", "--way", "cubic"), "no way 'cubic'"),
        (("1", "none.png"), "no file"),
        (("99999999999", "2"), "The seed 99999999999 is out of range"),
        (("1", "2", "-o", "strip.jpg"), "does not end in .png, .gif or .mp4"),
        (("1", "2", "-o", "none/strip.png"), "does not exist"),
        (("1", "2", "--prompt", "a", "--lora", "none"), "No LoRA at"),
        (("1", "2"), "There is no prompt."),
    ],
)
def test_bad_input_is_one_sentence(
    sketchguide: Run, quickly: list[str], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = sketchguide("interpolate", "-o", tmp_path / "strip.png", *quickly, *arguments)
    assert result.code == 2, result
    assert words in result.err.splitlines()[0]
