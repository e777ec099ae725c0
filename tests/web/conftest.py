"""The drawing page with a small random model, in this process."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from served import ASKED, when_ended
from sketchguide.predictors import LatentPredictor
from sketchguide.web.app import create_app
from sketchguide.web.jobs import Desk
from support import Tiny


@pytest.fixture
def desk(tiny: Tiny, predictor: LatentPredictor) -> Iterator[Desk]:
    with Desk(lambda: (tiny(), predictor)) as desk:
        yield desk


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    with TestClient(create_app(desk), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def ended(client: TestClient) -> Callable[..., dict[str, Any]]:
    """`ended(prompt="…")`: what the server says of that job when it has ended."""

    def wait(**asked: Any) -> dict[str, Any]:
        answer = client.post("/api/jobs", json=ASKED | asked)
        assert answer.status_code == 202, answer.text
        return when_ended(client, answer.json()["id"])

    return wait
