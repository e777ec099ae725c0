"""What a request means where it leaves open settings that go together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from sketchguide.backbones.base import Backbone
from sketchguide.defaults import RECOGNISED, STEPS
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.generation import generate, run
from sketchguide.images import to_base64
from sketchguide.loading import load_backbone, load_predictor
from sketchguide.pictures import Picture, recall
from sketchguide.request import Layout, Request
from sketchguide.sketch import Sketch
from sketchguide.usual import usual_settings
from sketchguide.web.app import create_app
from sketchguide.web.jobs import Desk

APPLE = Sketch.open(Path(__file__).parents[1] / "examples" / "sketches" / "apple.svg")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("icons-64", device="cpu")


def usual(backbone: Backbone, *prompts: str, sketch: Sketch | None = APPLE, **given: Any) -> dict[str, Any]:
    """What is usual where `given` are the settings that are chosen."""
    request = Request.checked(prompt="", seed=1, **given)
    return usual_settings(request, prompts or ["a red apple"], sketch, backbone, fingerprint_of_model(backbone))


def test_a_drawing_of_what_the_model_knows_is_tried_again(backbone: Backbone):
    assert usual(backbone) == usual(backbone, "a cat", "two red apples") == RECOGNISED
    assert usual(backbone, sure=0.9, widen=1.0, count=2, strength=None, solver=None) == RECOGNISED
    assert usual(backbone, tries=3) == {**RECOGNISED, "tries": 3}
    line = Sketch.from_strokes([[(0.2, 0.5), (0.8, 0.5)]])
    assert usual(backbone, sketch=line) == RECOGNISED


@pytest.mark.parametrize(
    "given",
    [
        {"tries": 1},
        {"steps": STEPS.default},
        {"every": 2},
        {"strength": 2.3},
        {"solver": "euler"},
        {"tries": 3, "steps": 50},
        {"sketch_loss": 1.0},
        {"class_name": "apple"},
        {"attention": "icons-64-parts"},
        {"controlnet": "scribble"},
        {"t2i_adapter": "scribble"},
        {"layout": Layout.checked(picture=to_base64(Image.new("RGB", (64, 64))))},
        {"sketch": None},
        {"sketch": Sketch()},
    ],
    ids=str,
)
def test_what_is_chosen_keeps_the_rest_as_it_is(backbone: Backbone, given: dict[str, Any]):
    assert usual(backbone, **given) == {}


def test_only_a_shipped_model_and_what_it_knows(backbone: Backbone):
    assert usual(backbone, "a wizard") == usual(backbone, "a cat", "a wizard") == {}
    assert usual_settings(Request.checked(prompt="a cat", seed=1), ["a cat"], APPLE, backbone, "0" * 12) == {}


def test_the_picture_says_what_it_was_made_with_and_can_be_made_again(backbone: Backbone, tmp_path: Path):
    (picture,) = generate("a red apple", sketch=APPLE, backbone=backbone, seed=7)
    assert {name: getattr(picture.request, name) for name in RECOGNISED} == RECOGNISED
    assert picture.confidence is not None
    picture.save(tmp_path / "apple.png")
    (again,) = (
        one for one in run(recall(tmp_path / "apple.png").request, backbone=backbone) if isinstance(one, Picture)
    )
    assert again.image.tobytes() == picture.image.tobytes()


def test_the_page_goes_on_from_such_a_picture_as_it_was_asked_for(backbone: Backbone):
    (usual, chosen) = (
        generate("a red apple", sketch=APPLE, backbone=backbone, seed=7, **given)[0] for given in ({}, {"steps": 4})
    )
    with (
        Desk(lambda: (backbone, load_predictor(None, backbone))) as desk,
        TestClient(create_app(desk), base_url="http://127.0.0.1:8000") as client,
    ):
        settings = client.get("/api/about").json()["settings"]
        assert {settings[name]["default"] for name in RECOGNISED} == {None}
        taken = client.post("/api/recipes", content=usual.to_png()).json()["request"]
        assert not taken.keys() & RECOGNISED
        (plain,) = generate("a red apple", backbone=backbone, seed=7, scale=1.5)
        taken = client.post("/api/recipes", content=plain.to_png()).json()["request"]
        assert (taken.keys() & RECOGNISED, taken["scale"]) == (set(), 1.5)
        elsewhere = replace(usual, request=usual.request.model_copy(update={"recogniser": "/nowhere/else"}))
        answer = client.post("/api/recipes", content=elsewhere.to_png())
        assert answer.status_code == 200, "what it names is not looked for"
        assert "It was made with recogniser, which this page does not set." in answer.json()["warnings"]
        assert client.post("/api/recipes", content=chosen.to_png()).json()["request"]["steps"] == 4
