"""The one decoder: what stock readers give where nothing is odd, and the right pixels where something is."""

import ast
import io
import sys
import tracemalloc

import numpy as np
import pytest
from picture_fixtures import SRGB, grey_profile, in_srgb, photograph, ramp, rgb_profile, saved, tiled_tiff
from PIL import Image, ImageCms
from places import ROOT
from real_photos import REAL, needs_real_photos

from open_clip_idplugin.pictures import (
    DecoderMissing,
    NoPicture,
    PictureTooElongated,
    PictureTooLarge,
    PictureTooSmall,
    formats,
    load_image,
    load_picture,
    open_image,
)
from open_clip_idplugin.pictures.thumbnails import make_thumbnail


def stock(content: bytes) -> np.ndarray:
    """What open_clip and clip-retrieval read."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def both(content: bytes) -> np.ndarray:
    """The picture, which must be the same through both doors."""
    image = load_image(content)
    assert image.mode == "RGB"
    pixels = load_picture(content)
    np.testing.assert_array_equal(np.asarray(image), pixels)
    return pixels


PLAIN = {
    "jpeg": lambda image: saved(image, "JPEG", quality=90),
    "progressive": lambda image: saved(image, "JPEG", progressive=True),
    "subsampled": lambda image: saved(image, "JPEG", subsampling=2, quality=30),
    "grey jpeg": lambda image: saved(image.convert("L"), "JPEG"),
    "cmyk jpeg without a profile": lambda image: saved(image.convert("CMYK"), "JPEG"),
    "png": lambda image: saved(image, "PNG"),
    "palette": lambda image: saved(image.quantize(16), "PNG"),
    "one bit": lambda image: saved(image.convert("1"), "PNG"),
    "opaque rgba": lambda image: saved(image.convert("RGBA"), "PNG"),
    "webp": lambda image: saved(image, "WEBP"),
    "bmp": lambda image: saved(image, "BMP"),
    "gif": lambda image: saved(image, "GIF"),
    "tiff": lambda image: saved(image, "TIFF", compression="tiff_lzw"),
    "ppm": lambda image: saved(image, "PPM"),
    "jpeg that says sRGB": lambda image: saved(image, "JPEG", icc_profile=rgb_profile(SRGB)),
    "png that says sRGB": lambda image: saved(
        image, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ),
    "exif without a turn": lambda image: saved(image, "JPEG", exif=_turned(1)),
}


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_pictures_are_read_bit_for_bit_as_stock_readers_do(kind):
    content = PLAIN[kind](Image.fromarray(photograph()))
    np.testing.assert_array_equal(both(content), stock(content))


@needs_real_photos
def test_real_photographs_are_read_as_stock_readers_do():
    paths = sorted(path for path in REAL.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    assert len(paths) > 60
    for path in paths:
        with Image.open(path) as image:
            odd = image.getexif().get(0x0112, 1) != 1 or "icc_profile" in image.info or image.mode == "RGBA"
        if not odd:
            np.testing.assert_array_equal(load_image(path), stock(path.read_bytes()), err_msg=path.name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_to_hold_a_camera(orientation):
    pixels, turns = ramp(), {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 8: np.rot90}
    turns |= {5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1)}
    turns |= {7: lambda a: np.rot90(a.swapaxes(0, 1), 2)}
    content = saved(Image.fromarray(pixels), "PNG", exif=_turned(orientation))
    upright = turns.get(orientation, lambda a: a)(pixels)
    np.testing.assert_array_equal(both(content), upright)
    np.testing.assert_array_equal(both(load_image(content)), upright)  # once more turns nothing


def test_a_damaged_exif_block_loses_no_picture():
    content = saved(Image.fromarray(ramp()), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(both(content), ramp())


class TestTransparency:
    @pytest.mark.parametrize(
        ("mode", "kind"),
        [
            *(("RGBA", kind) for kind in ("PNG", "WEBP", "TIFF", "GIF", "AVIF")),
            ("LA", "PNG"),
            ("LA", "TIFF"),
            ("P", "PNG"),
        ],
    )
    def test_is_white(self, mode, kind):
        image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
        image.paste((200, 0, 0, 255), (0, 0, 20, 30))
        image = image.quantize(4) if mode == "P" else image.convert(mode)
        pixels = both(saved(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
        assert (pixels[:, 20:] == 255).all() and pixels[5, 5].min() < 100

    def test_is_mixed_in_proportion(self):
        alpha = np.arange(256, dtype=np.uint8)[None].repeat(20, 0)
        rgba = np.dstack([np.full((20, 256, 3), 40, np.uint8), alpha])
        expected = np.rint((40.0 * alpha + 255.0 * (255 - alpha)) / 255)
        for pixels in (both(saved(Image.fromarray(rgba), "PNG")), load_picture(rgba)):
            np.testing.assert_array_equal(pixels[:, :, 1], expected)

    def test_of_one_colour(self):
        pixels = np.zeros((20, 20, 3), np.uint8)
        pixels[:10] = (1, 2, 3)
        content = saved(Image.fromarray(pixels), "PNG", transparency=(0, 0, 0))
        assert (both(content)[:10] == (1, 2, 3)).all() and (both(content)[10:] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    grey = ramp(300, 4000)[:, :, 1]  # more than one strip
    content = saved(Image.fromarray(grey.astype(np.uint16) * 257), kind)
    np.testing.assert_array_equal(both(content), np.repeat(grey[:, :, None], 3, 2))
    assert (stock(content) == 255).mean() > 0.9 or (stock(content) == 0).mean() > 0.0  # what stock readers make of it


class TestProfiles:
    def test_display_p3_becomes_srgb(self):
        pixels = photograph()
        expected = in_srgb(pixels)
        assert np.abs(expected - pixels).max() > 20
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
            found = both(saved(Image.fromarray(pixels), kind, icc_profile=rgb_profile(), **options))
            assert np.abs(found - expected).max() < 2.5, kind

    def test_with_transparency(self):
        pixels = photograph()
        alpha = np.full(pixels.shape[:2], 255, np.uint8)
        alpha[:100] = 0
        found = both(saved(Image.fromarray(np.dstack([pixels, alpha])), "PNG", icc_profile=rgb_profile()))
        assert (found[:100] == 255).all() and np.abs(found[100:] - in_srgb(pixels)[100:]).max() < 2.5

    @pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
    def test_of_grey(self, mode):
        grey = np.arange(256, dtype=np.uint8)[None].repeat(20, 0)
        image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
        found = both(saved(image, "PNG", icc_profile=grey_profile(1.8)))
        light = np.linspace(0, 1, 256) ** 1.8
        encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
        assert np.abs(found[0, :, 1] - encoded).max() < 3

    def test_of_another_kind_of_pixels_or_damaged_changes_nothing(self):
        image = Image.fromarray(photograph())
        for profile in (grey_profile(1.0), b"no profile", rgb_profile()[:200], rgb_profile().replace(b"acsp", b"oops")):
            content = saved(image, "PNG", icc_profile=profile)
            np.testing.assert_array_equal(both(content), stock(content))


class TestBounds:
    def test_small_pictures_reach_an_image_tower_and_no_face_model(self):
        content = saved(Image.fromarray(ramp(9, 12)), "PNG")
        assert load_image(content).size == (12, 9)
        with pytest.raises(PictureTooSmall):
            load_picture(content)

    def test_sides(self):
        for size, kind in (((40_000, 700), PictureTooLarge), ((20_000, 20), PictureTooElongated)):
            with pytest.raises(kind):
                load_image(saved(Image.new("1", size), "PNG"))

    @pytest.mark.parametrize(("side", "scans"), [(64, 3000), (2100, 480)])
    def test_scans_without_end(self, side, scans):
        content = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
        last = content.rindex(b"\xff\xda")
        for door in (load_image, load_picture, open_image):
            door(content)
            with pytest.raises(PictureTooLarge, match="scans"):
                door(content[:-2] + content[last:-2] * scans + content[-2:])

    def test_tiles_larger_than_the_picture(self):
        np.testing.assert_array_equal(
            load_picture(tiled_tiff(64, 128, bytes([7]) * 128 * 128)), 7
        )  # common, and harmless
        for door in (load_image, load_picture, open_image):
            with pytest.raises(PictureTooLarge, match="tiles of 30000x30000"):
                door(tiled_tiff(64, 30_000, b""))

    @pytest.mark.parametrize("mode", ["RGBA", "I;16", "LA"])
    def test_no_multiples_of_the_memory(self, mode):
        side = 3000
        image = Image.new(mode, (side, side))
        content = saved(image, "PNG", compress_level=1)
        tracemalloc.start()  # counts what NumPy takes
        load_picture(content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * 3 * side * side / 2  # once as an array, and the strips


class TestFormats:
    def test_the_content_decides_and_not_the_name(self, tmp_path):
        for number, kind in enumerate(("PNG", "GIF", "WEBP", "TIFF", "AVIF")):
            path = tmp_path / f"{number}.jpg"
            path.write_bytes(saved(Image.fromarray(photograph()), kind))
            assert open_image(path).format == kind and load_image(path).size == (320, 240)

    def test_the_first_page_and_frame(self):
        frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
        for kind in ("TIFF", "GIF", "MPO"):
            content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
            assert both(content)[5, 5, 0] > 240 and both(content)[5, 5, 2] < 20

    def test_nothing_runs_on_a_file(self):
        eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
        for source in (eps, Image.open(io.BytesIO(eps))):  # a host may have opened it
            with pytest.raises(NoPicture):
                load_image(source)

    @pytest.mark.skipif(not formats.reads_heic(), reason="without the extra 'heic'")
    def test_heic(self):
        import pillow_heif

        pixels = photograph()
        stream = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(pixels)).save(stream, quality=95, exif=_turned(6).tobytes())
        found = both(stream.getvalue())
        assert found.shape == (320, 240, 3)  # turned
        assert np.abs(found.astype(int) - np.rot90(pixels, -1)).mean() < 8

    def test_heic_without_its_extra_says_so(self, monkeypatch):
        formats.known_formats()  # what is registered here is put back afterwards
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
        formats.known_formats.cache_clear()
        try:
            for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
                head = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands
                with pytest.raises(DecoderMissing, match=r"pip install 'open-clip-idplugin\[heic\]'"):
                    load_image(head + bytes(200))
            with pytest.raises(NoPicture) as raised:
                load_image(b"\0\0\0\x18ftypisom" + bytes(200))  # a video
            assert not isinstance(raised.value, DecoderMissing)
        finally:
            monkeypatch.undo()
            formats.known_formats.cache_clear()


class TestThumbnails:
    @pytest.mark.parametrize(
        ("size", "expected"), [((600, 400), (256, 171)), ((100, 50), (100, 50)), ((2000, 40), (256, 5))]
    )
    def test_sides(self, size, expected):
        assert Image.open(io.BytesIO(make_thumbnail(Image.new("RGB", size), 256))).size == expected

    def test_a_marking_is_kept_through_every_conversion(self):
        packet = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"/><?xpacket end="w"?>'
        for mode, exif in (("RGB", 1), ("RGB", 6), ("CMYK", 1), ("L", 1)):
            content = saved(Image.new(mode, (400, 300)), "JPEG", xmp=packet, exif=_turned(exif))
            assert Image.open(io.BytesIO(make_thumbnail(load_image(content), 64))).info["xmp"] == packet
        image = Image.new("RGB", (64, 64))
        image.info["xmp"] = bytes(70_000)  # more than a JPEG can hold
        assert "xmp" not in Image.open(io.BytesIO(make_thumbnail(image, 32))).info


def test_no_second_decoder():
    """Nothing outside the room opens, converts or turns the files of pictures."""
    room = ROOT / "open_clip_idplugin/pictures"
    forbidden = ("Image.open", "cv2.imread", "cv2.imdecode", "ImageOps.exif_transpose", "io.read_image", "decode_jpeg")
    judged = "webdataset_tools/image_check.py"  # tells whether a file is whole; its pixels go nowhere
    strays = []
    for package in ("open_clip_idplugin", "training_patches", "webdataset_tools"):
        for path in (ROOT / package).rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            names = {ast.unparse(call.func) for call in calls}
            used = {name for name in names if any(name == bad or name.endswith(f".{bad}") for bad in forbidden)}
            if used and room not in path.parents and path != ROOT / judged:
                strays.append((path.relative_to(ROOT).as_posix(), used))
    assert not strays


def test_no_second_list_of_formats():
    """Two walks had drifted apart by their lists of extensions."""
    extensions = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "heic"}
    strays = []
    for package in ("open_clip_idplugin", "training_patches", "webdataset_tools"):
        for path in (ROOT / package).rglob("*.py"):
            lists = [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Set | ast.Tuple | ast.List)
            ]
            for node in lists:
                texts = {str(entry.value).lower().lstrip(".") for entry in node.elts if isinstance(entry, ast.Constant)}
                if len(texts & extensions) > 1:
                    strays.append(path.relative_to(ROOT).as_posix())
    assert set(strays) == {"open_clip_idplugin/pictures/formats.py"}
