"""The API of the drawing page, with a small random model."""

import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from served import ASKED, CAT, when_ended
from sketchguide.cli import serve
from sketchguide.defaults import PULLING
from sketchguide.errors import QueueFullError, SketchguideWarning, warn
from sketchguide.generation import Progress, generate, run
from sketchguide.images import read_png_text, to_base64, to_png
from sketchguide.pictures import RECIPE_KEY, Picture, recall
from sketchguide.predictors import LatentPredictor
from sketchguide.request import Request
from sketchguide.sketch import Sketch
from sketchguide.web import jobs
from sketchguide.web.app import FIELDS, MOST, STARTED_WITH, create_app, describe_service, requested
from sketchguide.web.jobs import Desk
from sketchguide.web.warned import Warned
from support import Tiny, save_adapter

NETWORK = "small"
Ended = Callable[..., dict[str, Any]]


def test_the_page_and_what_belongs_to_it(client: TestClient):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("page.css", "page.js", "paper.js", "raster.js", "server.js", "store.js", "strokes.js"):
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200
        assert "javascript" in answer.headers["content-type"] or name.endswith(".css")
    for path in ("/page/none.js", "/page/../jobs.py", "/page/%2e%2e/jobs.py", "/page/..%2fjobs.py", "/page/%00", "/x"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "There is nothing at this address."


def test_a_picture_is_the_one_that_the_library_makes(
    client: TestClient, ended: Ended, desk: Desk, predictor: LatentPredictor
):
    end = ended(sketch=CAT, count=2)
    assert (end["state"], end["done"], end["total"], end["error"]) == ("done", 3, 3, None)
    assert [one["seed"] for one in end["pictures"]] == [7, 8]
    expected = generate(
        "a cat", sketch=Sketch.from_json(CAT), backbone=desk.backbone, predictor=predictor, steps=3, seed=7, count=2,
        size=(64, 64),
    )  # fmt: skip
    for one, picture in zip(end["pictures"], expected, strict=True):
        answer = client.get("/" + one["url"])
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == picture.to_png()
        assert recall(answer.content).request.sketch == CAT


def test_previews_come_while_it_is_drawn(client: TestClient):
    job = client.post("/api/jobs", json=ASKED | {"steps": 5}).json()["id"]
    told = [json.loads(line[6:]) for line in client.get(f"/api/jobs/{job}/events").text.splitlines() if line]
    assert told[-1]["state"] == "done"
    assert told[-1]["previews"] == []
    assert any(one["previews"] and one["previews"][0].startswith("data:image/jpeg;base64,") for one in told)
    assert [one["done"] for one in told] == sorted(one["done"] for one in told)


def test_a_seed_is_drawn_where_none_is_given(client: TestClient, ended: Ended):
    asked = {name: value for name, value in ASKED.items() if name != "seed"}
    first, second = (when_ended(client, client.post("/api/jobs", json=asked).json()["id"]) for _ in range(2))
    assert first["pictures"][0]["seed"] != second["pictures"][0]["seed"]
    assert ended()["pictures"][0]["seed"] == 7


def test_the_location_of_a_job_leads_to_it(client: TestClient):
    answer = client.post("/api/jobs", json=ASKED)
    there = client.get(answer.url.join(answer.headers["location"]))
    assert there.json()["id"] == answer.json()["id"]


def test_a_finished_picture_takes_the_place_of_its_preview(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    def slowly(*args: Any, **more: Any) -> Iterator[Picture | Progress]:
        for event in run(*args, **more):
            yield event
            time.sleep(0.1)  # in which that is told

    monkeypatch.setattr(jobs, "run", slowly)
    job = client.post("/api/jobs", json=ASKED | {"count": 2}).json()["id"]
    told = [json.loads(line[6:]) for line in client.get(f"/api/jobs/{job}/events").text.splitlines() if line]
    assert told[-1]["state"] == "done"
    assert {(len(one["pictures"]), len(one["previews"])) for one in told} == {(0, 0), (0, 2), (1, 1), (2, 0)}


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({"prompt": "a\0b"}, "prompt", "control characters"),
        ({"strength": 50}, "strength", "at most 20"),
        ({"strength": "much"}, "strength", "must be a number"),
        ({"steps": 500}, "steps", "this server allows 200"),
        ({"count": 9}, "count", "this server allows 8"),
        ({"count": "256"}, "count", "this server allows 8"),
        ({"steps": 1000.0}, "steps", "this server allows 200"),
        ({"cls": 1}, "cls", "no such setting"),
        ({"size": [640, 640]}, "size", "this server allows 4 times"),
        ({"size": [2001, 64]}, "size", "this server allows 4 times"),
        ({"tries": 2, "prompt": "a bike"}, "tries", "names none of the 240 things that the recogniser knows"),
        ({"size": [63, 64]}, "size", "multiples of"),
        ({"paint": 1}, "paint", "no such setting"),
        ({"model": "/etc"}, "model", "not for whoever draws"),
        ({"predictor": "../x"}, "predictor", "not for whoever draws"),
        ({"lora": "x"}, "lora", "not for whoever draws"),
        ({"classifier": "x"}, "classifier", "not for whoever draws"),
        ({"device": "cuda"}, "device", "not for whoever draws"),
        ({"layout": {}}, "layout", "not for whoever draws"),
        ({"sketch": {"strokes": []}}, "sketch", "not a saved sketch"),
        ({"sketch": CAT | {"aspect": 1e9}}, "sketch", "times as wide as high"),
        ({"solver": "magic"}, "solver", "magic"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(client: TestClient, asked: dict[str, Any], field: str, words: str):
    answer = client.post("/api/jobs", json=ASKED | asked)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ({"lora": "x"}, "Start the server with it."),
        ({"class_name": "cat"}, "The drawing page does not offer it; use `sketchguide generate`."),
        ({"layout": {}}, "The drawing page does not offer it; use `sketchguide translate`."),
        ({"edit": {}}, "The drawing page does not offer it; use `sketchguide edit`."),
        ({"size": [200, 200]}, "The largest square is 128x128."),
        ({"tries": 2, "prompt": "a catt"}, "Did you mean cat, cactus, carrot? Name one of them, or leave tries at 1."),
    ],
)
def test_what_can_be_done_instead_is_said_too(client: TestClient, asked: dict[str, Any], hint: str):
    assert client.post("/api/jobs", json=ASKED | asked).json()["error"]["hint"] == hint


def test_the_server_is_started_with_what_its_command_takes():
    taken = inspect.signature(serve.command).parameters
    assert sorted(name for name in taken if name in Request.model_fields) == sorted(STARTED_WITH)


def test_the_largest_square_is_drawn(ended: Ended):
    end = ended(size=[128, 128], steps=1)
    assert end["state"] == "done"


def test_tries_of_what_the_recogniser_knows_are_taken(ended: Ended):
    end = ended(prompt="two cats", tries=2, sure=0)
    assert (end["state"], len(end["pictures"])) == ("done", 1)
    assert any("was trained for icons-64" in warning for warning in end["warnings"])


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'{"prompt": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"prompt": "\\ud800"}']
)
def test_bodies_that_are_no_request(client: TestClient, body: bytes):
    answer = client.post("/api/jobs", content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]


