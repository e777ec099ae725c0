"""The routes of the drawing page."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Response
from fastapi import Request as Asked
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

import sketchguide
from sketchguide.adapters import ADAPTERS
from sketchguide.arguments import named
from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import classes_in
from sketchguide.defaults import PULLING, RECOGNISED, SEED, Polarity
from sketchguide.errors import (
    ClosingError,
    QueueFullError,
    SketchError,
    SketchguideError,
    UnknownJobError,
    UsageError,
    described,
)
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.pictures import recall
from sketchguide.recognition import find_recognised, find_recogniser, words_of
from sketchguide.request import Request
from sketchguide.schedule import levels_of
from sketchguide.seeds import random_seed
from sketchguide.sizes import check_size
from sketchguide.sketch import Sketch
from sketchguide.tracing import trace as traced
from sketchguide.usual import usual_settings
from sketchguide.web.guards import DEADLINE, MOST_BYTES, Guards, error_answer
from sketchguide.web.jobs import Desk

# What whoever draws may set, beside how much adapters act. All else names files, models and devices of whoever serves.
FIELDS = (
    "prompt",
    "negative",
    "sketch",
    "strength",
    "stop",
    "every",
    "even",
    "blank",
    "widen",
    "handover",
    "tries",
    "sure",
    "steps",
    "scale",
    "negative_time",
    "seed",
    "count",
    "size",
    "solver",
)
KINDS: Mapping[str, str] = MappingProxyType(  # of the page's files; what the system says of them may be wrong
    {"html": "text/html", "css": "text/css", "js": "text/javascript"}
)
ACTING: Mapping[str, str] = MappingProxyType(  # on every picture, as people call them
    {"controlnet": "ControlNet", "t2i_adapter": "T2I-Adapter", "lora": "LoRA"}
)
STARTED_WITH = (  # what `sketchguide serve` takes
    *("model", "predictor", "device", "dtype"),
    *(name for name in Request.model_fields if name.startswith(tuple(ACTING))),
)
MOST: Mapping[str, int] = MappingProxyType({"count": 8, "steps": 200, "tries": 5})
MOST_PIXELS = 4  # times as many as the model's own size has
MOST_SKETCH = 4 * 2**20  # bytes of JSON

STATUS: Mapping[type[SketchguideError], int] = MappingProxyType(
    {UnknownJobError: 404, QueueFullError: 429, ClosingError: 503, UsageError: 422}
)
Answer = TypeVar("Answer")

HEARTBEAT = 15.0  # seconds after which a silent stream says that it is alive


def create_app(
    desk: Desk, *, hosts: Collection[str] = (), token: str | None = None, deadline: float = DEADLINE
) -> Guards:
    """The page and its API as an ASGI application; the rest as `Guards` takes it."""
    app = FastAPI(
        title="sketchguide",
        version=sketchguide.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.add_exception_handler(SketchguideError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _failed)
    _add_page(app)
    _add_api(app, desk)
    return Guards(app, hosts=hosts, token=token, deadline=deadline)


def offered(desk: Desk) -> tuple[str, ...]:
    """The settings that whoever draws here may choose: none of a pull where there is no predictor."""
    general = (name for name in FIELDS if desk.predictor is not None or name not in PULLING)
    return (*general, *(f"{one}_{how}" for one in ADAPTERS if one in desk.settings for how in ("scale", "end")))


def _add_page(app: FastAPI) -> None:
    content = {
        file.name: (file.read_bytes(), KINDS[kind])
        for file in files("sketchguide.web").joinpath("page").iterdir()
        if (kind := file.name.partition(".")[2]) in KINDS  # and no file of an editor
    }

    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str = "index.html") -> Response:
        if name not in content:
            raise HTTPException(404)
        body, kind = content[name]
        return Response(body, media_type=kind)


def _add_api(app: FastAPI, desk: Desk) -> None:
    one_at_a_time = CapacityLimiter(1)  # a large photograph takes a gigabyte to read

    async def read(what: Callable[[bytes], Answer], asked: Asked) -> Answer:
        body = await asked.body()
        async with one_at_a_time:
            if not desk.ready:
                raise ClosingError("The server is closing.", hint="Open the file again when it is back.")
            return await run_sync(what, body, abandon_on_cancel=True)

    @app.get("/health")
    async def health() -> dict[str, bool]:
        """The server answers."""
        return {"alive": True}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, bool]:
        """The model is loaded and takes drawings; 503 where not."""
        response.status_code = 200 if desk.ready else 503
        return {"ready": desk.ready}

    @app.get("/api/about")
    async def about() -> dict[str, Any]:
        """The model, the sizes that it draws, and every setting with its default and range; `digest` changes with
        any of them."""
        return describe_service(desk)

    @app.post("/api/jobs", status_code=202, openapi_extra=_body(_request_schema(desk)))
    async def submit(asked: Asked, response: Response) -> dict[str, Any]:
        """Ask for pictures. 422: what was asked for cannot be done; 429: too many wait.

        The answer has the `digest` of `/api/about` as `service`: another one than before says that the server was
        started anew and draws with something else.
        """
        job = desk.submit(await read(lambda body: requested(_json(body), desk), asked))
        response.headers["location"] = f"jobs/{job.id}"  # beside this address, whatever a proxy puts before it
        return {**desk.describe(job), "service": describe_service(desk)["digest"]}

    @app.get("/api/jobs/{name}")
    async def state(name: str) -> dict[str, Any]:
        """How far a job is."""
        return desk.describe(desk.job(name))

    @app.delete("/api/jobs/{name}")
    async def cancel(name: str) -> dict[str, Any]:
        """Stop a job, once or more often; what has ended stays as it is."""
        job = desk.job(name)
        desk.cancel(job)
        return desk.describe(job)

    @app.get("/api/jobs/{name}/events", response_class=StreamingResponse)
    async def events(name: str) -> StreamingResponse:
        """How far a job is, whenever that changes: server-sent events, each the JSON of `/api/jobs/{name}`.

        A job is cancelled some seconds after the last one who listened has left.
        """
        job = desk.job(name)

        async def stream() -> AsyncIterator[bytes]:
            async for now in desk.watch(job, heartbeat=HEARTBEAT):
                yield b"event: alive\ndata: .\n\n" if now is None else f"data: {json.dumps(now)}\n\n".encode()

        # nginx would keep events back until it has some kilobytes of them
        return StreamingResponse(stream(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    @app.get("/api/jobs/{name}/pictures/{index}.png", response_class=Response)
    async def picture(name: str, index: int) -> Response:
        """A finished picture: a PNG that carries its recipe."""
        png = desk.picture(desk.job(name), index)
        if png is None:
            raise HTTPException(404)
        return Response(png, media_type="image/png")

    @app.post("/api/sketches", openapi_extra=_body({"type": "string", "format": "binary"}, "application/octet-stream"))
    async def read_sketch(
        asked: Asked, trace: bool = False, polarity: Polarity = "auto", trim: bool = False
    ) -> dict[str, Any]:
        """Read a drawing: SVG, a picture of lines, Quick, Draw! ndjson or a saved sketch; or `trace` the outlines in a
        photograph. `polarity` is of a picture of lines: which is ink; `trim` cuts off the blank paper around the
        drawing. 422: nothing in it can be drawn."""
        return await read(lambda body: _sketch_in(body, desk, trace=trace, polarity=polarity, trim=trim), asked)

    @app.post("/api/recipes", openapi_extra=_body({"type": "string", "format": "binary"}, "image/png"))
    async def read_recipe(asked: Asked) -> dict[str, Any]:
        """The settings in a PNG that sketchguide wrote, as `/api/jobs` takes them; and what it cannot repeat."""
        return await read(lambda body: _recipe_in(body, desk), asked)


def describe_service(desk: Desk) -> dict[str, Any]:
    backbone = desk.backbone
    schema = _properties(desk)
    settings = {
        name: {
            "default": schema[name].get("default"),
            "about": schema[name].get("description", ""),
            **_kind(schema[name]),
            **({"maximum": MOST[name]} if name in MOST else {}),
        }
        for name in offered(desk)
    }
    settings["solver"]["choices"] = list(backbone.solvers)
    if words_of(fingerprint_of_model(backbone)):
        for name in RECOGNISED:  # depends on what is drawn
            settings[name]["default"] = None
    width, height = backbone.default_size
    step = backbone.multiple
    longer = [round(side * 1.5 / step) * step for side in (width, height)]
    service = {
        "version": sketchguide.__version__,
        "model": backbone.name,
        "sizes": [[width, height], [longer[0], height], [width, longer[1]]],
        "largest": MOST_BYTES,
        "settings": settings,
    }
    return {**service, "digest": sha256(json.dumps(service).encode()).hexdigest()[:12]}


def _kind(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Type and range of a setting that may be none."""
    kind = next((kind for kind in schema.get("anyOf", ()) if kind["type"] != "null"), schema)
    return {name: kind[name] for name in ("type", "minimum", "maximum") if name in kind}


