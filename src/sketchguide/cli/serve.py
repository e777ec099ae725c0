"""`sketchguide serve`."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.options import REQUEST, with_options
from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.signals import handling
from sketchguide.defaults import SEED
from sketchguide.errors import FailureError, UsageError

if TYPE_CHECKING:
    from sketchguide.backbones.base import Backbone
    from sketchguide.predictors import LatentPredictor
    from sketchguide.web.jobs import Desk

HOST, PORT = "127.0.0.1", 7860
NETWORK = "Network"
TOKEN = "SKETCHGUIDE_TOKEN"
ACTING = ("lora", "controlnet", "t2i_adapter")  # on every picture; other options begin with the name of each
LOADED = ("model", "predictor", "device", "dtype")  # the networks themselves


@with_options(*LOADED, *(name for name in REQUEST if name.startswith(ACTING)))
def command(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="The address to listen at.", metavar="ADDRESS", rich_help_panel=NETWORK)
    ] = HOST,
    port: Annotated[
        int, typer.Option(help="0 takes a free one.", min=0, max=65535, metavar="N", rich_help_panel=NETWORK)
    ] = PORT,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN,
            help="What visitors have to know: 16 letters, digits, - or _ at least. Needed where others can reach the "
            "address.",
            metavar="TEXT",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that the server is reached by, beside localhost and plain addresses; may be given again.",
            metavar="HOST",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    browse: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.", rich_help_panel=NETWORK)
    ] = False,
    as_json: JsonFlag = False,
    **options: Any,
) -> None:
    """Open the drawing page: draw, and see the picture follow.

    sketchguide serve --open
    sketchguide serve --model MODEL --predictor my-edges
    sketchguide serve --model MODEL --controlnet SCRIBBLE
    sketchguide serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"

    Ctrl-C ends it: what is being drawn is finished, a second one stops that too.

    The browser keeps the last 60 pictures, the server those of its last 64
    requests, up to 256 MB in memory. Save from the page what you want to keep.
    """
    report = Report.of(context, as_json=as_json)
    given = {name: value for name, value in options.items() if value is not None}
    for whole in ACTING:
        for setting in [name for name in given if whole not in given and name.startswith(f"{whole}_")]:
            report.warn(f"--{setting} changes nothing without --{whole}.".replace("_", "-"))
            del given[setting]
    check_network(host, token, name or ())
    hush_libraries()
    try:
        from sketchguide.web.app import create_app
        from sketchguide.web.server import DrainingServer, configured
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The drawing page needs the package {error.name}.", hint="Install it: pip install 'sketchguide[web]'."
        ) from error
    listening = listen(host, port)
    with listening:
        where = address(host, listening.getsockname()[1], token)
        desk = open_desk(given)
        with desk:
            app = create_app(desk, hosts=[host, *(name or ())], token=token)
            server = DrainingServer(configured(app), desk)
            report.err.print(f"The drawing page: {where}   (Ctrl-C ends it)", markup=False)
            if browse:  # a browser in this terminal would keep the server from starting
                threading.Thread(target=webbrowser.open, args=(where,), daemon=True).start()
            with handling(server.handle_exit):
                server.run(sockets=[listening])
    report.facts = {"url": where, "drawn": desk.drawn}
    report.say(f"{desk.drawn} pictures were drawn.")


def check_network(host: str, token: str | None, names: Sequence[str] = ()) -> None:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
            message = f"The name {name!r} is no name of a host."
            raise UsageError(message, hint="Without http:// and port: --name draw.example.org.", field="name")
    if token is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,}", token):
        raise UsageError(
            "The token must be 16 letters, digits, - or _ at least.",
            hint='For example --token "$(openssl rand -hex 16)".',
            field="token",
        )
    if token is None and (reached := [one for one in (host, *names) if not _is_loopback(one)]):
        raise UsageError(
            f"Others can reach {reached[0]}, and there is no token.",
            hint='Give --token "$(openssl rand -hex 16)", or listen at 127.0.0.1.',
            field="token",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket bound there, before the model is loaded; FailureError where that does not go."""
    try:
        (family, kind, protocol, _, where), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen()
        except OSError:
            listening.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"The server cannot listen at {host} port {port}: {reason}."
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            hint = "Give --host an address of this machine; 0.0.0.0 is all of them."
            raise FailureError(message, hint=hint, field="host") from error
        raise FailureError(message, hint="Give another --port; 0 takes a free one.", field="port") from error
    return listening


def address(host: str, port: int, token: str | None) -> str:
    """What to open in a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def open_desk(given: Mapping[str, Any]) -> Desk:
    """The model, predictor and the rest that were `given`, fields of a Request."""
    from sketchguide.guidance import check_adapters
    from sketchguide.loading import check_predictor, load_backbone, load_predictor
    from sketchguide.lora import load_lora
    from sketchguide.request import Request
    from sketchguide.shipped import has_predictor
    from sketchguide.web.jobs import Desk

    request = Request.checked(prompt="", seed=SEED.default, **given)

    def load() -> tuple[Backbone, LatentPredictor | None]:
        pulls = request.needs_predictor or has_predictor(request.model)
        if pulls:
            check_predictor(request.predictor, request.model)
        backbone = load_backbone(request.model, device=request.device, dtype=request.dtype)
        if request.lora:  # once, not for every picture
            load_lora(request.lora, backbone, scale=list(request.loras.values()))
        check_adapters(request, backbone)
        return backbone, load_predictor(request.predictor, backbone) if pulls else None

    return Desk(load, settings={name: value for name, value in given.items() if name not in LOADED})
