from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter
from safetensors.torch import load_file, save_file

from sketchguide.building import LGP_PNP, METHODS, PAPER, WALKING, build_method
from sketchguide.classifiers import ClassifierConfig, IconClassifier, LatentClassifier, save_classifier
from sketchguide.controls.classes import ClassGuide
from sketchguide.controls.strengths import Score
from sketchguide.defaults import PULLING
from sketchguide.errors import ModelNotFoundError, UsageError, WeightsError
from sketchguide.guidance import latent_guide
from sketchguide.methods import Batch, latent_guidance, plug_and_play, text_to_image
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import LATER, Recogniser
from sketchguide.request import LayoutSettings, Request
from sketchguide.sketchers import Sketcher
from sketchguide.walking import walk
from support import MakePredictor, Tiny, a_map, attention_for, made, save_sketch_loss

NETWORK = "small"


@pytest.mark.parametrize("text", ['{"seconds": 1', "[]", "5", "null"])
def test_a_damaged_record_of_training_is_named(batch: Batch, predictor: LatentPredictor, tmp_path: Path, text: str):
    predictor.save_pretrained(tmp_path)
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(UsageError, match=r"training\.json cannot be read or is damaged"):
        build_method(f"lgp:predictor={tmp_path}", batch.backbone)


def test_settings_of_the_layout_in_a_description(batch: Batch, predictor: LatentPredictor, tmp_path: Path):
    predictor.save_pretrained(tmp_path)
    described = build_method("pnp:tau_f=0.25,source=noised,branches=conditional", batch.backbone)
    settings = LayoutSettings.checked(tau_f=0.25, source="noised", branches="conditional")
    assert described.networks == ()
    assert torch.equal(made(described.method, batch), made(plug_and_play(settings), batch))
    described = build_method(f"lgp-pnp:predictor={tmp_path},tau_a=0.25,steps=3", batch.backbone)
    settings = LayoutSettings.checked(**{**LGP_PNP, "tau_a": 0.25})
    fewer = batch.request.model_copy(update={"steps": 3})
    wanted = made(plug_and_play(settings, predictor), replace(batch, request=fewer))
    assert torch.equal(made(described.method, batch), wanted)


@pytest.mark.parametrize(
    ("description", "same_as"),
    [
        ("text:scale=5,steps=2", {"scale": 5, "steps": 2}),
        ("text", {}),
        ("text: solver = euler", {"solver": "euler"}),
        ("text:negative=", {"negative": ""}),
    ],
)
def test_settings_in_a_description_are_those_of_the_request(batch: Batch, description: str, same_as: dict[str, object]):
    request = Request.checked(**{**batch.request.model_dump(), **same_as})
    wanted = made(text_to_image, Batch(batch.backbone, request, batch.prompts, batch.maps, batch.seeds))
    assert torch.equal(made(build_method(description, batch.backbone).method, batch), wanted)


def test_the_papers_settings(batch: Batch, predictor: LatentPredictor, tmp_path: Path):
    predictor.save_pretrained(tmp_path)
    request = Request.checked(**{**batch.request.model_dump(), **PAPER})
    assert (request.strength, request.stop, request.scale, request.blank, request.every) == (1.6, 0.5, 8, 1, 1)
    assert (request.even, request.widen, request.handover, request.negative_time) == (0, 1, 1, 0)
    wanted = latent_guidance(predictor)(Batch(batch.backbone, request, batch.prompts, batch.maps, batch.seeds))
    *_, last = wanted
    described = build_method(f"lgp-paper:predictor={tmp_path}", batch.backbone).method
    assert torch.equal(made(described, batch), last.latent)


def test_the_paper_reads_latents(make_predictor: MakePredictor, batch: Batch, tmp_path: Path):
    make_predictor(reads="ink", stride=batch.backbone.stride).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="reads ink; the paper's predictor reads latents"):
        build_method(f"lgp-paper:predictor={tmp_path}", batch.backbone)
    with pytest.raises(UsageError, match="no predictor of its own that reads latent") as caught:
        build_method("lgp-paper", batch.backbone)
    assert "--reads latent" in str(caught.value.hint)


