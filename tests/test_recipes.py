"""The recipe of the embedded model, in recipes/icons/: that it learns, stops, goes on and is loaded."""

import dataclasses
import gzip
import importlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio

from sketchguide import generate, load_backbone
from sketchguide.classifiers import load_classifier
from sketchguide.images import to_tensor
from sketchguide.shipped import EMBEDDED
from sketchguide.training.checkpoints import Checkpoints
from support import load_script

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "icons"
COLOURS = {"1f34e": ("red apple", "red"), "1f34f": ("green apple", "green"), "1f535": ("blue circle", "blue")}


@pytest.fixture(scope="module")
def train() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield load_script(FOLDER / "train.py", patch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three icons, laid out as the real ones are."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "emoji128").mkdir()
    records = []
    for code, (name, colour) in COLOURS.items():
        icon = Image.new("RGBA", (128, 128))
        ImageDraw.Draw(icon).ellipse((10, 10, 118, 118), fill=colour)
        icon.save(folder / "emoji128" / f"{code}.png")
        record = {"file": f"emoji128/{code}.png", "style": "noto", "unicode": code, "name": name, "keywords": [name]}
        records.append(record)
    (folder / "emoji128" / "metadata.json").write_text(json.dumps(records))
    words = {name: [code] for code, (name, _) in COLOURS.items()}
    (folder / "class_map.json").write_text(json.dumps({"quickdraw word -> emoji unicode (Fluent)": words}))
    square = [[[0, 250, 250, 0, 0], [40, 40, 200, 200, 40]]]
    drawings = [{"word": name, "recognized": True, "drawing": square} for name, _ in COLOURS.values()]
    (folder / "quickdraw").mkdir()
    with gzip.open(folder / "quickdraw" / "quickdraw.ndjson.gz", "wt") as file:
        file.writelines(json.dumps(drawing) + "\n" for drawing in drawings)
    return folder


@pytest.mark.parametrize("size", [64, pytest.param(128, marks=pytest.mark.slow)])
def test_a_model_is_trained_in_stages_that_go_on_where_they_stopped(
    train: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(train, "preview", lambda *_: None)  # 25 pictures
    shape = train.SHAPES[size]
    narrow = dataclasses.replace(shape, autoencoder=(16,) * len(shape.autoencoder), unet=(16, 16, 16), text_width=16)
    monkeypatch.setitem(train.SHAPES, size, narrow)
    monkeypatch.setattr("proportions.SCORED", 1)
    batch = train.Artwork.batch  # of 64 for statistics and captions, of which fewer tell as much here
    monkeypatch.setattr(train.Artwork, "batch", lambda art, count, rng: batch(art, 4 if count == 64 else count, rng))
    common = ["--data", str(data), "--out", str(tmp_path), "--size", str(size), "--batch", "2", "--styles", "noto"]
    steps: list[int] = []
    start = ["--start", str(tmp_path / "pipeline"), "--out", str(tmp_path / "decoder")]
    for stage in ("autoencoder", "diffusion", "diffusion", "decoder"):
        asked = itertools.count()
        monkeypatch.setattr(train.Run, "progress", property(lambda _, asked=asked: min(1.0, next(asked) / 10)))
        monkeypatch.setattr(sys, "argv", ["train.py", stage, *common, *(start if stage == "decoder" else [])])
        train.main()
        kept = Checkpoints(tmp_path / ("decoder/decoder" if stage == "decoder" else stage)).latest()
        assert kept is not None
        steps.append(kept.step)
    assert 0 < steps[1] < steps[2]
    monkeypatch.setattr(sys, "argv", ["train.py", "diffusion", *common, "--focus", "3"])
    with pytest.raises(SystemExit, match=r"focus was 1.5, now 3.0.* or give another --out"):
        train.main()
    tokenizer = (tmp_path / "pipeline" / "tokenizer" / "tokenizer.json").read_bytes()
    (tmp_path / "pipeline" / "training.json").write_text('{"samples": 1}')  # as of one that is shipped
    asked = itertools.count()
    monkeypatch.setattr(train.Run, "progress", property(lambda _: min(1.0, next(asked) / 2)))
    decoder = ["--out", str(tmp_path / "decoder"), "--start", str(tmp_path / "pipeline")]
    monkeypatch.setattr(sys, "argv", ["train.py", "diffusion", *common, *decoder, "--people", "0.1"])
    train.main()  # of other captions, yet by the words that its text encoder knows
    assert (tmp_path / "decoder" / "tokenizer" / "tokenizer.json").read_bytes() == tokenizer
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in log if "icons" in line] == ["diffusion", "diffusion"]
    quality = {name: value for line in log if line["stage"] == "autoencoder" for name, value in line.items()}
    sheet = np.asarray(Image.open(tmp_path / "autoencoder.png"))[2:].reshape(6, size + 2, -1, 3)[:, :size]
    for row, name in enumerate(("psnr_pictures", "psnr_drawings")):  # each above what the autoencoder made of it
        assert quality[name] == pytest.approx(peak_signal_noise_ratio(sheet[row], sheet[row + 2]), abs=0.3)
    before, after = (
        load_file(f / "diffusion_pytorch_model.safetensors") for f in (tmp_path / "vae", tmp_path / "decoder/vae")
    )
    changed = {name.split(".")[0] for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {"decoder", "post_quant_conv"}  # the denoiser and predictors rest on the first half
    (picture,) = generate("red apple", backbone=load_backbone(tmp_path / "pipeline"), steps=1, seed=1)
    assert picture.image.size == (size, size)


@pytest.fixture(scope="module")
def larger(train: ModuleType) -> Iterator[ModuleType]:
    del train  # its folder is on the path
    with pytest.MonkeyPatch.context() as patch:
        yield load_script(FOLDER / "larger.py", patch)


@torch.no_grad()
def test_a_larger_autoencoder_begins_as_the_smaller_one_enlarged(larger: ModuleType) -> None:
    small = AutoencoderKL.from_pretrained(EMBEDDED / "icons-64" / "vae", dtype=torch.float32).eval()
    large = larger.enlarged(small).eval()
    (picture,) = generate("a house", backbone=load_backbone("icons-64"), seed=1, steps=8)
    pixels = to_tensor([picture.image])
    latent = small.encode(pixels).latent_dist.mode()
    made, before = large.decode(latent).sample, small.decode(latent).sample
    assert made.shape == (1, 3, 128, 128)
    assert (torch.nn.functional.avg_pool2d(made, 2) - before).abs().mean() < 0.03
    found = large.encode(torch.nn.functional.interpolate(pixels, scale_factor=2)).latent_dist.mode()
    assert (found - latent).square().mean() < 0.02


def test_a_larger_autoencoder_is_trained_and_goes_on(
    train: ModuleType, larger: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = dataclasses.replace(train.SHAPES[64], autoencoder=(16, 16, 16))
    monkeypatch.setitem(train.SHAPES, 64, shape)
    small = train.build_autoencoder(64)
    AutoencoderKL.from_config({**small.config, "sample_size": 16}).save_pretrained(tmp_path / "start" / "vae")
    run, asked = tmp_path / "run", ["--data", str(data), "--start", str(tmp_path / "start"), "--styles", "noto"]
    monkeypatch.setattr(sys, "argv", ["larger.py", *asked, "--out", str(run), "--batch", "8"])
    steps: list[int] = []
    for _ in range(2):
        counted = itertools.count()
        monkeypatch.setattr(larger.Run, "progress", property(lambda _, counted=counted: min(1.0, next(counted) / 11)))
        larger.main()
        kept = Checkpoints(run / "larger").latest()
        assert kept is not None
        steps.append(kept.step)
    assert 0 < steps[0] < steps[1]
    trained = AutoencoderKL.from_pretrained(run / "vae")
    assert trained.config["sample_size"] == 32
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"psnr_before", "psnr_of_its_latents", "psnr_of_own_latents"} <= set().union(*log)
    with Image.open(run / "larger.png") as sheet:
        assert sheet.size == (8 * 34 + 2, 12 * 34 + 2)


@pytest.mark.parametrize("focus", [0.0, 2.0])
def test_what_is_learned_badly_is_drawn_more_often(train: ModuleType, focus: float) -> None:
    """Icon 2 loses twice as much as the others at every level, and levels differ tenfold."""
    practice, rng = train.Practice(3, focus), torch.Generator().manual_seed(0)
    for _ in range(200):
        chosen = torch.randint(3, (8,), generator=rng)
        share = torch.rand(8, generator=rng)
        practice.note(chosen, share, torch.where(chosen == 2, 2.0, 1.0) * (1 + 9 * share))
    drawn = practice.draw(3000, rng).bincount(minlength=3) / 3000
    ratio = float(drawn[2] / drawn[:2].mean())
    assert ratio == pytest.approx(2.0**focus, rel=0.25)
    resumed = train.Practice(3, focus)
    resumed.load_state_dict(practice.state_dict())
    assert torch.equal(resumed.loss, practice.loss)


def test_a_decoder_without_a_model_is_refused(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "decoder", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 2
    assert "--start" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_spoilt_latents_differ_by_no_more_than_said(train: ModuleType) -> None:
    latents, rng = torch.zeros(400, 4, 16, 16), torch.Generator().manual_seed(0)
    deviations = train.spoil(latents, rng).flatten(1).std(dim=1)
    assert deviations.min() < 0.05
    assert 0.3 < deviations.max() < 0.65


@pytest.mark.usefixtures("train")
def test_what_is_not_bent_is_only_mirrored_and_moved_a_little() -> None:
    layers = torch.zeros(2, 4, 96, 96)
    layers[:, :, 20:70, 30:50] = 1
    layers[:, :, 20:40, 50:70] = 1  # neither side is like the other
    small = torch.nn.functional.interpolate(layers, size=(64, 64), mode="area")
    rng = torch.Generator().manual_seed(0)
    warp = sys.modules["artwork"].warp
    for _ in range(10):
        still, bent = warp(layers, 64, rng, loose=torch.tensor([0.0, 2.0]))
        near = [
            (torch.roll(one, (dy, dx), (1, 2)) - still).abs().mean()
            for one in (small[0], small[0].flip(2))
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        ]
        assert min(near) < 0.02
        assert (small[1] - bent).abs().mean() > 0.02


def test_a_share_of_the_pictures_is_laid_out_as_people_draw(
    train: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proportions.SCORED", 1)
    artwork = train.Artwork(data, size=64, styles=("noto",), plain=0.5, people=0.25)
    assert sorted(len(fits) for fits in artwork.fits) == [0, 1, 1]  # the first drawing is scored by benchmarks
    laid: list[float] = []
    warp = sys.modules["artwork"].warp

    def watched(*args: object, loose: torch.Tensor, layout: dict[int, torch.Tensor]) -> torch.Tensor:
        laid.extend(float(loose[place]) for place in layout)
        return warp(*args, loose=loose, layout=layout)

    monkeypatch.setattr("artwork.warp", watched)
    artwork.batch(900, torch.Generator().manual_seed(0))
    assert len(laid) / 900 == pytest.approx(0.25 * 2 / 3, abs=0.04)
    assert min(laid) > 0  # none of those that are not bent


def test_a_share_of_the_pictures_is_not_bent(train: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["artwork"]
    drawn: list[torch.Tensor] = []
    warp = module.warp

    def watched(*args: object, loose: torch.Tensor, layout: dict[int, torch.Tensor]) -> torch.Tensor:
        assert not layout
        drawn.append(loose)
        return warp(*args, loose=loose)

    monkeypatch.setattr(module, "warp", watched)
    artwork = train.Artwork(data, size=64, styles=("noto",), loose=3.0, plain=0.25)
    artwork.batch(800, torch.Generator().manual_seed(0))
    (loose,) = drawn
    bent = loose[loose > 0]
    assert 1 - len(bent) / 800 == pytest.approx(0.25, abs=0.05)
    assert 1 <= bent.min() < 1.1 < 2.9 < bent.max() <= 3


@pytest.mark.usefixtures("train")
def test_a_critic_learns_to_tell_blurred_edges_and_is_heard_as_told() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = importlib.import_module("critic").Critic(widths=(8, 16), rate=2e-3)
        true = torch.rand(8, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        blur = torch.nn.Conv2d(3, 3, 5, padding=2)
    made = blur(true)
    losses = [critic.learn(made, true) for _ in range(60)]
    assert losses[0] == pytest.approx(2, abs=0.3)
    assert losses[-1] < 1.2
    critic.step = 10**6  # its word counts in full
    loss = (made - true).abs().mean()
    (own,) = torch.autograd.grad(loss, blur.weight, retain_graph=True)
    (other,) = torch.autograd.grad(critic.complaint(made, true, loss, blur.weight, 0.5), blur.weight)
    assert other.norm() == pytest.approx(float(0.5 * own.norm()), rel=1e-3)


@pytest.mark.usefixtures("train")
@pytest.mark.parametrize(("angle", "length", "width"), [(5, 0.8, 0.3), (110, 0.8, 0.3), (60, 0.6, 0.4)])
def test_an_icon_is_laid_into_the_outline_of_a_drawing(angle: float, length: float, width: float) -> None:
    proportions = importlib.import_module("proportions")
    icon, drawing = ellipse(60, 0.8, 0.35), ellipse(angle, length, width)
    moments = [proportions.hull_moments(ink.numpy()) for ink in (icon, drawing)]
    laid_out = torch.tensor(proportions.fit(*moments), dtype=torch.float32)
    layers = icon.expand(1, 4, -1, -1)
    warp = sys.modules["artwork"].warp
    laid = warp(layers, 64, torch.Generator().manual_seed(0), loose=0.0, layout={0: laid_out})[0, 0] > 0.5
    both, either = (laid & (drawing > 0.5)).sum(), (laid | (drawing > 0.5)).sum()
    assert both / either > 0.93


def ellipse(angle: float, length: float, width: float) -> torch.Tensor:
    """A solid one, (64, 64), off the middle."""
    places = (torch.arange(64) + 0.5) / 32 - 1
    y, x = torch.meshgrid(places - 0.05, places + 0.1, indexing="ij")
    turn = torch.deg2rad(torch.tensor(float(angle)))
    along, across = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    return ((along / length) ** 2 + (across / width) ** 2 < 1).float()


@pytest.mark.usefixtures("train")
def test_an_icon_is_neither_turned_over_nor_stretched_out_of_shape() -> None:
    proportions = importlib.import_module("proportions")
    icon, across, thin = (
        proportions.hull_moments(ellipse(*shape).numpy()) for shape in ((0, 0.8, 0.4), (90, 0.8, 0.4), (0, 0.9, 0.05))
    )
    turned = proportions.fit(icon, across)[:, :2]
    assert turned[0, 0] > 0
    assert abs(turned[0, 1]) < 0.05
    scales = np.linalg.svd(proportions.fit(icon, thin)[:, :2], compute_uv=False)
    assert scales[0] / scales[1] == pytest.approx(proportions.MOST_STRETCH)


@pytest.mark.usefixtures("train")
def test_what_has_no_outline_lays_nothing_out() -> None:
    proportions = importlib.import_module("proportions")
    line = torch.zeros(64, 64)
    assert proportions.hull_moments(line.numpy()) is None
    line[20, 5:50] = 1
    assert proportions.hull_moments(line.numpy()) is None


def test_only_who_asks_sees_the_concepts_that_models_never_see(
    data: Path, train: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["artwork"], "held_out", lambda code, _: code == "1f535")
    for unseen, codes in ((False, ["1f34e", "1f34f"]), (True, ["1f34e", "1f34f", "1f535"])):
        artwork = train.Artwork(data, size=32, styles=("noto",), unseen=unseen)
        assert [icon.code for icon in artwork.icons] == codes


@pytest.mark.usefixtures("train")
@pytest.mark.parametrize("used", [500, 1])
def test_parts_never_see_the_drawings_of_benchmarks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: int
) -> None:
    classes = importlib.import_module("classes")
    monkeypatch.setattr(classes, "SCORED", used)
    asked = ["--data", str(data), "--out", str(tmp_path / "out"), "--rounds", "2", "--drawn", "1", "--size", "32"]
    monkeypatch.setattr(sys, "argv", ["classes.py", *asked])
    classes.main()
    lists = {one.parent.name: one.read_text().splitlines() for one in (tmp_path / "out").glob("*/metadata.jsonl")}
    assert len(lists["pictures"]) == 6
    assert not lists["pictures-held-out"]  # of no concept all
    assert len(lists["drawings"]) == 3  # of the icons; the first of each word are held out
    assert len(lists["drawings-held-out"]) == max(0, 3 - used)


@pytest.mark.usefixtures("train")
def test_parts_never_see_a_held_out_artwork_and_know_every_concept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every artwork is one grey, so that its pictures are told in the folders; all but one would be held out."""
    classes = importlib.import_module("classes")
    styles = ("fluent3d", "noto", "emojitwo")
    records = json.loads((data / "emoji128" / "metadata.json").read_text())
    own = tmp_path / "data"
    (own / "emoji128").mkdir(parents=True)
    kinds = [record | {"style": style} for record in records for style in styles[: 1 + records.index(record)]]
    (own / "emoji128" / "metadata.json").write_text(json.dumps(kinds))
    for name in (*(record["file"] for record in records), "class_map.json", "quickdraw"):
        (own / name).symlink_to(data / name)
    artworks = [f"{one['style']} {one['unicode']}" for one in kinds]  # one, two and three of a concept
    kept = artworks[-1]
    monkeypatch.setattr(classes, "kept_out", lambda name: name != kept)
    make = classes.pictures

    def plain(*given: object) -> Iterator[tuple[object, torch.Tensor]]:
        for icon, picture in make(*given):
            yield icon, torch.full_like(picture, (1 + artworks.index(classes.artwork_name(icon))) / 10)

    monkeypatch.setattr(classes, "pictures", plain)
    monkeypatch.setattr(classes, "STYLES", {"grey": lambda images: (images[:, :1] + 1) / 2})
    asked = ["--data", str(own), "--out", str(tmp_path / "out"), "--rounds", "2", "--drawn", "1", "--size", "32"]
    monkeypatch.setattr(sys, "argv", ["classes.py", *asked])
    classes.main()

    def shown(folder: str) -> list[str]:
        greys = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "out" / folder).glob("*.png"))]
        return sorted(artworks[round(grey.mean() / 25.5) - 1] for grey in greys if grey.min() == grey.max())

    single, (first, second), three = artworks[0], artworks[1:3], artworks[3:]
    told = sorted([single, second if first in shown("pictures-held-out") else first, kept])
    held_out = sorted({first, second, *three} - set(told))
    assert len(told) == len(held_out) == 3
    for kind, times in (("pictures", 2), ("drawings", 1)):
        assert shown(kind) == sorted(told * times)
        assert shown(f"{kind}-held-out") == sorted(held_out * times)


@pytest.mark.usefixtures("train")
def test_a_recogniser_knows_words_and_a_judge_concepts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = load_script(FOLDER.parents[1] / "benchmarks" / "classifier.py", monkeypatch)
    both = {"cup": ["a"], "mug": ["a", "b"], "hat": ["c"]}
    assert judge.words_of_codes(both) == {"a": "cup, mug", "b": "cup, mug", "c": "hat"}
    for more, classes in (([], tuple(COLOURS)), (["--words"], ("blue circle", "green apple", "red apple"))):
        out = tmp_path / "one.safetensors"
        asked = ["--data", str(data), "--out", str(out), "--steps", "2", "--size", "32", "--batch", "4", *more]
        monkeypatch.setattr(sys, "argv", ["classifier.py", *asked])
        judge.main()
        assert load_classifier(out).classes == classes
        assert json.loads((tmp_path / "one-report.json").read_text())["pictures"] == 8


def test_the_words_of_a_model_are_those_of_its_captions(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = load_script(FOLDER / "words.py", monkeypatch).words
    assert words(data) == ["blue circle", "green apple", "red apple"]


@pytest.mark.shared
def test_the_words_that_ship_are_those_of_the_data(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_data = load_script(FOLDER / "words.py", monkeypatch).words(shared / "data")
    assert json.loads((EMBEDDED / "words.json").read_text())["words"] == of_data
