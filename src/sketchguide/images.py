"""Pictures in and out: files, tensors, contact sheets. No other module knows how pixels are stored.

In memory a picture is a `PIL.Image.Image` in mode RGB or a float32 tensor (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import base64
import io
import stat
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps, PngImagePlugin, UnidentifiedImageError

from sketchguide.errors import GuidanceError, OutputError, SketchError, UsageError, warn
from sketchguide.files import look_at, replacing

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")  # brands
_DOCUMENTS = {  # by how their files begin
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"8BPS": "a Photoshop document",
    b"gimp xcf": "a GIMP document",
    b"PK\x03\x04": "a document or archive (zip)",  # Krita's, OpenRaster, Procreate's
}
MIN_SIDE = 16
MAX_SIDE = 8192
MAX_PIXELS = 36_000_000  # a page of A4 at 600 dpi has 35 million
MAX_BYTES = 256 * 2**20

Paper = Literal["white", "black"]

CARRIED_SIDE = 512  # more would only make every PNG that carries it large
MAX_TEXT = 60_000_000  # characters of a picture in base64: of the text in a PNG Pillow reads 64 MiB

_PNG = b"\x89PNG\r\n\x1a\n"
_LEVELS = 255
_GREY_16 = 65535


def read_file(path: str | Path, *, field: str = "image") -> bytes:
    """The bytes of an ordinary file of at most MAX_BYTES.

    Raises:
        SketchError: no such file, a folder or device, unreadable, empty or too large.
    """
    path = Path(path)
    try:
        there = look_at(path)
        if there is None:
            raise SketchError(f"There is no file {path}.", hint="Check the name and the folder.", field=field)
        if stat.S_ISDIR(there.st_mode):
            raise SketchError(f"{path} is a folder.", hint="Give the file itself.", field=field)
        if not stat.S_ISREG(there.st_mode):
            raise SketchError(f"{path} is not an ordinary file.", field=field)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, SketchError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise SketchError(f"{str(path)!r} cannot be read: {reason}.", field=field) from error
    if not data:
        raise SketchError(f"{path} is empty.", field=field)
    if len(data) > MAX_BYTES:
        raise SketchError(f"{path} is larger than the {MAX_BYTES / 1e6:.0f} MB allowed.", field=field)
    return data


def open_image(source: str | Path | bytes, *, field: str = "image", paper: Paper | None = None) -> Image.Image:
    """A picture file (or its bytes) as RGB, upright, on paper, fully decoded.

    PNG, JPEG, WebP, BMP, GIF and TIFF; each side 16 to 8192 pixels and at most 36 megapixels, read from the header
    before anything is decoded. EXIF rotation and colour profiles are applied, 16-bit grey is rescaled, CMYK becomes
    RGB. Transparent pictures are laid on `paper`; None: on white, or on black when they hold hardly anything that is
    not as light. Of an animated picture the first frame is used, with a warning.

    Raises:
        SketchError: the file is missing, damaged, too small, too large or of another format.
    """
    name = "The picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else read_file(source, field=field)
    if not data:
        raise SketchError(f"{name} is empty.", field=field)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        image, several = _decode(data, name=name, field=field, paper=paper)
    if several:
        warn(f"{name} holds several frames; the first one is used.")
    return image


def _decode(data: bytes, *, name: str, field: str, paper: Paper | None) -> tuple[Image.Image, bool]:
    """The picture as RGB, and whether the file holds further frames."""
    try:
        with _opened(data, name=name, field=field) as image:
            several = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
            return as_rgb(image, name=name, field=field, paper=paper), several
    except SketchError:
        raise
    except Exception as error:  # the decoders raise nearly everything on damaged files
        raise SketchError(
            f"{name} is damaged or cut short: {error}.", hint="Save or download it again.", field=field
        ) from error


def as_rgb(
    image: Image.Image, *, name: str = "The picture", field: str = "image", paper: Paper | None = None
) -> Image.Image:
    """A PIL picture as `open_image` gives it: of the sizes allowed, upright, RGB, on paper."""
    _check_is_image(image, name, field=field)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} × {height}", field=field)
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise SketchError(
            f"{name} is {width} × {height} pixels; each side must be {MIN_SIDE} to {MAX_SIDE} pixels.", field=field
        )
    image.load()
    upright = image
    with suppress(Exception):  # a damaged EXIF block is no reason to refuse the picture
        upright = ImageOps.exif_transpose(image)
    return _rgb(upright, name=name, field=field, paper=paper)


def _check_is_image(given: object, name: str, *, field: str) -> None:
    if not isinstance(given, Image.Image):
        kind = type(given).__name__
        raise SketchError(f"{name} is a {kind}; it must be a PIL image, which Image.open(file) gives.", field=field)


def as_picture(given: object, *, field: str = "image", paper: Paper | None = None) -> Image.Image:
    """A PIL picture, or that in the file that is named, as `open_image` gives it. UsageError for anything else."""
    if isinstance(given, str | Path):
        return open_image(given, field=field, paper=paper)
    if isinstance(given, Image.Image):
        return as_rgb(given, field=field, paper=paper)
    raise UsageError(
        f"A picture is a PIL image or a file, not a {type(given).__name__}.",
        hint="Of an array: PIL.Image.fromarray(array).",
        field=field,
    )


def _opened(data: bytes, *, name: str, field: str) -> Image.Image:
    """The header read, the pixels not yet decoded; for PNG every checksum has been verified."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
            raise SketchError(
                f"{name} is a HEIC or AVIF picture, which is not read.", hint="Export it as JPEG.", field=field
            ) from error
        for start, kind in _DOCUMENTS.items():
            if data.startswith(start):
                raise SketchError(
                    f"{name} is {kind}, which is not read.", hint="Export the page or drawing as PNG.", field=field
                ) from error
        allowed = ", ".join(FORMATS).replace("WEBP", "WebP")
        strokes = " Drawings may be SVG or Quick, Draw! ndjson too." if field == "sketch" else ""
        raise SketchError(f"{name} is not a readable picture; allowed are {allowed}.{strokes}", field=field) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "far too many", field=field) from error
    if image.format == "PNG":
        image.verify()
        image = Image.open(io.BytesIO(data), formats=("PNG",))
    return image


