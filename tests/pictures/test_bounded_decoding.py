"""Pictures that strangers send: decoded as all others, under a deadline that ends the work, and files of endless parts."""

import ast
import signal
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_fixtures import photograph, saved
from PIL import Image
from places import ROOT

from open_clip_idplugin.errors import Busy
from open_clip_idplugin.pictures import (
    ImageRejected,
    NoPicture,
    PictureDamaged,
    PictureTooLarge,
    bounded_decoding,
    bounds,
    load_image,
    open_image,
)
from open_clip_idplugin.pictures.bounded_decoding import Decoders, check_picture, decode_picture

# Numbers as text: two bytes a value, which Pillow reads in Python; some 5 seconds.
SLOW = b"P3\n2000 1900\n255\n" + b"7 " * (3 * 2000 * 1900)


@pytest.fixture
def decoders(monkeypatch):
    made = Decoders(processes=1, seconds=60)
    monkeypatch.setattr(bounded_decoding, "_decoders", lambda: made)
    yield made
    made.close()


def process_of(decoders):
    """The child, and its number."""
    (child,) = decoders._free.queue
    return child._process if child is not None else None


class TestAsEverywhere:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "LA"])
    def test_pixels(self, decoders, mode):
        image = Image.fromarray(photograph(30, 50))
        if mode == "I;16":
            image = Image.fromarray(np.arange(1500, dtype=np.uint16).reshape(30, 50) * 40)
        exif = Image.Exif()
        exif[0x0112] = 6
        content = saved(image if mode == "I;16" else image.convert(mode), "PNG", exif=exif)
        check_picture(content)
        found = decode_picture(content)
        assert found.size == (30, 50)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(load_image(content)))

    def test_refusals(self, decoders):
        png = saved(Image.fromarray(photograph(30, 50)), "PNG")
        for content in (b"", b"no picture", png[: len(png) // 2], saved(Image.new("1", (40_000, 700)), "PNG")):
            with pytest.raises(ImageRejected) as expected:
                load_image(content)
            with pytest.raises(ImageRejected) as found:
                decode_picture(content)
            assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))
        with pytest.raises(PictureTooLarge, match="million pixels"):
            check_picture(png, 1000)
        assert process_of(decoders).poll() is None  # a refusal costs no process

    def test_a_plain_jpeg_needs_no_process(self, monkeypatch):
        monkeypatch.setattr(bounded_decoding, "_decoders", None)
        for progressive in (False, True):
            content = saved(Image.fromarray(photograph()), "JPEG", progressive=progressive)
            check_picture(content)
            assert decode_picture(content).tobytes() == load_image(content).tobytes()

    def test_many_scans_need_one(self, decoders, monkeypatch):
        content = saved(Image.fromarray(photograph(300, 400)), "JPEG", progressive=True)
        scans = content.count(b"\xff\xda")
        assert bounds.scanned_pixels(content) == scans * 300 * 400 > 2 * 300 * 400
        monkeypatch.setattr(bounded_decoding, "_QUICK", 300 * 400)
        assert decode_picture(content).tobytes() == load_image(content).tobytes()
        assert process_of(decoders) is not None


class TestLimits:
    def test_the_deadline_ends_the_work(self, decoders):
        small = saved(Image.fromarray(photograph(30, 50)), "PNG")
        decode_picture(small)
        before, decoders.seconds = process_of(decoders), 1
        begun = time.monotonic()
        with pytest.raises(PictureTooLarge, match="too long"):
            decode_picture(SLOW)
        assert time.monotonic() - begun < 4
        assert before.returncode == -signal.SIGKILL
        decoders.seconds = 60
        assert decode_picture(small).size == (50, 30)  # by another process

    def test_a_decoder_that_breaks_down(self, decoders):
        small = saved(Image.fromarray(photograph(30, 50)), "PNG")
        decode_picture(small)
        process = process_of(decoders)
        killer = threading.Timer(0.2, process.kill)
        killer.start()
        with pytest.raises(PictureDamaged, match="broke down"):
            decode_picture(SLOW)
        killer.join()
        assert decode_picture(small).size == (50, 30)

    def test_all_at_work(self, monkeypatch):
        monkeypatch.setattr(bounded_decoding, "_decoders", lambda: Decoders(0, 0.01))
        with pytest.raises(Busy, match="try again"):
            check_picture(b"GIF89a")

    @pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="limits are read from Linux's /proc")
    def test_memory_files_and_an_end_without_a_service(self, decoders):
        with pytest.raises(NoPicture):
            decode_picture(b"no picture")
        process = process_of(decoders)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        values = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()}
        assert values["Max file size"] == values["Max core file size"] == "0"
        assert 3 << 30 < int(values["Max address space"]) < 8 << 30
        assert int(values["Max cpu time"]) < 600
        process.stdin.close()  # as when the service is gone
        assert process.wait(10) == 0

    def test_more_memory_than_there_is(self, monkeypatch):
        def nothing_left(*_):
            raise MemoryError

        content = saved(Image.fromarray(photograph(30, 50)), "PNG")
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", nothing_left)
        with pytest.raises(PictureTooLarge, match="more memory"):
            load_image(content)


