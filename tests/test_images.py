import contextlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from sketchguide.errors import GuidanceError, OutputError, SketchError, SketchguideWarning
from sketchguide.images import (
    carried,
    channel_extremes,
    from_base64,
    from_grey,
    open_image,
    read_png_text,
    save_png,
    sheet,
    to_grey,
    to_images,
    to_tensor,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def noise(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def with_text_chunk(kind: bytes, body: bytes) -> bytes:
    data = encoded(noise())
    return data[:33] + chunk(kind, body) + data[33:]


# -- what can be opened


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_open_exactly(kind: str) -> None:
    image = noise()
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    opened = open_image(data)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(image))


def test_jpeg_and_gif_open_nearly() -> None:
    flat = Image.new("RGB", (32, 24), (200, 40, 90))
    for kind in ("JPEG", "GIF"):
        assert np.abs(np.asarray(open_image(encoded(flat, kind)), dtype=int) - (200, 40, 90)).max() <= 3


def test_a_path_and_a_string_open_like_bytes(tmp_path: Path) -> None:
    path = tmp_path / "picture.dat"
    path.write_bytes(encoded(noise()))
    assert open_image(path).tobytes() == open_image(str(path)).tobytes() == noise().tobytes()


def test_16_bit_grey_is_rescaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    opened = np.asarray(open_image(encoded(Image.fromarray(ramp))))
    assert np.abs(opened[..., 0].astype(float) - ramp / 257).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pictures_without_a_fixed_range_use_their_own(dtype: type) -> None:
    values = np.linspace(-5, 1000, 32 * 32).reshape(32, 32).astype(dtype)
    opened = np.asarray(open_image(encoded(Image.fromarray(values), "TIFF")))
    assert opened.min() == 0
    assert opened.max() == 255
    assert abs(float(opened.mean()) - 127.5) < 1


def test_values_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(SketchError, match="not numbers"):
        open_image(encoded(Image.fromarray(np.full((20, 20), np.nan, np.float32)), "TIFF"))


def test_transparency_is_laid_on_white() -> None:
    ink = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    ImageDraw.Draw(ink).line([(5, 20), (35, 20)], fill=(0, 0, 0, 255), width=3)
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([9, 9, 9, 0, 0, 0])
    ImageDraw.Draw(palette).line([(5, 20), (35, 20)], fill=1, width=3)
    grey = ink.convert("LA")
    for data in (encoded(ink), encoded(ink, "WEBP", lossless=True), encoded(palette, transparency=0), encoded(grey)):
        opened = open_image(data)
        assert opened.getpixel((1, 1)) == (255, 255, 255)
        assert opened.getpixel((20, 20)) == (0, 0, 0)


def test_white_strokes_on_nothing_stay_visible() -> None:
    ink = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    ImageDraw.Draw(ink).line([(5, 20), (35, 20)], fill=(255, 255, 255, 255), width=3)
    opened = open_image(encoded(ink))
    assert opened.getpixel((1, 1)) == (0, 0, 0)
    assert opened.getpixel((20, 20)) == (255, 255, 255)
    assert open_image(encoded(ink), paper="white").getpixel((1, 1)) == (255, 255, 255)


def test_cmyk_becomes_rgb() -> None:
    opened = open_image(encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = opened.getpixel((16, 16))
    assert red > 245
    assert green < 10
    assert blue < 10


def test_colour_profiles_are_applied_and_unusable_ones_ignored() -> None:
    image = Image.new("RGB", (20, 20), (120, 200, 60))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    for profile, seen in ((srgb, (120, 200, 60)), (swapped, (200, 120, 60))):
        opened = open_image(encoded(image, icc_profile=profile))
        assert np.abs(np.asarray(opened, dtype=int) - seen).max() <= 2
    assert open_image(encoded(image, icc_profile=b"no profile")).getpixel((3, 3)) == (120, 200, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_rotation_is_applied(kind: str) -> None:
    image = Image.new("RGB", (48, 32), "white")
    image.paste("black", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn right to view
    opened = open_image(encoded(image, kind, exif=exif))
    assert opened.size == (32, 48)
    assert max(opened.getpixel((24, 8))) < 20
    assert min(opened.getpixel((8, 8))) > 235


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_used_with_a_warning(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(SketchguideWarning, match="several frames"):
        assert open_image(data).getpixel((5, 5)) == (255, 0, 0)


# -- what is refused


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "a PostScript document"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"gimp xcf v011", "a GIMP document"),
        (b"PK\x03\x04", "a document or archive (zip)"),
    ],
)
def test_documents_are_told_from_pictures(tmp_path: Path, start: bytes, kind: str) -> None:
    (tmp_path / "page.png").write_bytes(start + bytes(200))
    with pytest.raises(SketchError) as caught:
        open_image(tmp_path / "page.png", field="sketch")
    assert caught.value.message.endswith(f"page.png is {kind}, which is not read.")
    assert (caught.value.hint, caught.value.field) == ("Export the page or drawing as PNG.", "sketch")


def test_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for name, data in {
        "text.png": b"hello, I am no picture",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "icon.png": encoded(noise(32, 32), "ICO"),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SketchError, match="allowed are PNG, JPEG, WebP") as caught:
            open_image(tmp_path / name, field="sketch")
        assert caught.value.field == "sketch"
        assert name in caught.value.message
    (tmp_path / "empty.png").touch()
    with pytest.raises(SketchError, match="is empty"):
        open_image(tmp_path / "empty.png")
    with pytest.raises(SketchError, match="is empty"):
        open_image(b"")


def test_missing_files_folders_devices_and_bad_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SketchError, match="There is no file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(SketchError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(SketchError, match="There is no file"):
        open_image("a\0b")
    with pytest.raises(SketchError, match="cannot be read"):
        open_image("x" * 5000)
    if Path("/dev/zero").exists():
        with pytest.raises(SketchError, match="not an ordinary file"):
            open_image("/dev/zero")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.2, 0.7, 0.95])