def _too_large(name: str, pixels: str, *, field: str) -> SketchError:
    return SketchError(
        f"{name} has {pixels} pixels; at most {MAX_PIXELS // 1_000_000} million are allowed.",
        hint="Make it smaller first: export it as a JPEG of 4000 pixels a side, say.",
        field=field,
    )


def _rgb(image: Image.Image, *, name: str, field: str, paper: Paper | None) -> Image.Image:
    if image.mode.startswith("I;16"):
        return from_grey(np.asarray(image).astype(np.float32) / np.float32(_GREY_16)).convert("RGB")
    if image.mode in ("I", "F"):  # no agreed range: the darkest value becomes black, the lightest white
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise SketchError(f"{name} has pixels that are not numbers.", field=field)
        low, span = values.min(), np.ptp(values)
        return from_grey(((values - low) / span if span else np.ones_like(values)).astype(np.float32)).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = _laid(image.convert("RGBA"), paper)
    if profile and image.mode in ("RGB", "CMYK"):
        from PIL import ImageCms

        with suppress(ImageCms.PyCMSError, OSError):  # an unusable profile: the plain conversion has to do
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), srgb, outputMode="RGB"
            )
            image = converted or image
    return image.convert("RGB")


def _laid(image: Image.Image, paper: Paper | None = None) -> Image.Image:
    """RGBA laid on `paper`; None: on white, or on black a drawing that white would hide, but for a speck."""

    def laid(paper: Paper) -> Image.Image:
        flat = Image.new("RGBA", image.size, paper)
        flat.alpha_composite(image)
        return flat.convert("RGB")

    if paper is not None:
        return laid(paper)
    on_white, alpha = laid("white"), np.asarray(image.getchannel("A"))
    faintest, strongest = int(alpha.min()), int(alpha.max())
    if faintest == strongest:
        return on_white
    lightness, _ = channel_extremes(on_white)
    contrast = np.quantile(1 - lightness[alpha > strongest / 2], 0.998)
    return on_white if contrast > 0.1 else laid("black")