def png_with(chunks: int) -> bytes:
    """A PNG with so many empty chunks behind its head."""
    content = saved(Image.fromarray(photograph(30, 50)), "PNG")
    chunk = struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    return content[:33] + chunks * chunk + content[33:]


def tiff_of(order: str, big: bool, strips: int = 40, entries: int = 0) -> bytes:
    """A grey TIFF of 30 x 40 pixels, a strip a row, whose lists of strips have so many numbers; or so many entries."""
    count, entry, head = ("Q", "HHQQ", 16) if big else ("H", "HHLL", 8)
    kind, width = (16, 8) if big else (4, 4)
    rows = 40
    lists = [[head + 30 * min(row, rows - 1) for row in range(strips)], [30] * strips]
    pixels = bytes([7]) * 30 * rows
    places = [head + len(pixels), head + len(pixels) + width * strips]
    start = places[1] + width * strips
    tags = {256: 30, 257: rows, 258: 8, 259: 1, 262: 1, 273: None, 277: 1, 278: 1, 279: None}
    values = iter(places)
    told = [
        struct.pack(
            order + entry, tag, kind, 1 if value is not None else strips, next(values) if value is None else value
        )
        for tag, value in tags.items()
    ]
    told += [struct.pack(order + entry, 305, kind, 1, 1)] * entries
    mark = {"<": b"II", ">": b"MM"}[order]
    first = struct.pack(order + ("HHHQ" if big else "HL"), *((43, 8, 0, start) if big else (42, start)))
    body = b"".join(struct.pack(f"{order}{strips}{'Q' if big else 'L'}", *numbers) for numbers in lists)
    directory = struct.pack(order + count, len(told)) + b"".join(told) + bytes(8)
    return mark + first + pixels + body + directory


def jpeg_with(filling: bytes) -> bytes:
    """A JPEG with something before its tables."""
    content = saved(Image.fromarray(photograph(30, 50)), "JPEG")
    return content[:2] + filling + content[2:]


class TestEndlessParts:
    @pytest.mark.parametrize("filling", [b"\xff\xe5\x00\x02", b"\xff\xfe\x00\x03x", b"\xff", b"\0", b"\xff\x01"])
    def test_of_a_jpeg(self, filling):
        load_image(jpeg_with(50 * b"\xff\xe5\x00\x02"))
        begun = time.monotonic()
        for door in (load_image, open_image):
            with pytest.raises(PictureTooLarge, match="parts"):
                door(jpeg_with(filling * 2_000_000))
        assert bounds.scanned_pixels(jpeg_with(filling * 2_000_000)) is None
        assert time.monotonic() - begun < 5

    def test_of_a_png(self):
        assert load_image(png_with(1000)).size == (50, 30)
        with pytest.raises(PictureTooLarge, match="parts"):
            load_image(png_with(300_000))

    @pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
    def test_of_a_tiff(self, order, big):
        for door in (load_image, open_image):
            assert door(tiff_of(order, big, strips=40)).size == (30, 40)
            for endless in ({"strips": 500_000}, {"entries": 500_000} if big else {"strips": 300_000}):
                with pytest.raises(PictureTooLarge, match="parts"):
                    door(tiff_of(order, big, **endless))
        whole = tiff_of(order, big, strips=40)
        nowhere = whole[: 8 if big else 4] + b"\xff" * (8 if big else 4) + whole[16 if big else 8 :]
        for broken in (whole[:60], nowhere, whole[:-30]):
            with pytest.raises(ImageRejected):
                load_image(broken)

    def test_of_an_exif_block(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        for filling, size in ((1, (30, 50)), (5_000_000, (50, 30))):  # too long to be looked at
            exif[0x927C] = b"x" * filling
            assert load_image(saved(Image.fromarray(photograph(30, 50)), "PNG", exif=exif)).size == size

    def test_of_formats_read_byte_by_byte(self, monkeypatch):
        head = struct.pack("<IiiHHIIiiII", 40, 20, 20, 1, 8, 1, 0, 0, 0, 256, 0)
        runs = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + head + bytes(1024) + b"\x14\x05\0\0" * 20
        plain = b"P2\n20 20\n255\n" + b"7 " * 400
        gif = saved(Image.new("P", (20, 20)), "GIF")
        flat = saved(Image.new("RGB", (20, 20)), "BMP")
        for content in (runs, plain, gif, flat):
            assert load_image(content).size == (20, 20)
        monkeypatch.setattr(bounds, "_MOST_READ_IN_PYTHON", 10)
        for content in (runs, plain, gif):
            with pytest.raises(PictureTooLarge, match="too long in this format"):
                load_image(content)
        assert load_image(flat).size == (20, 20)


def test_the_service_decodes_pictures_of_requests_under_the_deadline_alone():
    """What is read in `retrieval` without it are pictures of the operator, thumbnails of an index, or decoded already."""
    known = {("partition_pipeline", "load_image"), ("picture_faces", "load_image"), ("opened_index", "load_image")}
    found = set()
    for path in (ROOT / "open_clip_idplugin" / "retrieval").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            doors = name in ("load_image", "load_picture", "open_image", "Image.open") or name.endswith(".the_face")
            if doors and "decode_picture(" not in ast.unparse(node):
                found.add((path.stem, name))
    assert found == known
