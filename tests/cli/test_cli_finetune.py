"""`finetune` and `component`, from files to a LoRA that `generate` takes."""

import json
import os
import shutil
import signal
import weakref
from collections.abc import Callable, Mapping
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage.metrics import peak_signal_noise_ratio

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.classifiers import IconClassifier, LatentClassifier, load_classifier, save_classifier
from sketchguide.cli.finetune import _laid
from sketchguide.cli.report import Report
from sketchguide.errors import SketchError, SketchguideWarning
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.images import to_tensor
from sketchguide.loading import load_backbone
from sketchguide.lora import LORA_FILE
from sketchguide.pictures import recall
from sketchguide.request import Request
from sketchguide.sketch import Sketch
from sketchguide.sketchers import Sketcher, SketcherConfig
from sketchguide.training.checkpoints import Checkpoints
from sketchguide.training.classifier import LatentClassifierRun
from sketchguide.training.data import Pictures, find_examples
from sketchguide.training.finetune import FineTuneRun
from sketchguide.training.session import Session
from support import small_stable_diffusion

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        Sketcher(SketcherConfig(width=8, blocks=1)).save(folder / "sketcher.safetensors")
        for name in ("classifier", "drawing-classifier"):
            network = IconClassifier(("red ball", "blue box"), size=32, channels=(8, 16))
            save_classifier(network, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews and references of one picture in three steps: what they show is no matter here, and they take most of
    the time."""
    monkeypatch.setattr("sketchguide.cli.finetune.PREVIEW", (11,))
    monkeypatch.setattr("sketchguide.cli.finetune.REFERENCES", 1)
    monkeypatch.setattr(FineTuneRun, "pictures", partialmethod(FineTuneRun.pictures, steps=3))
    monkeypatch.setattr("sketchguide.request.Request", SimpleNamespace(checked=partial(Request.checked, steps=3)))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuning takes no step and shows nothing: for what is told before it."""
    monkeypatch.setattr("sketchguide.cli.finetune.carry_through", lambda *_, **__: None)
    monkeypatch.setattr("sketchguide.cli.finetune._preview", lambda *_: 0.5)


@pytest.fixture(scope="session")
def tuning(model: Path, drawing: Path, pictures: Path, parts: Path) -> list[str]:
    photo = pictures / "red ball" / "0.png"
    words = ["finetune", "a red ball", "--sketch", drawing, "--photo", photo, "--model", model, "--device", "cpu"]
    words += ["--sketcher", parts, "--features", parts, "--drawing-features", parts / "drawing-classifier.safetensors"]
    words += [
        "--levels",
        "2",
        "--gradient",
        "last",
        "--last",
        "1",
        "--rank",
        "2",
        "--preview-every",
        "2",
        "--unseen",
        "1",
    ]
    return [str(word) for word in words]


@torch.no_grad()
def _psnr(run: FineTuneRun, photo: Path) -> float:
    """Of the photo inverted and redrawn, in dB."""
    latents = (run.backbone.encode(to_tensor([Image.open(photo)])), run.reconstruction)
    kept, redrawn = (run.backbone.decode(one).clamp(-1, 1).numpy() for one in latents)
    return peak_signal_noise_ratio(kept, redrawn, data_range=2)  # from black, -1, to white, 1


def test_a_stopped_run_goes_on_and_its_lora_draws(
    sketchguide: Run, tuning: list[str], quick: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mine = tmp_path / "ball", tmp_path / "tiny"
    mine.symlink_to(model)
    tuning = [*tuning, "--model", str(mine)]
    write = Session._write

    def write_and_stop(self: Session, line: Mapping[str, Any], *, scored: bool) -> None:
        write(self, line, scored=scored)
        if line["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "_write", write_and_stop)
        stopped = sketchguide(*tuning, "--steps", "3", "-o", folder)
    assert stopped.code == 130
    assert "Step 2 is saved. Go on with: sketchguide finetune 'a red ball'" in stopped.err
    changed = sketchguide(*tuning, "--steps", "3", "-o", folder, "--identity", "0.1", "--resume")
    assert changed.code == 2
    assert "identity was 0.4, now 0.1" in changed.err
    mine.unlink()
    small_stable_diffusion(seed=1).save_pretrained(mine)
    changed = sketchguide(*tuning, "--steps", "3", "-o", folder, "--resume")
    assert changed.code == 2
    assert "weights was" in changed.err
    shutil.rmtree(mine)
    mine.symlink_to(model)
    comparing = ["--drawing-features", str(Path(tuning[tuning.index("--features") + 1]) / "classifier.safetensors")]
    changed = sketchguide(*tuning, *comparing, "--steps", "3", "-o", folder, "--resume")
    assert changed.code == 2
    assert "--drawing-features was" in changed.err
    runs: list[FineTuneRun] = []
    fidelity = FineTuneRun.fidelity
    monkeypatch.setattr(FineTuneRun, "fidelity", lambda self: runs.append(self) or fidelity(self))
    done = sketchguide(*tuning, "--steps", "3", "-o", folder, "--resume", "--json")
    assert done.code == 0, done
    facts = done.json
    assert facts["steps"] == 3
    assert facts["sketch_distance"]["frozen"] != facts["sketch_distance"]["tuned"]
    assert facts["inversion_psnr"] == pytest.approx(_psnr(runs[-1], Path(tuning[tuning.index("--photo") + 1])), abs=0.1)
    assert {path.name for path in folder.glob("*.png")} >= {"preview-frozen.png", "preview-00002.png"}
    again = sketchguide(*tuning, "--steps", "3", "-o", folder, "--fresh", "--minutes", "0")
    assert again.code == 2

    with_lora, without = tmp_path / "with.png", tmp_path / "without.png"
    lora = ["--lora", str(folder), "--seed", "1"]
    assert sketchguide("generate", "a red ball", *quick, *lora, "-o", with_lora).code == 0
    assert sketchguide("generate", "a red ball", *quick, *lora, "--lora-scale", "0", "-o", without).code == 0
    assert Image.open(with_lora).tobytes() != Image.open(without).tobytes()
    green = ["translate", with_lora, "a green ball", "--source", "generated", "-o", tmp_path / "green.png"]
    assert sketchguide(*green, "--lora", folder / LORA_FILE).code == 0  # the same one by another name
    repeated = tmp_path / "again.png"
    assert sketchguide("generate", "--from", with_lora, "-o", repeated).code == 0
    assert Image.open(with_lora).tobytes() == Image.open(repeated).tobytes()


def test_a_full_run_goes_on_in_the_precision_it_began_in(
    sketchguide: Run, tuning: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[torch.dtype] = []
    begin = FineTuneRun.__init__

    def watched(self: FineTuneRun, backbone: UNetBackbone, *given: Any, **named: Any) -> None:
        built.append(backbone.dtype)
        begin(self, backbone, *given, **named)

    monkeypatch.setattr(FineTuneRun, "__init__", watched)
    words = [*tuning, "--full", "--dtype", "bfloat16", "-o", tmp_path / "ball"]
    for more in ([], ["--resume"]):
        result = sketchguide(*words, "--steps", "1", *more)
        assert result.code == 0, result
    assert built == [torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--sketch", "blank.png"), "blank.png is blank"),
        (("--photo", "none.jpg"), "no file"),
        (("--photo", "text.jpg"), "not a readable picture"),
        (("--identity", "2"), "identity is 2.0"),
        (("--gradient", "all"), "gradient is 'all'"),
        (("--style", "oil"), "no style 'oil'"),
        (("--sketcher", "none"), "No sketcher at"),
        (("--features", "torchvision:none"), "no network 'none'"),
    ],
)
def test_bad_input_is_one_sentence(
    sketchguide: Run, tuning: list[str], tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    (tmp_path / "text.jpg").write_text("hello")
    option, value = change
    value = str(tmp_path / value) if "." in value and "-" not in value[:1] and not value[0].isdigit() else value
    result = sketchguide(*tuning, option, value, "-o", tmp_path / "out")
    assert result.code == 2, result
    assert words in result.err.splitlines()[0]
    assert not (tmp_path / "out").exists()


def test_the_drawing_of_a_wide_photo_is_cut_with_it() -> None:
    page = Sketch.from_strokes([[[0.5, 0.1], [0.5, 0.9]], [[0.1, 0.5], [0.9, 0.5]]], aspect=2.0)
    photo = Image.new("RGB", (200, 100))
    report = Report(["--json"])
    (laid,) = _laid([page], [Path("page.svg")], [photo], (64, 64), report)
    assert laid.aspect == pytest.approx(1)
    ink = laid.rasterize(size=(64, 64)).ink
    rows, columns = np.nonzero(ink > 0.5)
    assert (columns.min(), columns.max()) == (0, 63)  # the line across goes over both edges, as the photo's would
    assert (rows.min(), rows.max()) == pytest.approx((6, 57), abs=2)
    assert any("200 × 100" in warning for warning in report.warnings)


def test_a_drawing_that_is_cut_away_with_its_photo_is_told() -> None:
    page = Sketch.from_strokes([[[0.05, 0.1], [0.05, 0.9]]], aspect=2.0)
    with pytest.raises(SketchError, match=r"Nothing of page.svg is left where its photo of 200 × 100 is cut"):
        _laid([page], [Path("page.svg")], [Image.new("RGB", (200, 100))], (64, 64), Report(["--json"]))


def test_a_drawing_of_another_shape_than_its_photo_is_told() -> None:
    page = Sketch.from_strokes([[[0.5, 0.1], [0.5, 0.9]]], aspect=1.5)
    with pytest.warns(SketchguideWarning, match="laid on the middle"):
        _laid([page], [Path("page.svg")], [Image.new("RGB", (64, 64))], (64, 64), Report(["--json"]))


def test_parts_for_another_model_are_not_taken_in_silence(
    sketchguide: Run, quick: list[str], drawing: Path, tmp_path: Path
) -> None:
    words = ["generate", "a red ball", *quick, "--seed", "1", "--strength", "0", "--sketch", drawing]
    result = sketchguide(*words, "--sketch-loss", "3", "-o", tmp_path / "a.png", "--json")
    assert result.code == 0, result
    for part in ("sketcher", "drawing-classifier"):
        assert any(f"The {part} that is shipped was trained for icons-64" in one for one in result.json["warnings"])


def test_the_sketch_loss_pulls_without_training(
    sketchguide: Run, quick: list[str], drawing: Path, parts: Path, tmp_path: Path
) -> None:
    judges = ["--sketcher", parts, "--drawing-features", parts]
    draw = ["generate", "a red ball", *quick, "--seed", "1", "--strength", "0", "--sketch", drawing]
    plain, pulled, repeated = (tmp_path / f"{name}.png" for name in ("plain", "pulled", "repeated"))
    assert sketchguide(*draw, "-o", plain).code == 0
    result = sketchguide(*draw, "--sketch-loss", "3", *judges, "-o", pulled)
    assert result.code == 0, result
    assert Image.open(plain).tobytes() != Image.open(pulled).tobytes()
    assert recall(pulled).made_with.keys() >= {"sketcher", "drawing_features"}
    assert sketchguide("generate", "--from", pulled, "-o", repeated).code == 0
    assert Image.open(pulled).tobytes() == Image.open(repeated).tobytes()
    idle = sketchguide(*draw, *judges, "-o", tmp_path / "idle.png", "--json")
    assert any("sketcher changes nothing without sketch_loss" in warning for warning in idle.json["warnings"])


def test_the_sketch_loss_keeps_the_thing_in_a_picture(
    sketchguide: Run, quick: list[str], drawing: Path, photo: Path, parts: Path, tmp_path: Path
) -> None:
    judges = ["--sketcher", parts, "--drawing-features", parts, "--sketch-loss", "3"]
    draw = ["generate", "a red ball", *quick, "--seed", "1", "--strength", "0", "--sketch", drawing, *judges]
    like = ["--like", photo, "--picture-features", parts]
    files = [tmp_path / f"{name}.png" for name in ("without", "with", "only", "repeated")]
    for file, more in zip(files, ([], like, [*like, "--identity", "1"]), strict=False):
        result = sketchguide(*draw, *more, "-o", file)
        assert result.code == 0, result
    assert len({Image.open(file).tobytes() for file in files[:3]}) == 3
    assert recall(files[1]).made_with.keys() >= {"picture_features"}
    assert sketchguide("generate", "--from", files[1], "-o", files[3]).code == 0
    assert Image.open(files[1]).tobytes() == Image.open(files[3]).tobytes()
    idle = sketchguide(*draw[:-2], "--like", photo, "--identity", "0.2", "-o", tmp_path / "idle.png", "--json")
    assert any("like changes nothing without sketch_loss" in warning for warning in idle.json["warnings"])
    missing = sketchguide(*draw, "--like", tmp_path / "none.png", "-o", tmp_path / "none.png")
    assert missing.code == 2
    assert "no file" in missing.err


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("answer", [0, 1])
def test_the_class_is_what_the_given_drawing_classifier_sees(
    sketchguide: Run, tuning: list[str], tmp_path: Path, answer: int
) -> None:
    classes = ("red ball", "blue box")
    classifier = IconClassifier(classes, size=32, channels=(8, 16))
    head = [module for module in classifier.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.bias[answer] += 1000
    save_classifier(classifier, tmp_path / "seeing.safetensors")
    words = [tuning[0], *tuning[2:], "--drawing-features", tmp_path / "seeing.safetensors", "--steps", "1"]
    result = sketchguide(*words, "-o", tmp_path, "--json")
    assert result.code == 0, result
    assert result.json["prompt"] == classes[answer]
    assert any("are taken for" in warning for warning in result.json["warnings"])


def test_losses_that_are_no_numbers_end_with_the_last_good_weights(
    sketchguide: Run, tuning: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sketchguide.training.run.MAX_SKIPS", 3)
    good = iter([1.0, 1.0])
    loss = FineTuneRun.loss
    monkeypatch.setattr(FineTuneRun, "loss", lambda self: loss(self) * next(good, float("nan")))
    result = sketchguide(*tuning, "--steps", "40", "--preview-every", "100", "-o", tmp_path)
    assert result.code == 1
    assert "The last good weights are in" in result.err
    assert (tmp_path / LORA_FILE).is_file()
    latest = Checkpoints(tmp_path / "checkpoints").latest()
    assert latest is not None
    assert latest.step == 4


def test_a_run_that_learns_nothing_replaces_nothing(
    sketchguide: Run, tuning: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sketchguide.training.run.MAX_SKIPS", 3)
    (tmp_path / LORA_FILE).write_bytes(b"an earlier one")
    loss = FineTuneRun.loss
    monkeypatch.setattr(FineTuneRun, "loss", lambda self: loss(self) * float("nan"))
    result = sketchguide(*tuning, "--steps", "40", "--preview-every", "100", "--fresh", "-o", tmp_path)
    assert result.code == 1
    assert "good weights" not in result.err
    assert (tmp_path / LORA_FILE).read_bytes() == b"an earlier one"
    monkeypatch.setattr(FineTuneRun, "loss", loss)
    (tmp_path / "preview-00600.png").write_bytes(b"an earlier one")
    assert sketchguide(*tuning, "--steps", "1", "--preview-every", "1", "--fresh", "-o", tmp_path).code == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"preview-frozen.png", "preview-00001.png"}
    assert (tmp_path / LORA_FILE).read_bytes() != b"an earlier one"


def test_a_result_without_its_checkpoints_is_not_begun_anew_unasked(
    sketchguide: Run, tuning: list[str], tmp_path: Path
) -> None:
    (tmp_path / LORA_FILE).write_bytes(b"an earlier one")
    result = sketchguide(*tuning, "--steps", "2", "--resume", "-o", tmp_path)
    assert result.code == 2
    assert "no checkpoint to go on from" in result.err
    assert (tmp_path / LORA_FILE).read_bytes() == b"an earlier one"


@pytest.mark.parametrize(
    ("words", "name"), [(["finetune"], "preview-00004.png"), (["component"], "classifier-report.json")]
)
def test_files_of_others_are_not_overwritten(
    sketchguide: Run, tuning: list[str], pictures: Path, tmp_path: Path, words: list[str], name: str
) -> None:
    (tmp_path / name).write_text("mine")
    words = tuning if words == ["finetune"] else [*words, "classifier", "--data", pictures]
    result = sketchguide(*words, "--steps", "2", "-o", tmp_path)
    assert result.code == 2
    assert f"holds a {name}, which the run would overwrite" in result.err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_that_ends_before_its_first_checkpoint_leaves_the_folder_as_it_was(
    sketchguide: Run, tuning: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the same command can be given again."""
    (tmp_path / "mine.png").write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(Session, "save", lambda _: None)  # as a second Ctrl-C has it
        patched.setattr(FineTuneRun, "save", lambda *_: (_ for _ in ()).throw(SketchError("stopped")))
        assert sketchguide(*tuning, "--steps", "2", "-o", tmp_path).code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    assert sketchguide(*tuning, "--steps", "1", "-o", tmp_path).code == 0


def test_a_folder_that_cannot_be_written_is_named(sketchguide: Run, tuning: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = sketchguide(*tuning, "-o", tmp_path / "file")
    assert result.code == 2
    assert "is a file, not a folder" in result.err


@pytest.mark.parametrize("part", ["latent-classifier", "classifier", "drawing-classifier", "sketcher"])
def test_every_part_is_trained_by_one_command(
    sketchguide: Run, pictures: Path, model: Path, tmp_path: Path, part: str
) -> None:
    options = ["--model", model, "--device", "cpu", "--batch", "4", "--steps", "2", "--json"]
    result = sketchguide("component", part, "--data", pictures, "-o", tmp_path, *options)
    assert result.code == 0, result
    file = tmp_path / f"{part}.safetensors"
    report = json.loads((tmp_path / f"{part}-report.json").read_text())
    assert report["steps"] == 2
    if part == "sketcher":
        assert Sketcher.load(file).config.styles[0] == "edges"
        assert 0 < report["dice_distance"] <= 1
    elif part == "latent-classifier":
        assert LatentClassifier.load(file).config.classes == ("blue box", "red ball")
        assert len(report["by_noise_level"]) == 8
        assert report["temperatures"] is None, "so few pictures tell none"
        made = [tmp_path / "plain.png", tmp_path / "pulled.png"]
        draw = ["generate", "a ball", "--model", model, "--steps", "2", "--seed", "1", "--device", "cpu"]
        assert sketchguide(*draw, "-o", made[0]).code == 0
        pull = ["--class", "red ball", "--classifier", tmp_path, "--class-scale", "50"]
        assert sketchguide(*draw, *pull, "-o", made[1]).code == 0
        assert made[0].read_bytes() != made[1].read_bytes()
        assert recall(made[1]).made_with.keys() >= {"classifier"}
        unknown = sketchguide(*draw, *pull[2:], "--class", "red bal", "-o", tmp_path / "none.png")
        assert unknown.code == 2
        assert "red ball" in unknown.err
    else:
        assert load_classifier(file).classes == ("blue box", "red ball")
        assert 0 <= report["accuracy"] <= 1


def test_confidence_is_fitted_on_pictures_that_are_not_scored(
    sketchguide: Run, pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "others"
    for file in pictures.rglob("*.png"):
        (others / file.parent.name).mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(file)).save(others / file.parent.name / file.name)
    files = to_tensor([Image.open(one.path) for one in find_examples(others)])
    latents = load_backbone(model, device="cpu").encode(files).flatten(1)
    seen: dict[str, list[int]] = {}  # which pictures, by the last call of each

    def watch(name: str) -> None:
        call = getattr(LatentClassifierRun, name)

        def watched(self: LatentClassifierRun, given: torch.Tensor, captions: list[str], **more: Any) -> Any:
            seen[name] = torch.cdist(given.flatten(1), latents).argmin(dim=1).tolist()
            return call(self, given, captions, **more)

        monkeypatch.setattr(LatentClassifierRun, name, watched)

    watch("fit_temperatures")
    watch("calibrate")
    monkeypatch.setattr("sketchguide.training.parts.FEWEST", 6)  # half of them
    words = ["component", "latent-classifier", "--data", pictures, "--held-out", others, "-o", tmp_path / "parts"]
    result = sketchguide(*words, "--model", model, "--device", "cpu", "--batch", "4", "--steps", "2", "--json")
    assert result.code == 0, result
    assert result.json["held_out_pictures"] == 6
    fitted, scored = seen["fit_temperatures"], seen["calibrate"]
    assert (len(fitted), len(scored)) == (6, 6)
    assert sorted(fitted + scored) == list(range(12))
    found = LatentClassifier.load(tmp_path / "parts" / "latent-classifier.safetensors").config.temperatures
    assert result.json["temperatures"] == [round(value, 2) for _, value in found]
    assert len(found) == 8


def test_a_part_is_kept_whatever_happens_when_it_is_judged(
    sketchguide: Run, pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(LatentClassifierRun, "fit_temperatures", fail)
    monkeypatch.setattr("sketchguide.training.parts.FEWEST", 1)
    words = ["component", "latent-classifier", "--data", pictures, "--held-out", pictures, "-o", tmp_path / "parts"]
    result = sketchguide(*words, "--model", model, "--device", "cpu", "--batch", "4", "--steps", "1")
    assert result.code != 0
    assert LatentClassifier.load(tmp_path / "parts" / "latent-classifier.safetensors").config.temperatures == ()


@pytest.mark.parametrize(("part", "lasting"), [("classifier", False), ("sketcher", False), ("latent-classifier", True)])
def test_a_model_stays_in_memory_only_for_parts_that_look_into_it(
    sketchguide: Run,
    pictures: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    lasting: bool,
) -> None:
    loaded: list[tuple[str, weakref.ref[Any]]] = []
    there: set[bool] = set()

    def load(*given: Any, device: str, **more: Any) -> Any:
        backbone = load_backbone(*given, device="cpu", **more)
        loaded.append((device, weakref.ref(backbone.network)))
        return backbone

    def batch(*given: Any) -> Any:
        there.add(loaded[0][1]() is not None)
        return make(*given)

    make = Pictures.batch
    monkeypatch.setattr("sketchguide.training.parts.load_backbone", load)
    monkeypatch.setattr(Pictures, "batch", batch)
    words = ["component", part, "--data", pictures, "-o", tmp_path, "--model", model, "--device", "auto"]
    result = sketchguide(*words, "--batch", "4", "--steps", "1")
    assert result.code == 0, result
    assert loaded[0][0] == ("auto" if lasting else "cpu")
    assert there == {lasting}
    (checkpoint,) = (tmp_path / f"{part}-checkpoints").glob("step-*/state.json")
    weights = json.loads(checkpoint.read_text())["meta"]["config"]["weights"]
    assert weights == fingerprint_of_model(load_backbone(model, device="cpu", dtype="float32"))


def test_a_part_goes_on_with_its_own_pictures_only(
    sketchguide: Run, pictures: Path, model: Path, tmp_path: Path
) -> None:
    data, parts = tmp_path / "data", tmp_path / "parts"
    shutil.copytree(pictures, data)
    words = ["component", "classifier", "--data", data, "-o", parts, "--model", model, "--device", "cpu"]
    words += ["--batch", "4", "--steps", "2", "--json"]
    first, again = (sketchguide(*words, *more).json for more in ([], ["--resume"]))
    assert again["loss"] == first["loss"]
    (data / "red ball").rename(data / "red apple")
    other = sketchguide(*words, "--resume")
    assert other.code == 2
    assert "the pictures or their captions have changed" in other.out


def test_a_part_goes_on_with_the_same_weights_only(
    sketchguide: Run, pictures: Path, model: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "tiny"
    mine.symlink_to(model)
    words: list[Any] = ["component", "classifier", "--data", pictures, "--held-out", pictures, "--device", "cpu"]
    words += ["--batch", "4", "--steps", "1", "-o", tmp_path / "parts", "--model", mine]
    first = sketchguide(*words)
    assert first.code == 0, first
    assert "trained on too" in first.err
    mine.unlink()
    small_stable_diffusion(seed=1).save_pretrained(mine)
    other = sketchguide(*words, "--resume")
    assert other.code == 2
    assert "weights was" in other.err


def test_what_is_not_learned_from_is_told(
    sketchguide: Run, pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, scored = tmp_path / "data", tmp_path / "scored"
    shutil.copytree(pictures, data)
    shutil.copytree(pictures / "red ball", scored / "green ball")
    (data / "red ball" / "broken.png").write_bytes(b"no picture")
    words = ["component", "classifier", "--data", data, "--held-out", scored, "-o", tmp_path / "parts"]
    words += ["--model", model, "--device", "cpu", "--batch", "32", "--json"]
    result = sketchguide(*words, "--steps", "4")
    assert result.code == 0, result
    assert result.json["training_images"] == 12
    assert any("broken.png was left out" in warning for warning in result.json["warnings"])
    assert any("not learned: green ball" in warning for warning in result.json["warnings"])
    monkeypatch.setattr("sketchguide.training.run.TrainingRun._update", lambda *_: False)  # as if no loss was finite
    failed = sketchguide(*words, "--steps", "40", "--fresh")
    assert failed.code == 1
    assert failed.json["steps"] == 19
    assert any("broken.png was left out" in warning for warning in failed.json["warnings"])


def test_a_fresh_part_that_learns_nothing_replaces_nothing(
    sketchguide: Run, pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["component", "classifier", "--data", pictures, "--model", model, "-o", tmp_path, "--device", "cpu"]
    words += ["--batch", "4"]
    assert sketchguide(*words, "--steps", "2").code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr("sketchguide.training.run.TrainingRun._update", lambda *_: False)  # no loss is finite
        failed = sketchguide(*words, "--steps", "3", "--fresh")
    assert failed.code == 1
    assert "Nothing was learned: loss or gradient was not finite at any step." in failed.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert sketchguide(*words, "--steps", "1", "--fresh").code == 0
    assert [path.name for path in (tmp_path / "classifier-checkpoints").glob("step-*")] == ["step-00000001"]


def test_a_preview_that_is_no_picture_ends_no_run(
    sketchguide: Run, tuning: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = FineTuneRun.pictures

    def overflowing(run: FineTuneRun, *args: Any, **settings: Any) -> Any:
        return drawn(run, *args, **settings) * (float("nan") if run.step else 1)

    monkeypatch.setattr(FineTuneRun, "pictures", overflowing)
    result = sketchguide(*tuning, "--steps", "1", "--preview-every", "1", "-o", tmp_path, "--json")
    assert result.code == 0, result
    assert any("Step 1 has no preview." in warning for warning in result.json["warnings"])
    assert result.json["sketch_distance"]["tuned"] is None
    assert (tmp_path / LORA_FILE).is_file()


def test_without_photos_the_references_are_made(sketchguide: Run, tuning: list[str], tmp_path: Path) -> None:
    place = tuning.index("--photo")
    words = [*tuning[:place], *tuning[place + 2 :], "--batch", "1", "-o", str(tmp_path)]
    for more in (["--steps", "2", "--preview-every", "1"], ["--steps", "2", "--preview-every", "1", "--resume"]):
        result = sketchguide(*words, *more, "--json")
        assert result.code == 0, result
        assert result.json["steps"] == 2


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("prompt", "told"), [("a red bal", True), ("a big  Red Ball", False)])
def test_a_misspelt_class_is_answered_with_the_nearest(
    sketchguide: Run, tuning: list[str], tmp_path: Path, prompt: str, told: bool
) -> None:
    place = tuning.index("--photo")
    words = [tuning[0], prompt, *tuning[2:place], *tuning[place + 2 :], "--batch", "1", "--steps", "1"]
    result = sketchguide(*words, "-o", tmp_path / "ball", "--json")
    assert result.code == 0, result
    assert any("'a red bal' names none" in one and "red ball?" in one for one in result.json["warnings"]) is told


@pytest.mark.usefixtures("untrained")
def test_photos_of_another_shape_are_said_to_be_cut(sketchguide: Run, tuning: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), "red").save(tmp_path / "wide.png")
    words = [*tuning, "--photo", str(tmp_path / "wide.png"), "--steps", "1", "--batch", "1"]
    result = sketchguide(*words, "-o", tmp_path / "ball", "--json")
    assert result.code == 0, result
    assert any("96 × 64 is cut at the middle" in warning for warning in result.json["warnings"])


def test_unknown_parts_are_refused(sketchguide: Run, pictures: Path, tmp_path: Path) -> None:
    result = sketchguide("component", "painter", "--data", pictures, "-o", tmp_path)
    assert result.code == 2
    assert "Choose one of: latent-classifier" in result.err