def test_peers_are_loaded_from_their_folders(batch: Batch, whole: Tiny, tmp_path: Path):
    backbone = whole()  # a T2IAdapter fits no other
    batch = replace(batch, backbone=backbone)
    network = ControlNetModel.from_unet(backbone.network, conditioning_embedding_out_channels=(8, 16))
    torch.nn.init.normal_(network.controlnet_mid_block.weight)
    network.save_pretrained(tmp_path / "controlnet")
    channels = list(backbone.network.config.block_out_channels)
    for one in (1, 3):
        adapter = T2IAdapter(in_channels=one, channels=channels, downscale_factor=backbone.stride)
        adapter.save_pretrained(tmp_path / f"adapter-{one}")
    plain = made(text_to_image, batch)
    for name, folder in (("controlnet", "controlnet"), ("t2i-adapter", "adapter-1"), ("t2i-adapter", "adapter-3")):
        described = f"{name}:path={tmp_path / folder}"
        assert not torch.allclose(made(build_method(described, backbone).method, batch), plain)
        off = made(build_method(f"{described},weight=0", backbone).method, batch)
        torch.testing.assert_close(off, plain)


def test_the_sketch_loss_pulls_with_the_parts_named(batch: Batch, tmp_path: Path):
    save_sketch_loss(tmp_path)
    described = f"sketch-loss:sketcher={tmp_path},drawing={tmp_path / 'drawing-classifier.safetensors'}"
    plain = made(text_to_image, batch)
    assert not torch.allclose(made(build_method(described, batch.backbone).method, batch), plain)
    off = made(build_method(f"{described},strength=0", batch.backbone).method, batch)
    assert torch.equal(off, plain)


def test_every_setting_that_a_method_takes_acts(batch: Batch, make_predictor: MakePredictor, tmp_path: Path):
    make_predictor(clean_widths=(8,)).save_pretrained(tmp_path)
    save_sketch_loss(tmp_path)
    own = {"lgp": f"predictor={tmp_path}", "sketch-loss": f"sketcher={tmp_path},drawing={tmp_path}"}
    other = {"strength": 5, "stop": 0.3, "every": 3, "even": 0.6, "blank": 1, "widen": 1, "handover": 1}
    walking = {"negative": "a dog", "steps": 3, "scale": 1, "negative_time": 0.4, "solver": "euler"}
    assert (tuple(other), tuple(walking)) == (PULLING, WALKING)
    small = Request.checked(prompt="", seed=0, steps=4, scale=3, size=(32, 32))
    batch = Batch(batch.backbone, small, ["a cat"], [a_map((32, 32), at=0.3)], [5])
    for name, settings in (("text", walking), ("lgp", other), ("sketch-loss", other)):
        plain = made(build_method(f"{name}:{own.get(name, '')}", batch.backbone).method, batch)
        for setting in settings.keys() & {*WALKING, *METHODS[name].takes}:
            changed = f"{name}:{own.get(name, '')},{setting}={settings[setting]}"
            assert not torch.equal(made(build_method(changed, batch.backbone).method, batch), plain), changed


def test_the_sketch_loss_brings_two_networks_and_their_records(batch: Batch, tmp_path: Path):
    save_sketch_loss(tmp_path)
    (tmp_path / "sketcher-report.json").write_text('{"seconds": 3}')
    (tmp_path / "drawing-classifier-report.json").write_text('{"seconds": 4}')
    built = build_method(f"sketch-loss:sketcher={tmp_path},drawing={tmp_path}", batch.backbone)
    sketcher, classifier = built.networks
    assert isinstance(sketcher.network, Sketcher)
    assert isinstance(classifier.network, IconClassifier)
    assert (sketcher.training, classifier.training) == ({"seconds": 3}, {"seconds": 4})


def test_classifier_guidance_stands_beside_any_method(batch: Batch, predictor: LatentPredictor, tmp_path: Path):
    config = ClassifierConfig(
        classes=("dog", "cat"),
        latent_channels=4,
        stride=batch.backbone.stride,
        family="unet",
        backbone="",
        widths=(8, 8),
    )
    classifier = LatentClassifier(config).eval()
    classifier.save(tmp_path / "latent-classifier.safetensors")
    (tmp_path / "latent-classifier-report.json").write_text('{"seconds": 3}')
    predictor.save_pretrained(tmp_path)
    guides = [
        latent_guide(batch.request, batch.maps, batch.backbone, predictor),
        ClassGuide(classifier, [1, 0], strength=Score(9)),  # a cat, a dog
    ]
    *_, last = walk(batch.request, batch.backbone, prompts=batch.prompts, seeds=batch.seeds, guides=guides)
    built = build_method(f"lgp:predictor={tmp_path},classifier={tmp_path},class_scale=9", batch.backbone)
    assert torch.equal(made(built.method, batch), last.latent)
    assert [one.training for one in built.networks] == [{}, {"seconds": 3}]
    for name in ("text", "sdedit"):
        plain = made(build_method(name, batch.backbone).method, batch)
        beside = build_method(f"{name}:classifier={tmp_path},class_scale=9", batch.backbone).method
        assert not torch.allclose(made(beside, batch), plain)
        off = build_method(f"{name}:classifier={tmp_path},class_scale=0", batch.backbone).method
        assert torch.equal(made(off, batch), plain)
        with pytest.raises(UsageError, match="'a cow' names none of the 2 classes"):
            made(beside, replace(batch, prompts=["a cat", "a cow"]))


