"""recipes/icons/ship.py: what is put into the package is found there, is whole, and says what it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sketchguide import load_backbone, load_predictor
from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.classifiers import (
    ClassifierConfig,
    IconClassifier,
    LatentClassifier,
    load_classifier,
    save_classifier,
)
from sketchguide.errors import SketchguideWarning
from sketchguide.shipped import find_part, shipped
from sketchguide.sketchers import Sketcher, SketcherConfig
from sketchguide.training.card import model_card
from sketchguide.training.predictor import PredictorTraining
from support import MakePredictor, load_script

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "icons" / "ship.py"


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`ship("--run", …)`: the script as if called so, with an empty package, whose folder of models it returns."""
    module = load_script(SCRIPT, monkeypatch)
    models = tmp_path / "package"
    models.mkdir()
    monkeypatch.setattr(module, "MODELS", models)
    monkeypatch.setattr("sketchguide.shipped.EMBEDDED", models)

    def call(*arguments: str | Path) -> Path:
        monkeypatch.setattr("sys.argv", ["ship.py", "--name", "small", *map(str, arguments)])
        module.main()
        return models

    return call


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of train.py that went on from shipped weights."""
    folder = tmp_path / "run"
    tiny_stable_diffusion().save_pretrained(folder / "pipeline")
    earlier = {"earlier_samples": 1000, "earlier_minutes": 5, "earlier_autoencoder_minutes": 3}
    lines = [
        {"stage": "diffusion", "minutes": 0, "icons": 7},
        {"stage": "diffusion", "minutes": 0, **earlier},
        {"stage": "diffusion", "minutes": 2.2, "samples": 234},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_model_adds_to_what_it_started_from(ship: Callable[..., Path], run: Path) -> None:
    models = ship("--run", run)
    assert json.loads((models / "small" / "training.json").read_text()) == {
        "samples": 1234,
        "minutes": 7,
        "autoencoder_minutes": 3,
        "icons": 7,
    }
    pipeline = tiny_stable_diffusion()
    parts = (pipeline.unet, pipeline.text_encoder, pipeline.vae)
    parameters = sum(p.numel() for part in parts for p in part.parameters())
    card = (models / "small" / "README.md").read_text()
    for words in (f"{parameters / 1e6:.1f} M", "1,234 samples", "7 minutes", "7 icons"):
        assert words in card
    (one,) = shipped()
    one.verify()


def test_a_decoder_takes_the_place_of_the_shipped_one(ship: Callable[..., Path], run: Path, tmp_path: Path) -> None:
    models = ship("--run", run)
    pictures = [load_backbone("small").decode(torch.zeros(1, 4, 4, 4))]
    other = tiny_stable_diffusion()
    with torch.no_grad():
        other.vae.decoder.conv_out.bias += 1
    other.vae.save_pretrained(tmp_path / "decoder" / "vae")
    (tmp_path / "decoder" / "log.jsonl").write_text('{"stage": "decoder", "minutes": 8.1}\n')
    ship("--decoder", tmp_path / "decoder")
    pictures.append(load_backbone("small").decode(torch.zeros(1, 4, 4, 4)))
    assert (pictures[1] - pictures[0]).mean() == pytest.approx(1, abs=0.02)
    for _ in range(2):  # shipped again, its minutes count no second time
        assert json.loads((models / "small" / "training.json").read_text())["autoencoder_minutes"] == 11
        ship("--decoder", tmp_path / "decoder")


def test_a_larger_autoencoder_makes_another_model_of_the_same_latents(
    ship: Callable[..., Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ship("--run", run)
    small = load_backbone("small")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    larger = load_script(SCRIPT.with_name("larger.py"), monkeypatch)
    larger.enlarged(tiny_stable_diffusion().vae).save_pretrained(tmp_path / "larger" / "vae")
    (tmp_path / "larger" / "log.jsonl").write_text('{"stage": "larger", "minutes": 8.1}\n')
    channels, family = small.latent_channels, small.family
    config = ClassifierConfig(
        classes=("a", "b"), latent_channels=channels, stride=small.stride, family=family, backbone="small"
    )
    (tmp_path / "parts").mkdir()
    LatentClassifier(config).save(tmp_path / "parts" / "latent-classifier.safetensors")
    Sketcher(SketcherConfig(styles=("pen",))).save(tmp_path / "parts" / "sketcher.safetensors")
    for part in ("latent-classifier", "sketcher"):
        (tmp_path / "parts" / f"{part}-report.json").write_text("{}")
    ship("--parts", tmp_path / "parts")
    ship("--larger", tmp_path / "larger", "--of", "small", "--name", "large")
    large = load_backbone("large")
    assert large.default_size == tuple(2 * side for side in small.default_size)
    assert "Latents**: those of small" in (models / "large" / "README.md").read_text()
    assert json.loads((models / "large" / "training.json").read_text())["autoencoder_minutes"] == 11
    assert not any(str(models) in file.read_text() for file in (models / "large").rglob("*.json"))
    unets = [load_file(next((models / name / "unet").glob("*.safetensors"))) for name in ("small", "large")]
    assert all(torch.equal(one, unets[1][name]) for name, one in unets[0].items())
    LatentClassifier.load(find_part(None, "latent-classifier", field="class", model="large")).check_fits(large)
    assert find_part(None, "sketcher", field="sketcher", model="large").parent.name == "small-parts"  # no warning
    with pytest.warns(SketchguideWarning, match="was trained for small, not for other"):
        find_part(None, "sketcher", field="sketcher", model="other")
    for one in shipped():
        one.verify()


@pytest.mark.parametrize(
    ("reads", "name", "target"), [("ink", None, "small-edges"), ("latent", "small-edges-latent", "small-edges-latent")]
)
def test_a_predictor_is_found_by_the_model_and_its_card_says_how(
    reads: str,
    name: str | None,
    target: str,
    ship: Callable[..., Path],
    run: Path,
    tmp_path: Path,
    make_predictor: MakePredictor,
) -> None:
    models = ship("--run", run)
    backbone = load_backbone("small")
    config = {"reads": reads, "stride": backbone.stride if reads == "ink" else 1}
    predictor = make_predictor(taps=("mid_block.resnets.0",), channels=(32,), backbone="small", **config)
    folder = tmp_path / 'an "odd" name'
    facts = {"pictures": 3, "held_out_pictures": 1, "held_out": 0.5, "seconds": 60, "hardware": "a test"}
    card = model_card(predictor.config, PredictorTraining(), folder=folder, **facts)
    predictor.save_pretrained(folder, card=card)
    (folder / "training.json").write_text("{}")
    ship("--predictor", folder)
    text = (models / target / "README.md").read_text()
    assert "odd" not in text
    code = text.split("```python\n")[1].split("(picture,)")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["predictor"].config == load_predictor(name, backbone).config == predictor.config


def test_a_part_that_is_too_large_or_without_a_report_is_refused(ship: Callable[..., Path], tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    save_file({"weight": torch.zeros(10, 10)}, parts / "sketcher.safetensors")
    with pytest.raises(SystemExit, match="report"):
        ship("--parts", parts)
    (parts / "sketcher-report.json").write_text(json.dumps({"minutes": 2.0, "error": 0.123456}))
    models = ship("--parts", parts)
    assert "minutes 2, error 0.123" in (models / "small-parts" / "README.md").read_text()
    shutil.copyfile(parts / "sketcher-report.json", parts / "classifier-report.json")
    save_file({"weight": torch.zeros(2_500_001, 1)}, parts / "classifier.safetensors")
    save_file({"weight": torch.ones(10, 10)}, parts / "sketcher.safetensors")
    with pytest.raises(SystemExit, match="5 MB in bfloat16"):
        ship("--parts", parts)
    assert not load_file(models / "small-parts" / "sketcher.safetensors")["weight"].any(), "nothing is replaced then"


def test_a_part_is_shipped_in_half_the_size_and_says_the_same(ship: Callable[..., Path], tmp_path: Path) -> None:
    classifier = IconClassifier(("apple", "pear"), size=32, channels=(8, 16)).eval()
    save_classifier(classifier, tmp_path / "parts" / "classifier.safetensors")
    (tmp_path / "parts" / "classifier-report.json").write_text("{}")
    models = ship("--parts", tmp_path / "parts")
    (parts,) = (one for one in shipped() if one.kind == "parts")
    parts.verify()
    file = models / "small-parts" / "classifier.safetensors"
    assert file.stat().st_size < 0.7 * (tmp_path / "parts" / "classifier.safetensors").stat().st_size
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(load_classifier(file)(images), classifier(images), atol=0.05)