def test_warnings_are_told_to_whoever_asked(ended: Ended):
    blank = Sketch.from_strokes([]).to_json()
    assert any("blank" in one or "no ink" in one for one in ended(sketch=blank)["warnings"])
    assert ended(sketch=CAT)["warnings"] == []


def test_warnings_of_two_at_once_do_not_mix():
    together = threading.Barrier(2, timeout=20)

    def told(word: str) -> list[str]:
        with warned.told() as found:
            together.wait()
            warn(word)
            together.wait()
            return list(found)

    with Warned() as warned, ThreadPoolExecutor(2) as threads:
        assert list(threads.map(told, ("of one", "of the other"))) == [["of one"], ["of the other"]]


def test_unknown_jobs_and_pictures(client: TestClient, ended: Ended):
    for path in ("/api/jobs/none", "/api/jobs/none/events", "/api/jobs/none/pictures/0.png"):
        assert client.get(path).status_code == 404
    assert client.delete("/api/jobs/none").status_code == 404
    name = ended()["id"]
    for index in ("1", "-1", "99999999999999999999999"):
        assert client.get(f"/api/jobs/{name}/pictures/{index}.png").status_code == 404
    assert client.delete(f"/api/jobs/{name}").json()["state"] == "done"
    assert client.put("/api/jobs").status_code == 405


def test_drawings_are_read(client: TestClient):
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><path d="M1 1L9 9" data-weight="2"/></svg>'
    read = client.post("/api/sketches", content=svg).json()
    (stroke,) = Sketch.from_json(read["sketch"]).strokes
    assert stroke.weight == 2
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("black", (20, 20, 44, 24))
    assert client.post("/api/sketches", content=to_png(picture)).json()["sketch"]["raster"]
    quick = b'{"word": "cat", "drawing": [[[0, 9], [0, 9]]]}\n'
    assert client.post("/api/sketches", content=quick).json()["warnings"] == []
    assert "several drawings" in client.post("/api/sketches", content=quick * 2).json()["warnings"][0]
    for bad in (b"", b"nothing", b"<svg><path", b"\x89PNG\r\n\x1a\nx"):
        answer = client.post("/api/sketches", content=bad)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith("The ")