def test_truncated_files_are_refused(kind: str, part: float) -> None:
    data = encoded(noise(64, 64), kind)
    with pytest.raises(SketchError):
        open_image(data[: int(len(data) * part)])


def test_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encoded(noise()))
    end_of_pixels = data.rindex(b"IEND") - 8
    data[end_of_pixels + 1] ^= 0x10  # the checksum itself: the pixels would still decode
    with pytest.raises(SketchError, match="damaged or cut short"):
        open_image(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (15, 40), (40, 15), (100_000, 1), (8193, 16)])
def test_sides_out_of_range_are_refused(width: int, height: int) -> None:
    with pytest.raises(SketchError, match=rf"{width} × {height} pixels; each side must be 16 to 8192"):
        open_image(encoded(Image.new("L", (width, height))))


@pytest.mark.parametrize(("width", "height"), [(8000, 8000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_pixel_bombs_are_refused_from_the_header(width: int, height: int) -> None:
    bomb = png_header(width, height) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(SketchError, match="pixels; at most 36 million are allowed"):
        open_image(bomb)


def test_text_is_read_from_pictures_too_large_to_open(tmp_path: Path) -> None:
    save_png(Image.new("1", (8000, 5000)), tmp_path / "sheet.png", text={"sketchguide": "{}"})
    assert read_png_text(tmp_path / "sheet.png")["sketchguide"] == "{}"
    with pytest.raises(SketchError, match="8000 × 5000 pixels"):
        open_image(tmp_path / "sheet.png")


def test_text_is_read_from_sheets_beyond_the_limits_of_the_library(tmp_path: Path) -> None:
    save_png(Image.new("1", (16400, 16400)), tmp_path / "sheet.png", text={"sketchguide": "{}"})
    assert read_png_text(tmp_path / "sheet.png")["sketchguide"] == "{}"


def test_compressed_text_bombs_are_refused(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(64 * 2**20), 9)
    for kind, body in {
        b"zTXt": b"key\0\0" + bomb,
        b"iTXt": b"key\0\1\0\0\0" + bomb,
        b"iCCP": b"key\0\0" + bomb,
    }.items():
        path = tmp_path / "bomb.png"
        path.write_bytes(with_text_chunk(kind, body))
        with pytest.raises(SketchError, match="too large"):
            open_image(path)
        with pytest.raises(SketchError, match="too large"):
            read_png_text(path)


def test_nothing_but_our_own_error_leaves_damaged_files() -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        whole = encoded(noise(24, 24), kind)
        for _ in range(25):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(0, 256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(SketchError):
                    assert open_image(bytes(data)).mode == "RGB"


# -- tensors


def test_to_tensor_and_back_is_exact() -> None:
    image = noise()
    tensor = to_tensor([image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert tensor.shape == (2, 3, 30, 40)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    first, second = to_images(tensor)
    assert first.tobytes() == image.tobytes()
    assert second.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes() == image.tobytes()


def test_black_is_minus_one_and_white_one() -> None:
    both = [Image.new("RGB", (16, 16), colour) for colour in ("black", "white")]
    assert to_tensor(both)[:, 0, 0, 0].tolist() == [-1.0, 1.0]


def test_to_tensor_fits_without_distortion() -> None:
    image = Image.new("RGB", (80, 40), "white")
    ImageDraw.Draw(image).ellipse([25, 5, 55, 35], fill="black")
    tensor = to_tensor([image], size=(32, 32))
    assert tensor.shape == (1, 3, 32, 32)
    dark = tensor[0, 0] < 0
    assert abs(int(dark.any(0).sum()) - int(dark.any(1).sum())) <= 1
    assert to_images(to_tensor([image], size=image.size))[0].tobytes() == image.tobytes()


def test_to_tensor_refuses_nothing_and_a_mixture() -> None:
    with pytest.raises(SketchError, match="at least one"):
        to_tensor([])
    with pytest.raises(SketchError, match="32 × 32, 40 × 30"):
        to_tensor([noise(), noise(32, 32)])


def test_to_images_clamps_rounds_and_refuses_nan() -> None:
    tensor = torch.tensor([-3.0, 3.0, 0.0039]).reshape(1, 3, 1, 1).to(torch.bfloat16)
    assert to_images(tensor)[0].getpixel((0, 0)) == (0, 255, 128)
    with pytest.raises(GuidanceError, match="not finite"):
        to_images(torch.full((1, 3, 4, 4), torch.nan))


def test_grey_values_survive_in_256_levels() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(to_grey(from_grey(values)), values)


def test_channel_extremes() -> None:
    low, high = channel_extremes(Image.new("RGB", (16, 16), (255, 51, 102)))
    assert low[3, 3] == pytest.approx(0.2)
    assert high[3, 3] == 1.0
    assert channel_extremes(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))[0].min() == 1.0


# -- files written


def test_png_text_survives(tmp_path: Path) -> None:
    text = {"sketchguide": '{"prompt": "ein Äpfelchen 🍎 \\n <b>"}', "plain": "ascii", "long": "x" * 3_000_000}
    path = tmp_path / "out.png"
    save_png(noise(), path, text=text)
    assert read_png_text(path) == text
    assert open_image(path).tobytes() == noise().tobytes()
    save_png(noise(8, 8), path)
    assert read_png_text(path) == {}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.png"]


def test_text_is_read_from_png_only(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    noise().save(path)
    with pytest.raises(SketchError, match="is JPEG, not PNG"):
        read_png_text(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    save_png(noise(), path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"out\.png.*No space left"):
        save_png(Image.new("RGB", (16, 16)), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.png"]


def test_what_is_too_narrow_to_be_carried_is_named_at_once(tmp_path: Path) -> None:
    Image.new("RGB", (1024, 20)).save(tmp_path / "strip.png")
    with pytest.raises(SketchError, match=r"1024 × 20 pixels; at most 1:32") as caught:
        carried(tmp_path / "strip.png", field="like")
    assert caught.value.field == "like"
    Image.new("RGB", (1024, 32)).save(tmp_path / "strip.png")
    assert from_base64(carried(tmp_path / "strip.png")).size == (512, 16)


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none/out\.png.*create it first"):
        save_png(noise(), tmp_path / "none" / "out.png")
    with pytest.raises(OutputError, match="not a file to write"):
        save_png(noise(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        save_png(noise(), tmp_path / "file" / "out.png")
    with pytest.raises(OutputError, match="cannot be written"):
        save_png(noise(), tmp_path / "nul\0.png")
    with pytest.raises(OutputError, match="cannot be written"):
        save_png(noise(), tmp_path / "out.png", text={"prompt": "\ud800"})
    if Path("/dev/null").exists():
        with pytest.raises(OutputError, match="not a file to write"):
            save_png(noise(), "/dev/null")


# -- contact sheets


def test_a_sheet_places_pictures_row_by_row_on_white() -> None:
    red, green, blue = (Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue"))
    page = sheet([red, green, blue], columns=2, pad=4)
    assert page.size == (2 * 24 + 4, 2 * 14 + 4)
    assert page.getpixel((4, 4)) == (255, 0, 0)
    assert page.getpixel((28, 4)) == (0, 128, 0)
    assert page.getpixel((4, 18)) == (0, 0, 255)
    assert page.getpixel((40, 24)) == (255, 255, 255)


def test_labels_are_drawn_in_their_own_cell() -> None:
    pictures = [Image.new("RGB", (60, 20), "white")] * 2
    page = np.asarray(sheet(pictures, columns=2, labels=["a very long label that cannot fit", ""], pad=4).convert("L"))
    plain = np.asarray(sheet(pictures, columns=2, pad=4))
    assert page.shape[0] > plain.shape[0]
    assert (page[24:, 4:64] < 128).any()
    assert (page[:, 66:] == 255).all()


def test_a_sheet_of_nothing_or_with_missing_labels_is_refused() -> None:
    with pytest.raises(SketchError):
        sheet([], columns=3)
    with pytest.raises(SketchError):
        sheet([noise()], columns=0)
    with pytest.raises(SketchError, match="1 labels were given for 2"):
        sheet([noise(), noise()], columns=2, labels=["one"])


def test_importing_is_light() -> None:
    code = (
        "import sys, sketchguide.images, sketchguide.sketch; print([m for m in ('torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_text_chunks_may_follow_the_pixels(tmp_path: Path) -> None:
    data = encoded(noise())
    body = chunk(b"tEXt", b"late\0yes")
    path = tmp_path / "late.png"
    path.write_bytes(data[:-12] + body + data[-12:])
    assert read_png_text(path) == {"late": "yes"}


def test_a_picture_is_named_as_the_png_that_it_is(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"x\.jpg' does not end in \.png"):
        save_png(noise(), tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())


def test_of_a_picture_that_moves_no_frame_is_decoded_for_its_text(tmp_path: Path) -> None:
    """Pillow copies the whole canvas for each of them: a megabyte of frames would take minutes."""
    still = [Image.new("RGB", (64, 64), (0, 0, shade)) for shade in range(20)]
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("early", "yes")
    still[0].save(tmp_path / "moving.png", save_all=True, append_images=still[1:], pnginfo=chunks)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PngImagePlugin.PngImageFile, "seek", lambda *_: pytest.fail("a frame is decoded"))
        assert read_png_text(tmp_path / "moving.png") == {"early": "yes"}