def test_what_acts_less_by_share_is_the_same_with_less_of_it(batch: Batch, predictor: LatentPredictor, tmp_path: Path):
    """What until_recognised rests on, for every method that takes tries."""
    network = ControlNetModel.from_unet(batch.backbone.network, conditioning_embedding_out_channels=(8, 16))
    torch.nn.init.normal_(network.controlnet_mid_block.weight)
    network.save_pretrained(tmp_path / "controlnet")
    predictor.save_pretrained(tmp_path / "lgp")
    save_sketch_loss(tmp_path)
    attention_for(batch.backbone).save(tmp_path / "sketch-attention.safetensors")
    acting = {
        "lgp": "predictor={}/lgp,strength={}",
        "lgp-pnp": "predictor={}/lgp,source=noised,strength={}",
        "sketch-loss": "sketcher={0},drawing={0},strength={1}",
        "sketch-attention": "path={},weight={}",
        "controlnet": "path={}/controlnet,weight={}",
    }
    like_others = {"lgp-paper": "lgp", "t2i-adapter": "controlnet"}  # they act by the same lines
    assert {*acting, *like_others} == {name for name, kind in METHODS.items() if "tries" in kind.takes}
    for name, options in acting.items():
        described = f"{name}:{options},steps=1"
        whole, half = (build_method(described.format(tmp_path, by), batch.backbone).method for by in (2, 1))
        less = made(whole, batch.of([1, 0], 0.5))
        torch.testing.assert_close(less, made(half, batch.of([1, 0], 1)))
        assert not torch.allclose(less, made(whole, batch.of([1, 0], 1))), name


def test_pictures_are_tried_again_until_they_are_recognised(batch: Batch, predictor: LatentPredictor, tmp_path: Path):
    predictor.save_pretrained(tmp_path)
    save_classifier(IconClassifier(["cat", "dog", "cow"]), tmp_path / "recogniser.safetensors")
    lgp = f"lgp:predictor={tmp_path},strength=4"
    twice = [made(build_method(lgp, batch.backbone).method, batch.of([0, 1], share)) for share in (1, LATER)]
    never = build_method(f"{lgp},tries=3,sure=1,recogniser={tmp_path}", batch.backbone)
    *_, last = never.method(batch)
    found = last.latent
    assert len(never.networks) == 2
    for row in range(2):
        assert any(torch.allclose(found[row], one[row], rtol=1e-4, atol=1e-4) for one in twice)
    at_once = build_method(f"{lgp},tries=3,sure=0,recogniser={tmp_path}", batch.backbone)
    assert torch.equal(made(at_once.method, batch), twice[0])
    assert last.evaluations.conditional == 2 * batch.request.steps  # the second try is passed over