def test_a_drawing_without_the_paper_around_it(client: TestClient):
    drawing = Sketch.from_strokes([[(0.4, 0.4), (0.6, 0.4), (0.6, 0.6)]]).to_json()
    kept, trimmed = (
        Sketch.from_json(client.post(f"/api/sketches?trim={trim}", json=drawing).json()["sketch"])
        for trim in ("false", "true")
    )
    assert kept.to_json() == drawing
    assert trimmed.to_json() == Sketch.from_json(drawing).trimmed().to_json() != drawing


def test_what_is_no_text_is_refused_as_one(client: TestClient):
    for wrong in ("\ud800", "x" * 10**5):
        drawing = CAT | {"strokes": [CAT["strokes"][0] | {"width": wrong}]}
        answer = client.post("/api/jobs", content=json.dumps(ASKED | {"sketch": drawing}))
        assert answer.status_code == 422
        assert len(answer.content) < 5000


def test_which_is_ink_in_a_picture_can_be_said(client: TestClient):
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("black", (0, 30, 64, 34))

    def ink(polarity: str) -> list[float]:
        answer = client.post(f"/api/sketches?polarity={polarity}", content=to_png(picture))
        raster = Sketch.from_json(answer.json()["sketch"]).raster
        assert raster is not None
        return [float(raster[32, 32]), float(raster[8, 32])]

    assert ink("auto") == ink("dark-on-light") == [1, 0]
    assert ink("light-on-dark") == [0, 1]


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g/></svg>', ""),
        (b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>a</text></svg>', "1 text element"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M20 20L30 30"/></svg>', ""),
        (to_png(Image.new("RGB", (64, 64), "white")), ""),
    ],
    ids=["empty", "text", "beside", "paper"],
)
def test_a_file_in_which_nothing_can_be_drawn(client: TestClient, data: bytes, hint: str):
    answer = client.post("/api/sketches", content=data)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "Nothing in the file can be drawn."
    assert answer.json()["error"]["hint"].startswith(hint)


def test_a_photograph_is_traced(client: TestClient):
    picture = Image.new("RGB", (600, 300), "white")
    picture.paste("red", (200, 100, 400, 200))
    traced = Sketch.from_json(client.post("/api/sketches?trace=true", content=to_png(picture)).json()["sketch"])
    assert traced.aspect == 2
    ink = traced.rasterize(size=(120, 60)).ink
    assert ink[30, 40] > 0.5  # on the edge
    assert ink[30, 60] < 0.1  # within
    assert ink[10, 60] < 0.1


def test_a_picture_gives_its_settings_back(client: TestClient, ended: Ended):
    end = ended(sketch=CAT, count=2, strength=1.25)
    second = client.get("/" + end["pictures"][1]["url"]).content
    found = client.post("/api/recipes", content=second).json()
    assert found["warnings"] == []
    assert found["request"] | {"count": 1} == found["request"]
    assert (found["request"]["seed"], found["request"]["strength"], found["request"]["sketch"]) == (8, 1.25, CAT)
    again = client.post("/api/jobs", json=found["request"])
    assert again.status_code == 202
    answer = client.post("/api/recipes", content=to_png(Image.new("RGB", (64, 64))))
    assert answer.status_code == 422
    assert "carries no sketchguide recipe" in answer.json()["error"]["message"]


def test_a_recipe_tells_what_the_page_does_not_set(client: TestClient, desk: Desk):
    with pytest.warns(SketchguideWarning, match="class_scale"):
        (picture,) = generate("a cat", backbone=desk.backbone, steps=1, size=(64, 64), class_scale=3.0, seed=1)
    told = client.post("/api/recipes", content=picture.to_png()).json()["warnings"]
    assert told == ["It was made with class_scale, which this page does not set."]
    desk.settings, before = {"lora": "style", "lora_scale": 0.5}, desk.settings
    try:
        (_, told) = client.post("/api/recipes", content=picture.to_png()).json()["warnings"]
    finally:
        desk.settings = before
    assert told == "It was made with no LoRA; this page draws with the LoRA style at 0.5."