def to_tensor(images: Sequence[Image.Image], *, size: tuple[int, int] | None = None) -> Tensor:
    """PIL pictures as one float32 tensor (B, 3, H, W) in [-1, 1].

    Args:
        size: (width, height). Pictures of another size are scaled (Lanczos) to cover it and cut at the middle, so that
            nothing is distorted. None: all pictures must already have one size.

    Raises:
        SketchError: no pictures, or different sizes and no `size`.
    """
    import torch

    if not images:
        raise SketchError("No pictures were given; at least one is needed.", field="images")
    if size is not None:
        images = [
            image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS) for image in images
        ]
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise SketchError(
            "The pictures have different sizes: " + ", ".join(f"{width} × {height}" for width, height in sizes) + ".",
            hint="Give the size they should have.",
            field="size",
        )
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / (_LEVELS / 2) - 1


def to_images(tensor: Tensor) -> list[Image.Image]:
    """A tensor (B, 3, H, W) in [-1, 1] as RGB pictures; values outside are clamped, the rest rounded.

    Raises:
        GuidanceError: some value is not finite.
    """
    tensor = tensor.detach().float().cpu()
    if not tensor.isfinite().all():
        raise GuidanceError(
            "The picture has values that are not finite (NaN or infinite).", hint="Try float32, or weaker guidance."
        )
    pixels = ((tensor.clamp(-1, 1) + 1) * (_LEVELS / 2)).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def from_ink(ink: Tensor) -> Tensor:
    """Maps (B, 1, H, W) in [0, 1] as pictures (B, 3, H, W) in [-1, 1], ink white on black: what LGP encodes."""
    return (ink * 2 - 1).expand(-1, 3, -1, -1)


def to_grey(image: Image.Image) -> NDArray[np.float32]:
    """The luminance of a picture, (H, W) in [0, 1]."""
    return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(_LEVELS)


def from_grey(values: NDArray[np.float32]) -> Image.Image:
    """(H, W) values, clamped to [0, 1] and rounded to the 256 levels of a grey picture (mode L)."""
    return Image.fromarray(np.rint(values.clip(0, 1) * _LEVELS).astype(np.uint8))