def requested(values: Mapping[str, Any], desk: Desk) -> Request:
    """The request that `values` describe; UsageError where whoever draws may not ask for that."""
    chosen = offered(desk)
    known = [name for name in values if name in Request.model_fields and name not in chosen]
    if known:
        name, command = known[0], {"layout": "translate", "edit": "edit"}.get(known[0], "generate")
        elsewhere = f"The drawing page does not offer it; use `sketchguide {command}`."
        hint = "Start the server with it." if name in STARTED_WITH else elsewhere
        raise UsageError(f"{name} is not for whoever draws to set.", hint=hint, field=name)
    drawn = values.get("sketch") is not None
    asked = {"seed": random_seed(), **desk.settings, **values}
    request = Request.checked(**named(asked, desk.backbone, desk.predictor if drawn else None))
    if not drawn:
        defaults = {name: field.default for name, field in Request.model_fields.items() if name.startswith(ADAPTERS)}
        request = request.model_copy(update=defaults)
    for name, most in MOST.items():
        if getattr(request, name) > most:
            raise UsageError(f"{name} is {getattr(request, name)}; this server allows {most}.", field=name)
    if request.size is not None:
        _check_size(request.size, desk.backbone)
    if request.sketch is not None:
        request = request.model_copy(update={"sketch": _plain(request.sketch)})
    levels_of(request, desk.backbone)  # of a solver that there is
    if request.tries > 1:
        with desk.warned.told():  # the job tells of that
            file = find_recogniser(request.recogniser, desk.backbone)
        find_recognised(request.prompt, classes_in(file))
    return request


