"""`sketchguide serve`: as a process of its own, and what it refuses."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import httpx2
import pytest
from diffusers import T2IAdapter

from served import ASKED
from sketchguide import loading
from sketchguide.backbones.unet import UNetBackbone
from sketchguide.cli import main, serve
from sketchguide.cli.serve import address, open_desk
from support import save_adapter, small_stable_diffusion, trained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a tiny model on the disk and its predictor."""
    folder = tmp_path_factory.mktemp("served")
    pipeline = small_stable_diffusion()
    pipeline.save_pretrained(folder / "tiny")
    (folder / "pictures").mkdir()
    trained(UNetBackbone(pipeline, name="tiny"), folder / "pictures")
    return ["--model", str(folder / "tiny"), "--predictor", str(folder / "pictures" / "edges")]


@contextmanager
def process(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`sketchguide serve` at a free port, and the address that it printed."""
    command = [sys.executable, "-m", "sketchguide", "serve", "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, **pipes) as serving:  # pyright: ignore
        assert serving.stderr
        line = serving.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + serving.stderr.read()
        try:
            yield serving, found[0]
        finally:
            serving.kill()


def test_a_signal_drains_it(model: list[str]):
    with process(*model, "--json") as (serving, url):
        job = httpx2.post(f"{url}api/jobs", json=ASKED | {"steps": 24}, timeout=60).json()["id"]
        with httpx2.stream("GET", f"{url}api/jobs/{job}/events", timeout=60) as stream:
            lines = stream.iter_lines()
            begun = json.loads(next(line for line in lines if '"running"' in line)[6:])
            serving.send_signal(signal.SIGTERM)
            told = [json.loads(line[6:]) for line in lines if line]
        assert begun["done"] < 12
        assert told[-1]["state"] == "done"
        picture = httpx2.get(url + told[-1]["pictures"][0]["url"], timeout=60)  # it waits for that
        assert picture.headers["content-type"] == "image/png"
        out, err = serving.communicate(timeout=60)
        assert serving.returncode == 0, err
        assert json.loads(out)["drawn"] == 1
        assert json.loads(out)["url"] == url
        assert "Traceback" not in err


def test_a_second_signal_ends_it_after_the_step(model: list[str]):
    """The token comes from the environment, and nothing that is logged tells it."""
    token = "very-secret-0123456789"
    with process(*model, SKETCHGUIDE_TOKEN=token) as (serving, url):
        assert url.endswith(f"/?token={token}")
        url = url.partition("?")[0]
        assert httpx2.get(f"{url}api/about").status_code == 401
        bearer = {"authorization": f"Bearer {token}"}
        asked = ASKED | {"steps": 200, "count": 2}
        job = httpx2.post(f"{url}api/jobs", json=asked, headers=bearer, timeout=60).json()["id"]
        with httpx2.stream("GET", f"{url}api/jobs/{job}/events", headers=bearer, timeout=60) as stream:
            lines = stream.iter_lines()
            next(line for line in lines if '"running"' in line)
            serving.send_signal(signal.SIGTERM)
            while httpx2.get(f"{url}ready", headers=bearer, timeout=60).status_code != 503:
                time.sleep(0.02)
            serving.send_signal(signal.SIGTERM)
            told = [json.loads(line[6:]) for line in lines if line]
        assert told[-1]["state"] == "cancelled"
        out, err = serving.communicate(timeout=60)
        assert serving.returncode == 0, err
        assert out == "0 pictures were drawn.\n"
        assert token not in err


def _fails(*options: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["serve", *options])
    assert "Traceback" not in err.getvalue()
    return code, err.getvalue()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "draw.example"])
def test_others_need_a_token(host: str):
    code, err = _fails("--host", host)
    assert code == 2
    assert f"Others can reach {host}, and there is no token." in err


def test_a_name_that_others_reach_needs_a_token_too():
    """A proxy under that name hands everybody's requests on."""
    code, err = _fails("--name", "localhost", "--name", "draw.example")
    assert code == 2
    assert "Others can reach draw.example, and there is no token." in err


@pytest.mark.parametrize("name", ["http://draw.example", "draw.example:80", "a b", ""])
def test_names_that_are_none(name: str):
    code, err = _fails("--name", name)
    assert code == 2
    assert "is no name of a host" in err


def test_short_tokens_are_refused():
    for token in ("short", "with spaces in it 0123456789", "quoted;0123456789abcdef"):
        code, err = _fails("--token", token)
        assert code == 2
        assert "16 letters" in err


def test_a_scale_that_no_request_may_have_is_refused_before_the_model_is_loaded():
    code, err = _fails("--port", "0", "--lora", "some.safetensors", "--lora-scale", "10")
    assert code == 2
    assert "--lora-scale is 10.0; it must be at most 4." in err
    code, err = _fails("--port", "0", "--lora-scale", "2", "--model", "nowhere")
    assert "Warning: --lora-scale changes nothing without --lora." in err


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, err = _fails("--port", str(taken.getsockname()[1]))
    assert code == 1
    assert "cannot listen at 127.0.0.1" in err
    assert _fails("--port", "70000")[0] == 2


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine(host: str):
    code, err = _fails("--host", host, "--token", "0123456789abcdef", "--port", "0")
    assert code == 1
    assert "Give --host an address of this machine" in err


def test_a_model_without_a_predictor(model: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "load_backbone", lambda *_, **__: pytest.fail("it was fetched first"))
    code, err = _fails("--port", "0", *model[:2])
    assert code == 2
    assert "no predictor of its own" in err


def test_a_controlnet_takes_the_place_of_a_predictor(model: list[str], tmp_path: Path):
    lines = save_adapter("controlnet", UNetBackbone(small_stable_diffusion()), tmp_path / "lines")
    with open_desk({"model": model[1], "device": "cpu", "controlnet": str(lines), "controlnet_end": 0.5}) as desk:
        assert desk.predictor is None
        assert desk.settings == {"controlnet": str(lines), "controlnet_end": 0.5}
    T2IAdapter(channels=[8, 8], num_res_blocks=1, downscale_factor=8).save_pretrained(tmp_path / "other")
    code, err = _fails("--port", "0", *model[:2], "--t2i-adapter", str(tmp_path / "other"))
    assert code == 2
    assert "does not fit" in err


def test_how_much_acts_of_what_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch):
    opened: list[object] = []
    monkeypatch.setattr(serve, "open_desk", lambda given: opened.append(given) or open_desk(given))
    _, err = _fails("--port", "0", "--model", "nowhere", "--t2i-adapter-scale", "0.5", "--lora-scale", "0.5")
    assert "--t2i-adapter-scale changes nothing without --t2i-adapter." in err
    assert "--lora-scale changes nothing without --lora." in err
    assert opened == [{"model": "nowhere"}]  # or every picture would be warned of them


def test_a_model_that_is_not_there():
    code, err = _fails("--port", "0", "--model", str(Path("nowhere")))
    assert code == 2
    assert "nowhere" in err


@pytest.mark.parametrize(
    ("host", "token", "expected"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:7860/"),
        ("0.0.0.0", "abc", "http://127.0.0.1:7860/?token=abc"),
        ("::1", None, "http://[::1]:7860/"),
    ],
)
def test_what_to_open(host: str, token: str | None, expected: str):
    assert address(host, 7860, token) == expected