def test_a_recipe_of_more_than_a_visitor_may_ask_for_is_cut_to_that(client: TestClient, desk: Desk):
    (picture,) = generate("a cat", backbone=desk.backbone, steps=1, size=(64, 64), seed=1)
    more = replace(picture, request=picture.request.model_copy(update={"steps": 300}))
    found = client.post("/api/recipes", content=more.to_png()).json()
    assert found["warnings"] == ["It was made with steps 300; this server allows 200."]
    assert found["request"]["steps"] == 200


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ((640, 640), "size is 640x640; this server allows 4 times the pixels of 64x64."),
        ((65, 64), "size is 65x64; tiny needs multiples of 16 pixels."),
    ],
)
def test_a_recipe_of_a_size_that_is_not_drawn_here(client: TestClient, desk: Desk, size: tuple[int, int], why: str):
    (picture,) = generate("a cat", backbone=desk.backbone, steps=1, size=(64, 64), seed=1)
    other = replace(picture, request=picture.request.model_copy(update={"size": size}))
    found = client.post("/api/recipes", content=other.to_png()).json()
    assert found["warnings"] == [f"It is drawn at another size: {why}"]
    assert found["request"]["size"] is None


def test_what_the_server_was_started_with_is_in_every_recipe(tiny: Any, predictor: LatentPredictor):
    with Desk(lambda: (tiny(), predictor), settings={"lora": "some", "lora_scale": 0.5}) as desk:
        request = requested({"prompt": "a cat"}, desk)
    assert (request.lora, request.lora_scale, request.model) == (("some",), (0.5,), "tiny")


@pytest.fixture
def lines(tiny: Tiny, tmp_path: Path) -> dict[str, Any]:
    """A ControlNet that serves a page."""
    return {"controlnet": str(save_adapter("controlnet", tiny(), tmp_path / "lines")), "controlnet_scale": 0.8}


def test_a_page_of_a_controlnet_draws_without_a_predictor(tiny: Tiny, lines: dict[str, Any]):
    with (
        Desk(lambda: (tiny(), None), settings=lines) as desk,
        TestClient(create_app(desk), base_url="http://127.0.0.1:8000") as client,
    ):

        def made(**asked: Any) -> Any:
            job = client.post("/api/jobs", json=ASKED | asked).json()
            end = when_ended(client, job["id"])
            assert (end["state"], end["warnings"]) == ("done", [])
            return client.get("/" + end["pictures"][0]["url"]).content

        offers = client.get("/api/about").json()["settings"]
        assert offers.keys() == {*FIELDS, "controlnet_scale", "controlnet_end"} - set(PULLING)
        assert offers["controlnet_scale"] | {"default": 0.8, "minimum": 0} == offers["controlnet_scale"]
        whole, less = made(sketch=CAT), made(sketch=CAT, controlnet_scale=0.1)
        settings = {"backbone": tiny(), "steps": 3, "seed": 7, "size": (64, 64), "sketch": Sketch.from_json(CAT)}
        for png, scale in ((whole, 0.8), (less, 0.1)):
            (picture,) = generate("a cat", **settings, **lines | {"controlnet_scale": scale})
            assert png == picture.to_png()
        plain = made(controlnet_scale=0.6)
        assert recall(plain).request.controlnet is None  # there is no drawing that it could be shown
        taken = client.post("/api/recipes", content=plain).json()["request"]
        assert not {"controlnet_scale", "controlnet_end"} & taken.keys()  # the server's own stay
        body = client.get("/api/openapi.json").json()["paths"]["/api/jobs"]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]["properties"]
        assert {name: schema[name].get("default") for name in offers} == {
            name: offer["default"] for name, offer in offers.items()
        }
        for wrong in ({"controlnet_strength": 1}, {"controlnet_scale": "much"}):
            assert client.post("/api/jobs", json=ASKED | wrong).status_code == 422
        refused = client.post("/api/jobs", json=ASKED | {"strength": 1.0}).json()["error"]
        assert refused["message"] == "strength is not for whoever draws to set."
        found = client.post("/api/recipes", content=less).json()
        assert (found["request"]["controlnet_scale"], found["warnings"]) == (0.1, [])
        (picture,) = generate("a cat", **settings, strength=0)
        picture = replace(picture, request=picture.request.model_copy(update={"t2i_adapter": "colours"}))
        assert client.post("/api/recipes", content=picture.to_png()).json()["warnings"] == [
            f"It was made with no ControlNet; this page draws with the ControlNet {lines['controlnet']}.",
            "It was made with the T2I-Adapter colours; this page draws with no T2I-Adapter.",
        ]