def _check_size(size: tuple[int, int], backbone: Backbone) -> None:
    """UsageError where `backbone` makes no pictures of `size` (width, height), or where it has more pixels than this
    server allows; that names the largest square."""
    own = backbone.default_size
    most = MOST_PIXELS * math.prod(own)
    if math.prod(size) > most:
        side = min(math.isqrt(most), backbone.largest or most) // backbone.multiple * backbone.multiple
        raise UsageError(
            f"size is {size[0]}x{size[1]}; this server allows {MOST_PIXELS} times the pixels of {own[0]}x{own[1]}.",
            hint=f"The largest square is {side}x{side}.",
            field="size",
        )
    check_size(size, backbone)


def _plain(sketch: Mapping[str, Any]) -> dict[str, Any]:
    """The drawing, and nothing that came with it: every picture carries it. UsageError where it is too large."""
    plain = Sketch.from_json(sketch).to_json()
    size = len(json.dumps(plain))
    if size > MOST_SKETCH:
        message = f"The drawing takes {size / 2**20:.1f} MB; this server allows {MOST_SKETCH / 2**20:.0f}."
        raise UsageError(message, hint="Make it smaller, or simplify it.", field="sketch")
    return plain


def _sketch_in(data: bytes, desk: Desk, *, trace: bool, polarity: Polarity, trim: bool) -> dict[str, Any]:
    with desk.warned.told() as told:
        try:
            sketch = traced(data) if trace else Sketch.open(data, polarity=polarity)
        except SketchError as error:
            error.field = "sketch"
            raise
    if sketch.rasterize(size=desk.backbone.default_size).blank:
        raise SketchError("Nothing in the file can be drawn.", hint=" ".join(told), field="sketch")
    return {"sketch": _plain((sketch.trimmed() if trim else sketch).to_json()), "warnings": told}


def _called(one: str, request: Request) -> str:
    """What acts on the pictures of `request`, of ACTING, in words."""
    if one == "lora" and request.lora:
        return "the LoRA " + " and ".join(f"{name} at {scale:g}" for name, scale in request.loras.items())
    if not (name := getattr(request, one)):
        return f"no {ACTING[one]}"
    more = f" in mode {mode}" if one == "controlnet" and (mode := request.controlnet_mode) is not None else ""
    return f"the {ACTING[one]} {name}{more}"


