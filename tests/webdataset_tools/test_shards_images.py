"""The image check: what is whole passes, whatever its kind; what is damaged is told, at least as often as by decoding."""

import io
import struct
import warnings

import numpy as np
import pytest
import release_fixtures as fixtures
from PIL import Image

from webdataset_tools.image_check import CHECKS, DECODE, NONE, STRUCTURE, find_damage


def photograph(seed=0, size=(320, 240), mode="RGB", **options):
    """A JPEG of shapes and fine noise, as large as photographs of its size are."""
    source = np.random.default_rng(seed)
    coarse = Image.fromarray(source.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + source.normal(0, 12, (size[1], size[0], 1)).astype(int)
    stream = io.BytesIO()
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)
    picture.save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


def pillow_fails(content):
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception:
        return True
    return False


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_whole_jpegs_pass(check, mode, progressive):
    for options in ({}, {"optimize": True}, {"restart_marker_blocks": 7}, {"quality": 100}, {"comment": bytes(100)}):
        assert find_damage(photograph(mode=mode, progressive=progressive, **options), check) is None


@pytest.mark.parametrize("check", [STRUCTURE, DECODE])
def test_a_plain_picture_and_bytes_behind_the_end_are_no_damage(check):
    stream = io.BytesIO()
    Image.new("RGB", (640, 480), (9, 9, 9)).save(stream, "JPEG", optimize=True)
    assert bytes(64) in stream.getvalue()  # looks like a hole
    assert find_damage(stream.getvalue(), check) is None
    assert find_damage(photograph() + b"behind the end", check) is None
    exif = Image.Exif()
    exif[0x0112] = 6
    assert find_damage(photograph(exif=exif), check) is None


@pytest.mark.parametrize("check", [STRUCTURE, DECODE])
@pytest.mark.parametrize(
    ("format", "mode"), [("PNG", "RGBA"), ("PNG", "I;16"), ("GIF", "P"), ("WEBP", "RGB"), ("TIFF", "CMYK")]
)
def test_other_formats_are_decoded(format, mode, check):
    stream = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(stream, format)
    else:
        Image.open(io.BytesIO(fixtures.picture_bytes(1))).convert(mode).save(stream, format)
    assert find_damage(stream.getvalue(), check) is None
    assert find_damage(stream.getvalue()[: len(stream.getvalue()) // 2], check) is not None


def test_an_animation_passes():
    frames = [Image.new("RGB", (40, 30), (shade, 0, 0)) for shade in (0, 100, 200)]
    for format in ("GIF", "WEBP"):
        stream = io.BytesIO()
        frames[0].save(stream, format, save_all=True, append_images=frames[1:])
        assert find_damage(stream.getvalue()) is None


@pytest.mark.parametrize("check", [STRUCTURE, DECODE])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 5}])
def test_every_cut_is_found(check, options):
    content = photograph(size=(96, 64), **options)
    for keep in [*range(0, 700, 7), *range(700, len(content), 101), len(content) - 2, len(content) - 1]:
        assert find_damage(content[:keep], check) is not None, keep


def overwritten(content, at, new):
    return content[:at] + new + content[at + len(new) :]


def test_what_makes_pillow_fail_is_found():
    """The structure check may find more than a decoder that is lenient, never less."""
    source = np.random.default_rng(4)
    failures = 0
    for number in range(400):
        content = photograph(seed=number % 3, size=(96, 64), progressive=number % 5 == 0)
        kind, at = number % 4, int(source.integers(2, len(content) - 200))
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = overwritten(content, at, source.bytes(150))
        elif kind == 2:
            content = overwritten(content, int(source.integers(0, 640)), source.bytes(1))
        else:
            content = content[:at] + content[at + 150 :]
        if pillow_fails(content):
            failures += 1
            assert find_damage(content) is not None, (number, kind)
    assert failures > 120


def test_a_hole_and_a_lost_tail_are_found():
    content = photograph()
    middle = len(content) // 2
    assert not pillow_fails(overwritten(content, middle, bytes(4096)))  # a lenient decoder sees grey and goes on
    assert find_damage(overwritten(content, middle, bytes(4096))) is not None
    assert find_damage(overwritten(content, middle, bytes(len(content) - middle))) is not None


def test_decoding_finds_what_has_no_marker():
    content = photograph()
    middle = len(content) // 2
    lost_block = content[:middle] + content[middle + 512 :]
    ended_early = content[:middle] + b"\xff\xd9"
    for damaged in (lost_block, ended_early):
        assert find_damage(damaged, STRUCTURE) is None and not pillow_fails(damaged)
        assert find_damage(damaged, DECODE) is not None


def test_restart_markers_must_be_in_order():
    content = photograph(restart_marker_blocks=5)
    assert find_damage(content.replace(b"\xff\xd3", b"\xff\xd5", 1)) == "its restart markers are out of order"
    assert find_damage(photograph().replace(b"\xff\x00", b"\xff\xd0", 1)) is not None  # none are announced


def with_size(content, width, height):
    """A JPEG that claims another size."""
    at = content.index(b"\xff\xc0") + 5
    return overwritten(content, at, struct.pack(">HH", height, width))


def test_a_decompression_bomb_is_damage():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for check in (STRUCTURE, DECODE):
            assert "million pixels" in find_damage(with_size(photograph(), 65_000, 65_000), check)
        stream = io.BytesIO()
        Image.new("1", (14_000, 14_000)).save(stream, "PNG")
        assert len(stream.getvalue()) < 200_000
        assert "million pixels" in find_damage(stream.getvalue())


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xff\xff", b"<html>", b"GIF89a"]
)
def test_what_is_no_image_is_told(content):
    for check in (STRUCTURE, DECODE):
        assert find_damage(content, check)
    assert find_damage(content, NONE) is None
