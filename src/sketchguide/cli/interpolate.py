"""`sketchguide interpolate`."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sketchguide.cli.options import KindOption, PolarityOption, given, with_options
from sketchguide.cli.outputs import check_writable
from sketchguide.cli.report import JsonFlag, Report, hush_libraries
from sketchguide.cli.signals import Stopped
from sketchguide.defaults import INTERPOLATING, SCALE, SEED
from sketchguide.errors import OutputError, UsageError
from sketchguide.files import replacing

if TYPE_CHECKING:
    from PIL import Image

RATE = 10  # frames per second
CODEC = "libx264"
_BT709, _LIMITED = 1, 1  # as FFmpeg numbers colour spaces and ranges


@with_options("predictor", *(name for name in INTERPOLATING if name not in ("seed", "scale")))  # which differ here
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
    once: Annotated[
        bool, typer.Option("--once", help="A GIF or MP4 goes from A to B; without it, there and back again.")
    ] = False,
    rate: Annotated[
        int,
        typer.Option(
            help="Frames per second of an MP4, or a GIF, which counts in hundredths of a second.",
            min=1,
            max=50,
            metavar="N",
        ),
    ] = RATE,
    as_json: JsonFlag = False,
    seed: Annotated[
        int | None, typer.Option(help=f"Of every frame, where A and B are drawings: {SEED}.", metavar="N")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            help=f"Classifier-free guidance: {SCALE.low} to {SCALE.high}. Default {SCALE.default} between seeds or "
            "drawings; 1 between pictures: with any other value the two ends change.",
            metavar="CFG",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Make the pictures between two: of seeds, of drawings, or of pictures.

    sketchguide interpolate 3 8 --prompt "a duck" -o ducks.png
    sketchguide interpolate duck.png swan.png --prompt "a bird" -o birds.gif
    sketchguide interpolate a.svg b.svg --prompt "a fish" -o fish.png
    sketchguide interpolate 3 8 --prompt "a fish" --sketch a.svg --sketch b.svg -o fish.png

    Pictures are inverted first: the noise is found that the model turns into them.
    Between drawings the lines of one fade into those of the other.
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
    settings = given(seed=seed, scale=scale, **options)
    pictures: list[Image.Image] = []
    with report.progress() as bar:
        task = bar.add_task("Loading", total=None)
        hush_libraries()
        from sketchguide.frames import frames_between
        from sketchguide.generation import Progress

        begin, end = (int(text) if text.isdecimal() else Path(text) for text in (first, second))
        events = frames_between(
            begin,
            end,
            prompt,
            sketch=sketch,
            frames=frames,
            way=way,
            drawn=None if kind is None else kind == "sketch",
            polarity=polarity or "auto",
            **settings,
        )
        try:
            with closing(events):
                for event in events:
                    if isinstance(event, Progress):
                        bar.update(task, description="Drawing", completed=event.done, total=event.total)
                    else:
                        pictures.append(event)
        except Stopped as stopped:
            if pictures:
                stopped.hint = f"The first {len(pictures)} of {frames} frames were finished and are kept."
            raise
        finally:
            if pictures:
                shown = _save(pictures, output, rate=rate, once=once)
                report.facts = {"path": str(output), "frames": len(pictures), "way": way}
                moving = f", {shown} with the way back" if shown > len(pictures) else ""
                report.say(f"{output}: {len(pictures)} frames{moving}, {way}")


def _save(pictures: list[Image.Image], path: Path, *, rate: int, once: bool) -> int:
    """A strip as PNG; a GIF or MP4 that goes there and, unless `once`, back again. Returns how many frames it has."""
    from sketchguide.images import save_png, sheet

    if path.suffix.lower() == ".png":
        save_png(sheet(pictures, columns=len(pictures)), path)
        return len(pictures)
    shown = pictures if once else [*pictures, *pictures[-2:0:-1]]
    with replacing(path) as part:
        if path.suffix.lower() == ".mp4":
            _write_mp4(shown, part, rate=rate)
        else:
            duration = 10 * round(100 / rate)  # in hundredths of a second, which Pillow would cut off
            shown[0].save(part, format="GIF", save_all=True, append_images=shown[1:], duration=duration, loop=0)
    return len(shown)


def _write_mp4(pictures: list[Image.Image], path: Path, *, rate: int) -> None:
    import av

    try:
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream(CODEC, rate=rate, options={"crf": "16"})
            stream.width, stream.height = (side + side % 2 for side in pictures[0].size)  # its chroma wants even sides
            stream.pix_fmt = "yuv420p"
            # Players take what says nothing for BT.709 or BT.601 by its height, and would shift the colours.
            told = stream.codec_context
            told.colorspace, told.color_primaries, told.color_trc, told.color_range = _BT709, _BT709, _BT709, _LIMITED
            for picture in pictures:
                odd = picture.width % 2 or picture.height % 2
                page = picture.resize((stream.width, stream.height)) if odd else picture
                frame = av.VideoFrame.from_image(page)
                frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)
                file.mux(stream.encode(frame))
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