def _is_usual(request: Request, backbone: Backbone) -> bool:
    """Whether the settings of RECOGNISED are those that `backbone` would take by itself; not by a recogniser that the
    request names, since a visitor names no files."""
    if request.recogniser is not None:
        return False
    values, usual = request.model_dump(), {name: Request.model_fields[name].default for name in RECOGNISED}
    rest = Request.checked(**{name: value for name, value in values.items() if name not in RECOGNISED})
    sketch = None if request.sketch is None else Sketch.from_json(request.sketch)
    usual |= usual_settings(rest, [request.prompt], sketch, backbone, fingerprint_of_model(backbone))
    return all(values[name] == value for name, value in usual.items())


def _recipe_in(data: bytes, desk: Desk) -> dict[str, Any]:
    recipe = recall(data)
    request = recipe.request
    fields = Request.model_fields
    other = [name for name in request.changed(*fields) if name not in (*FIELDS, *STARTED_WITH)]
    left = [f"It was made with {name}, which this page does not set." for name in other]
    if request.model != desk.backbone.name:
        left.append(f"It was made with the model {request.model}; this page draws with {desk.backbone.name}.")
    here = Request.checked(prompt="", seed=SEED.default, **desk.settings)
    for one in ACTING if request.sketch is not None else ("lora",):
        if (theirs := _called(one, request)) != (ours := _called(one, here)):
            left.append(f"It was made with {theirs}; this page draws with {ours}.")
    own = "none" if desk.predictor is None else desk.predictor.source
    if request.sketch is not None and request.predictor not in (None, own):
        left.append(f"It was made with the predictor {request.predictor}; this page draws with {own}.")
    without = tuple(one for one in ADAPTERS if getattr(request, one) is None)
    told = {name for name in offered(desk) if not name.startswith(without)}
    settings = request.model_dump(mode="json", include=told)
    if _is_usual(request, desk.backbone):
        settings = {name: value for name, value in settings.items() if name not in RECOGNISED}
    if request.sketch is not None:
        settings["sketch"] = _plain(request.sketch)
    settings |= {"seed": request.seed + (0 if recipe.sheet else recipe.index)}
    settings |= {"count": request.count if recipe.sheet else 1}
    for name, most in MOST.items():
        if settings.get(name, 0) > most:
            left.append(f"It was made with {name} {settings[name]}; this server allows {most}.")
            settings[name] = most
    if request.size is not None:
        try:
            _check_size(request.size, desk.backbone)
        except UsageError as error:
            left.append(f"It is drawn at another size: {error.message}")
            settings["size"] = None
    return {"request": settings, "warnings": left}


def _json(body: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    if len(body) > 2 * MOST_SKETCH:
        raise UsageError(f"The request is larger than {2 * MOST_SKETCH / 2**20:.0f} MB.", hint="Simplify the drawing.")
    try:
        values = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError("The body is not valid JSON.", hint="Send one JSON object.") from error
    if not isinstance(values, dict):
        raise UsageError("The body is not a JSON object.", hint='For example {"prompt": "a red apple"}.')
    return values


def _request_schema(desk: Desk) -> dict[str, Any]:
    return {"type": "object", "title": "Request", "properties": _properties(desk), "required": ["prompt"]}


def _properties(desk: Desk) -> dict[str, Any]:
    schema = Request.model_json_schema()["$defs"]["Request"]["properties"]
    return {name: {**schema[name], **_default(name, desk)} for name in offered(desk)}


def _default(name: str, desk: Desk) -> dict[str, Any]:
    return {"default": desk.settings[name]} if name in desk.settings else {}


def _body(schema: Mapping[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


async def _refused(_: Asked, error: Exception) -> Response:
    assert isinstance(error, SketchguideError)
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    if status in (429, 503):
        return error_answer(status, error.as_dict(), **{"retry-after": "2"})
    return error_answer(status, error.as_dict())


async def _not_found(_: Asked, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "There is nothing at this address.", 405: "This address takes no such request."}
    message = words.get(error.status_code, str(error.detail))
    return error_answer(error.status_code, {"code": "http", "message": message, "hint": "", "field": ""})


async def _malformed(_: Asked, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    message = f"{name} cannot be read: {first['msg']}."
    return error_answer(422, {"code": "usage", "message": message, "hint": "", "field": name})


async def _failed(_: Asked, error: Exception) -> Response:
    return error_answer(500, described(error))