def test_a_controlnet_acts_beside_the_predictor(tiny: Tiny, predictor: LatentPredictor, lines: dict[str, Any]):
    with Desk(lambda: (tiny(), predictor), settings=lines) as desk:
        assert set(describe_service(desk)["settings"]) == {*FIELDS, "controlnet_scale", "controlnet_end"}
        request = requested({"prompt": "a cat", "sketch": CAT, "strength": 1.4}, desk)
    assert request.controlnet == lines["controlnet"]
    assert (request.controlnet_scale, request.strength, request.predictor) == (0.8, 1.4, predictor.source)


def test_about_names_every_setting_with_its_range(client: TestClient, desk: Desk):
    about = client.get("/api/about").json()
    assert about["model"] == "tiny"
    assert about["sizes"][0] == list(desk.backbone.default_size)
    for width, height in about["sizes"]:
        assert width % desk.backbone.multiple == height % desk.backbone.multiple == 0
    assert tuple(about["settings"]) == FIELDS
    for name, setting in about["settings"].items():
        assert setting["about"]
        assert setting["default"] == (None if name in ("prompt", "seed") else Request.model_fields[name].default)
    assert about["settings"]["strength"] | {"minimum": 0, "maximum": 20} == about["settings"]["strength"]
    assert about["settings"]["count"]["maximum"] == MOST["count"]
    for name, kind in (("steps", "integer"), ("every", "integer"), ("handover", "number"), ("solver", "string")):
        assert about["settings"][name]["type"] == kind


def test_the_description_of_the_api(client: TestClient):
    described = client.get("/api/openapi.json").json()
    body = described["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(FIELDS)
    assert body["required"] == ["prompt"]


def test_health_and_readiness(client: TestClient, desk: Desk):
    assert client.get("/ready").status_code == 200
    desk.close()
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
    answer = client.post("/api/jobs", json=ASKED)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_a_full_queue_says_when_to_come_back(client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch):
    def full(_: Request) -> None:
        raise QueueFullError("16 drawings wait already.")

    monkeypatch.setattr(desk, "submit", full)
    answer = client.post("/api/jobs", json=ASKED)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")


def test_an_error_inside_is_told_in_order(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    def broken(_: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(desk, "job", broken)
    with TestClient(create_app(desk), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.get("/api/jobs/x")
    assert answer.status_code == 500
    assert "a bug" in answer.json()["error"]["message"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/api/jobs/x/pictures/abc.png", "/api/sketches?trace=maybe", "/api/sketches?polarity=x"]
)
def test_addresses_that_make_no_sense(client: TestClient, path: str):
    answer = client.post(path, content=b"x") if "sketches" in path else client.get(path)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] in ("index", "trace", "polarity")


def test_only_the_drawing_of_a_sketch_is_kept(client: TestClient, ended: Ended):
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    end = ended(sketch=CAT | {"junk": "x" * 100_000, "name": deep})
    assert end["state"] == "done"
    kept = recall(client.get("/" + end["pictures"][0]["url"]).content).request.sketch
    assert kept is not None
    assert kept.keys() == CAT.keys()
    assert kept["strokes"] == CAT["strokes"]


def test_drawings_that_are_too_large(client: TestClient):
    noise = Image.effect_noise((2500, 2500), 100)
    answer = client.post("/api/jobs", json=ASKED | {"sketch": CAT | {"raster": to_base64(noise)}})
    assert answer.status_code == 422
    assert "this server allows 4" in answer.json()["error"]["message"]
    answer = client.post("/api/jobs", content=b" " * (9 * 2**20))
    assert answer.status_code == 422
    assert "larger than 8 MB" in answer.json()["error"]["message"]


def test_a_recipe_whose_drawing_is_broken(client: TestClient, ended: Ended):
    content = client.get("/" + ended(sketch=CAT)["pictures"][0]["url"]).content
    recipe = json.loads(read_png_text(content)[RECIPE_KEY])
    recipe["request"]["sketch"]["strokes"] = 5
    broken = to_png(Image.new("RGB", (64, 64)), text={RECIPE_KEY: json.dumps(recipe)})
    answer = client.post("/api/recipes", content=broken)
    assert answer.status_code == 422
    assert "not a saved sketch" in answer.json()["error"]["message"]
    recipe["request"]["sketch"], recipe["request"]["predictor"] = CAT, "another"
    other = to_png(Image.new("RGB", (64, 64)), text={RECIPE_KEY: json.dumps(recipe)})
    (told,) = client.post("/api/recipes", content=other).json()["warnings"]
    assert told.startswith("It was made with the predictor another;")