@pytest.mark.parametrize(("options", "kept"), [("", 3), (",stop=0.5", 1), (",stop=0.25", 0)])
def test_a_method_is_resumed_where_it_still_acts(
    batch: Batch,
    predictor: LatentPredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    kept: int,
):
    monkeypatch.setattr(Recogniser, "confidence", lambda *_: torch.full((2,), 0.5))
    predictor.save_pretrained(tmp_path)
    save_classifier(IconClassifier(["cat", "dog", "cow"]), tmp_path / "recogniser.safetensors")
    described = f"lgp:predictor={tmp_path},steps=4,every=1,tries=3,sure=1,recogniser={tmp_path}{options}"
    *_, last = build_method(described, batch.backbone).method(batch)
    assert last.evaluations.conditional == 4 + (4 - kept) + 4


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("magic", "There is no method 'magic'"),
        ("text:fast", "'fast' in 'text:fast' is no setting"),
        ("text:speed=3", "'speed=3' in 'text:speed=3' is no setting"),
        ("lgp:strength=x", "strength is 'x'"),
        ("text:strength=5", "'strength=5' in 'text:strength=5' is no setting of text"),
        ("sdedit:stop=0.3", "sdedit takes amount, negative, steps, scale, negative_time, solver"),
        ("controlnet:strength=0.5", "controlnet takes path, weight, mode, tries, sure, recogniser, negative"),
        ("sdedit:tries=3", "'tries=3' in 'sdedit:tries=3' is no setting of sdedit"),
        ("lgp:tries=0", "tries is '0'"),
        ("lgp:sure=0.5", r"'sure' in 'lgp:sure=0\.5' changes nothing: there is one try\. Add tries=3"),
        ("lgp:tries=1,recogniser=mine", "'recogniser' in 'lgp:tries=1,recogniser=mine' changes nothing"),
        ("lgp:predictor=", "'predictor' in 'lgp:predictor=' has no value"),
        ("text:steps= ,scale=3", "'steps' in 'text:steps= ,scale=3' has no value"),
        ("text:steps=3,steps=4", "'steps' is given twice in 'text:steps=3,steps=4'"),
        ("text:negative=, negative=a dog", "'negative' is given twice"),
        ("pnp:blank=1", "'blank=1' in 'pnp:blank=1' is no setting of pnp"),
        ("sketch-loss:even=0", "sketch-loss takes sketcher, drawing, strength, stop, every, tries"),
        ("text:prompt=a", "'prompt=a' in 'text:prompt=a' is no setting"),
        ("lgp:attention=parts", "'attention=parts' in 'lgp:attention=parts' is no setting"),
        ("sketch-attention:path=nowhere", "No sketch-attention at 'nowhere'"),
        ("pnp:tau_f=2", "tau_f is '2'"),
        ("pnp:source=generated", "A drawing was not generated"),
        ("pnp:layout=x", "'layout=x' in 'pnp:layout=x' is no setting"),
        ("sdedit:amount=much", "amount is 'much'; it must be a number"),
        ("sdedit:amount=nan", "amount is 'nan'; it must be a number"),
        ("sdedit:amount=5", "amount is 5.0; it must be above 0 and at most 1"),
        ("text:solver=magic", "magic"),
        ("pnp:features=a+b", "'a'"),
        ("text:class_scale=x", "class_scale is 'x'"),
        ("text:classifier=nowhere", "No latent-classifier at 'nowhere'"),
        ("controlnet", "^controlnet needs a folder: controlnet:path=FOLDER"),
        ("t2i-adapter:weight=1", "^t2i-adapter needs a folder: t2i-adapter:path=FOLDER"),
        ("controlnet:path=nowhere", "^nowhere is no folder that a ControlNetModel can be loaded from"),
    ],
)
def test_what_cannot_be_understood_is_named(tiny: Tiny, description: str, message: str):
    with pytest.raises(UsageError, match=message):
        build_method(description, tiny())


@pytest.mark.parametrize("damage", ["cut", "not finite", "incomplete", "no json", "another"])
def test_a_damaged_peer_is_named(tiny: Tiny, tmp_path: Path, damage: str):
    backbone = tiny()
    network = ControlNetModel.from_unet(backbone.network, conditioning_embedding_out_channels=(8, 16))
    network.save_pretrained(tmp_path)
    file, config = tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "config.json"
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:-100])
        case "no json":
            config.write_text("{")
        case "another":
            config.write_text(config.read_text().replace("32,", "64,"))
        case _:
            tensors = load_file(file)
            if damage == "incomplete":
                tensors.pop("conv_in.weight")
            else:
                tensors["conv_in.weight"][:] = float("nan")
            save_file(tensors, file, {"format": "pt"})
    with pytest.raises(WeightsError):
        build_method(f"controlnet:path={tmp_path}", backbone)


@pytest.mark.parametrize("name", ["controlnet", "t2i-adapter"])
def test_a_peer_without_weights_is_refused(tiny: Tiny, name: str, tmp_path: Path):
    for description, words in ((name, "needs a folder: "), (f"{name}:path={tmp_path}", "is no folder that a")):
        with pytest.raises(ModelNotFoundError, match=words):
            build_method(description, tiny())
