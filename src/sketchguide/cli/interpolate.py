"""`sketchguide interpolate`."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.generate import check_writable, parse_size
from sketchguide.cli.options import KindOption, PolarityOption, PredictorOption
from sketchguide.cli.report import JsonFlag, Report, hush_libraries, was_given
from sketchguide.cli.signals import Stopped
from sketchguide.defaults import LORA_SCALE, MODEL, SCALE, SEED, STEPS
from sketchguide.errors import OutputError, UsageError
from sketchguide.files import replacing

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sketchguide.backbones.base import Backbone
    from sketchguide.request import Request

RATE = 10  # frames per second
CODEC = "libx264"
REFINE = 4  # network passes per step of the inversion


def command(
    context: typer.Context,
    first: Annotated[str, typer.Argument(help="Where it begins: a seed, a picture or a drawing.", metavar="A")],
    second: Annotated[str, typer.Argument(help="Where it ends, likewise.", metavar="B")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A PNG strip, or a moving GIF or MP4.", metavar="OUT.png|.gif|.mp4"),
    ],
    prompt: Annotated[
        str | None,
        typer.Option(help="What the pictures show. Between pictures it may be left out.", metavar="TEXT"),
    ] = None,
    sketch: Annotated[
        list[Path] | None,
        typer.Option(
            help="A drawing that every frame follows; given twice, the frames go from one drawing to the other.",
            metavar="FILE",
        ),
    ] = None,
    kind: KindOption = None,
    polarity: PolarityOption = None,
    frames: Annotated[int, typer.Option(help="How many, both ends included: 2 to 100.", metavar="N")] = 9,
    way: Annotated[
        str, typer.Option(help="spherical, linear (pales in the middle) or trigonometric.", metavar="NAME")
    ] = "spherical",
    as_json: JsonFlag = False,
    seed: Annotated[
        int,
        typer.Option(help=f"Of every frame, where A and B are drawings: {SEED}.", metavar="N", show_default=False),
    ] = SEED.default,
    steps: Annotated[
        int, typer.Option(help=f"Steps of the solver: {STEPS}.", metavar="N", show_default=False)
    ] = STEPS.default,
    scale: Annotated[
        float | None,
        typer.Option(
            help=f"Classifier-free guidance: {SCALE.low} to {SCALE.high}. Default {SCALE.default} between seeds or "
            "drawings; 1 between pictures: with any other value the two ends change.",
            metavar="CFG",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Width and height in pixels, each 16 to 4096, in steps that depend on the model. "
            "Default: the model's own.",
            metavar="WxH",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Shipped, a diffusers folder or a hub id.", metavar="NAME|PATH|HUB_ID")
    ] = MODEL,
    predictor: PredictorOption = None,
    lora: Annotated[str | None, typer.Option(help="A LoRA, as `finetune` writes it.", metavar="PATH|HUB_ID")] = None,
    lora_scale: Annotated[
        float, typer.Option(help=f"How much of it: {LORA_SCALE}.", metavar="R", show_default=False)
    ] = LORA_SCALE.default,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, …", metavar="NAME")] = "auto",
) -> None:
    """Make the pictures between two: of seeds, of drawings, or of pictures.

    sketchguide interpolate 3 8 --prompt "a duck" -o ducks.png
    sketchguide interpolate duck.png swan.png --prompt "a bird" -o birds.gif
    sketchguide interpolate a.svg b.svg --prompt "a fish" -o fish.png
    sketchguide interpolate 3 8 --prompt "a fish" --sketch a.svg --sketch b.svg -o fish.png

    Pictures are inverted first: the noise is found that the model turns into them.
    """
    report = Report.of(context, as_json=as_json)
    if output.suffix.lower() not in (".png", ".gif", ".mp4"):
        raise UsageError(
            f"The output {str(output)!r} does not end in .png, .gif or .mp4.",
            hint="A PNG is a strip, the others move.",
            field="output",
        )
    _check_video(output)
    check_writable(output, inputs=[*(sketch or []), *(Path(end) for end in (first, second) if not end.isdecimal())])
    if not 2 <= frames <= 100:
        raise UsageError(f"frames is {frames}; it must be 2 to 100.", field="frames")
    if sketch and len(sketch) > 2:
        raise UsageError(f"{len(sketch)} drawings were given; two are the most.", field="sketch")
    with report.progress() as bar:
        task = bar.add_task("Loading", total=None)
        hush_libraries()
        from sketchguide.guidance import latent_guide
        from sketchguide.images import to_images
        from sketchguide.interpolation import INTERPOLATIONS, between
        from sketchguide.loading import load_backbone, load_predictor
        from sketchguide.lora import load_lora
        from sketchguide.request import Request
        from sketchguide.sizes import batch_size, check_size
        from sketchguide.sketch import Sketch
        from sketchguide.translation import open_source
        from sketchguide.walking import walk_from

        if way not in INTERPOLATIONS:
            raise UsageError(f"There is no way {way!r}.", hint=f"Choose: {', '.join(INTERPOLATIONS)}.", field="way")
        wanted = None if size is None else parse_size(size)
        ink = polarity or "auto"
        drawings = [Sketch.open(path, polarity=ink) for path in sketch or []]
        as_drawing = None if kind is None else kind == "sketch"
        named = [
            int(text) if text.isdecimal() else open_source(Path(text), drawn=as_drawing, polarity=ink)
            for text in (first, second)
        ]
        for end in named:
            if isinstance(end, int) and end > SEED.high:
                raise UsageError(f"The seed {end} is too large; {SEED.high} is the largest.", field="first")
        ends = [end for end in named if not isinstance(end, Sketch)]
        if drawn := [end for end in named if isinstance(end, Sketch)]:
            if len(drawn) < 2 or drawings:
                name = first if isinstance(named[0], Sketch) else second
                raise UsageError(
                    f"A and B must both be drawings, with none beside them, or neither; {name} is taken for one.",
                    hint="Give drawings for seeds or pictures as --sketch, and --as picture for a picture that looks "
                    "drawn.",
                    field="sketch",
                )
            drawings, ends = drawn, [seed, seed]
        inverted = not all(isinstance(end, int) for end in ends)
        if prompt is None and not inverted:
            raise UsageError(
                "There is no prompt.",
                hint='Say what the pictures show: --prompt "a duck"; --prompt "" has them show anything.',
                field="prompt",
            )
        prompt = prompt or ""
        strength = 1.0 if inverted else SCALE.default
        request = Request.checked(
            prompt=prompt,
            seed=seed,
            steps=steps,
            scale=strength if scale is None else scale,
            model=model,
            size=wanted,
            device=device,
            lora=lora,
            lora_scale=lora_scale,
            solver="ddim",
        )
        backbone = load_backbone(model, device=device)
        if lora is not None:
            load_lora(lora, backbone, scale=lora_scale)
        if not prompt.strip():
            report.warn("The prompt is empty: the pictures show anything.")
        idle = {
            "--predictor": predictor is not None and not drawings,
            "--polarity": polarity is not None and not drawings,
        }
        for name in (name for name, nothing in idle.items() if nothing):
            report.warn(f"{name} changes nothing without a drawing.")
        if not drawn and was_given(context, "seed"):
            report.warn("--seed changes nothing: A and B say where the noise comes from.")
        if lora is None and lora_scale != LORA_SCALE.default:
            report.warn("--lora-scale changes nothing without --lora.")
        report.warn_of_cut(backbone.describe([prompt]).dropped)
        sides = check_size(wanted or backbone.default_size, backbone)
        maps = [drawing.rasterize(size=sides) for drawing in drawings]
        guides: list[Any] = []
        if any(one.blank for one in maps):
            report.warn("A sketch is blank: the pictures follow none.")
        elif maps:
            guide = latent_guide(request, [maps[0], maps[-1]], backbone, load_predictor(predictor, backbone))
            guides.append(guide.interpolated(frames))
        noises = [_noise(end, request, backbone, sides, report) for end in ends]
        latent = between(noises[0], noises[1], frames=frames, way=way)
        pictures: list[Image.Image] = []
        done = 0
        batch = batch_size(sides, backbone, guided=bool(guides))
        try:
            for first_frame in range(0, frames, batch):
                rows = slice(first_frame, first_frame + batch)
                last = latent[rows]
                for moment in walk_from(request, backbone, last, guides=[guide.of(rows) for guide in guides]):
                    last = moment.latent
                    done += 1
                    bar.update(task, description="Drawing", completed=done, total=steps * math.ceil(frames / batch))
                pictures += to_images(backbone.decode(last))
        except Stopped as stopped:
            if pictures:
                stopped.hint = f"The first {len(pictures)} of {frames} frames were finished and are kept."
            raise
        finally:
            if pictures:
                _save(pictures, output)
                report.facts = {"path": str(output), "frames": len(pictures), "way": way}
                report.say(f"{output}: {len(pictures)} frames, {way}")


def _noise(
    end: int | Image.Image, request: Request, backbone: Backbone, size: tuple[int, int], report: Report
) -> Tensor:
    """The noise (1, C, h, w) of a seed, or that from which a picture comes back."""
    from sketchguide.images import to_tensor
    from sketchguide.inversion import invert
    from sketchguide.seeds import generators
    from sketchguide.walking import first_latent

    if isinstance(end, int):
        return first_latent(request, backbone, generators([end]))
    if abs(end.width / end.height - size[0] / size[1]) > 0.01:
        report.warn(f"A picture of {end.width} × {end.height} is cut at the middle to fit {size[0]} × {size[1]}.")
    levels = backbone.levels(request.steps, "ddim", request.size)
    told = backbone.describe([request.prompt])
    clean = backbone.encode(to_tensor([end], size=size))
    return invert(backbone, clean, levels, told, iterations=REFINE).at(levels[0])


def _save(pictures: list[Image.Image], path: Path) -> None:
    """A strip as PNG; as GIF or MP4 there and back again, a tenth of a second each."""
    from sketchguide.images import save_png, sheet

    if path.suffix.lower() == ".png":
        save_png(sheet(pictures, columns=len(pictures)), path)
        return
    there_and_back = [*pictures, *pictures[-2:0:-1]]
    with replacing(path) as part:
        if path.suffix.lower() == ".mp4":
            _write_mp4(there_and_back, part)
        else:
            there_and_back[0].save(
                part, format="GIF", save_all=True, append_images=there_and_back[1:], duration=100, loop=0
            )


def _write_mp4(pictures: list[Image.Image], path: Path) -> None:
    import av

    try:
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream(CODEC, rate=RATE, options={"crf": "16"})
            stream.width, stream.height = (side + side % 2 for side in pictures[0].size)  # its chroma wants even sides
            stream.pix_fmt = "yuv420p"
            for picture in pictures:
                odd = picture.width % 2 or picture.height % 2
                page = picture.resize((stream.width, stream.height)) if odd else picture
                file.mux(stream.encode(av.VideoFrame.from_image(page)))
            file.mux(stream.encode())
    except OSError:
        raise
    except (av.FFmpegError, ValueError) as error:  # a build of FFmpeg without this codec, for one
        raise OutputError(
            f"PyAV cannot write the MP4: {error}.", hint="Install it anew, or write a .gif.", field="output"
        ) from error


def _check_video(path: Path) -> None:
    if path.suffix.lower() != ".mp4":
        return
    if find_spec("av") is None:
        raise UsageError(
            "MP4 needs PyAV, which is not installed.",
            hint="pip install 'sketchguide[video]', or write a .gif.",
            field="output",
        )
    import av

    try:
        av.Codec(CODEC, "w")
    except (av.FFmpegError, ValueError) as error:  # a build of FFmpeg without it
        raise UsageError(
            f"PyAV has no encoder {CODEC} here, which MP4 needs.",
            hint="Install it anew, or write a .gif.",
            field="output",
        ) from error