def channel_extremes(image: Image.Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest of each pixel's colour channels, both (H, W) in [0, 1]; see-through is white."""
    if image.has_transparency_data:
        image = _laid(image.convert("RGBA"))
    red, green, blue = image.convert("RGB").split()
    return (
        to_grey(ImageChops.darker(ImageChops.darker(red, green), blue)),
        to_grey(ImageChops.lighter(ImageChops.lighter(red, green), blue)),
    )


def is_blank(image: Image.Image) -> bool:
    """Whether every channel of an RGB picture is nearly one value, within 1/40 of its range."""
    extrema = np.reshape(image.getextrema(), (-1, 2))
    return float(np.ptp(extrema, axis=1).max()) < 0.05 * _LEVELS / 2


def save_png(image: Image.Image, path: str | Path, *, text: Mapping[str, str] | None = None) -> None:
    """Writes a PNG with `text` as its metadata; raises OutputError as `files.replacing` does, and for a name that ends
    otherwise than in .png.
    """
    if Path(path).suffix.lower() not in ("", ".png"):
        raise OutputError(f"{str(path)!r} does not end in .png.", hint="Pictures are written as PNG.", field="output")
    with replacing(Path(path)) as part:
        part.write_bytes(to_png(image, text=text))


def to_png(image: Image.Image, *, text: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a PNG with `text` as its metadata."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def to_base64(image: Image.Image) -> str:
    """A picture as a PNG in base64: how pictures travel in JSON, without loss.

    Raises:
        SketchError: it would be more than the text of a PNG can hold.
    """
    text = base64.b64encode(to_png(image)).decode("ascii")
    if len(text) > MAX_TEXT:
        raise SketchError(
            f"The picture takes {len(text) / 1e6:.0f} MB as text, and every PNG made from it carries it; at most "
            f"{MAX_TEXT / 1e6:.0f} MB are allowed.",
            hint="Make it smaller first, or cut out the part that is to change.",
            field="image",
        )
    return text


def carried(picture: Image.Image | str | Path, *, field: str = "image", side: int = CARRIED_SIDE) -> str:
    """A picture or its file as a request carries it to be looked at: shrunk to `side` pixels a side, if it has more.

    Raises as `as_picture` does, and SketchError for one more than 32 times as wide as high, or as high as wide.
    """
    image = as_picture(picture, field=field).copy()
    if max(image.size) * MIN_SIDE > min(image.size) * CARRIED_SIDE:
        raise SketchError(
            f"The picture is {image.width} × {image.height} pixels; at most 1:{CARRIED_SIDE // MIN_SIDE} is allowed.",
            hint="Cut it to what matters.",
            field=field,
        )
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return to_base64(image)


def from_base64(text: str, *, field: str = "image") -> Image.Image:
    """The picture that `to_base64` wrote; raises SketchError as `open_image` does."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise SketchError("The stored picture is not valid base64.", field=field) from error
    return open_image(data, field=field)


def read_png_text(source: str | Path | bytes) -> dict[str, str]:
    """The text metadata of a PNG file, or of its bytes; empty where it has none. Compressed text is bounded (1 MiB
    each, 64 MiB in all).

    Raises:
        SketchError: not a PNG, damaged, too large, or with text that decompresses without measure.
    """
    name = "The picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else read_file(source)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            if not data.startswith(_PNG):
                with _opened(data, name=name, field="image") as image:
                    raise SketchError(f"{name} is {image.format}, not PNG; only PNG carries text.", field="image")
            # not by `Image.open`, which refuses sheets of many large pictures unread
            PngImagePlugin.PngImageFile(io.BytesIO(data)).verify()
            with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
                if image.width * image.height <= MAX_PIXELS and not image.is_animated:
                    return {key: str(value) for key, value in image.text.items()}
                # Large sheets of ours: `text` would decode the pixels to see what comes after them, and every frame.
                return {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    except SketchError:
        raise
    except Exception as error:  # see _decode
        raise SketchError(f"The text of {name} cannot be read: {error}.", field="image") from error


def sheet(
    images: Sequence[Image.Image], *, columns: int, labels: Sequence[str] | None = None, pad: int = 4
) -> Image.Image:
    """A contact sheet on white, row by row, with an optional small label under each picture.

    Every cell has the size of the largest picture; smaller ones are centred. Labels too long for their cell are cut.

    Raises:
        SketchError: no pictures, no columns, or another number of labels than of pictures.
    """
    if not images or columns < 1 or pad < 0:
        raise SketchError(
            f"A sheet needs pictures, columns ≥ 1 and pad ≥ 0, not {len(images)}, {columns} and {pad}.", field="columns"
        )
    if labels is not None and len(labels) != len(images):
        raise SketchError(f"{len(labels)} labels were given for {len(images)} pictures.", field="labels")
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    font = ImageFont.load_default(size=max(9, min(24, width // 10)))
    line = 0 if labels is None else int(font.getbbox("Ag")[3]) + 2
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + pad) + pad, rows * (height + line + pad) + pad), "white")
    draw = ImageDraw.Draw(page)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = pad + column * (width + pad), pad + row * (height + line + pad)
        page.paste(image.convert("RGB"), (left + (width - image.width) // 2, top + (height - image.height) // 2))
        if labels is not None:
            label = " ".join(labels[index].split())
            while label and font.getlength(label) > width:
                label = label[:-2].rstrip("…") + "…" if len(label) > 1 else ""
            draw.text((left + (width - font.getlength(label)) / 2, top + height), label, font=font, fill="black")
    return page
