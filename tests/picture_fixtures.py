"""Pictures of every kind that cameras and programs write, drawn here, and the ICC profiles that some of them carry."""

import io
import struct

import numpy as np
from PIL import Image

DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))  # both seen from D50
D50 = (0.9642, 1.0, 0.8249)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth RGB picture, none of whose axes or channels may be confused unseen."""
    rows, columns = np.mgrid[:height, :width]
    colours = [rows * 240 / height, columns * 240 / width, (rows + columns) * 240 / (height + width)]
    return np.stack(colours, 2).astype(np.uint8)


def photograph(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """RGB with soft shapes and fine noise, as photographs have."""
    source = np.random.default_rng(seed)
    coarse = Image.fromarray(source.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height), 3)
    return (
        (np.asarray(coarse).astype(int) + source.normal(0, 9, (height, width, 1)).astype(int)).clip(0, 255).astype("u1")
    )


def tiled_tiff(side: int, tile: int, content: bytes) -> bytes:
    """A grey TIFF of `side` x `side` pixels in one tile, `content` being its pixels."""
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1, 322: tile, 323: tile, 324: 200, 325: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + content


def rgb_profile(primaries=DISPLAY_P3, curve=None) -> bytes:
    """An ICC v2 matrix profile: X, Y, Z of red, green and blue (D50), and a tone curve (sRGB's by default)."""
    tags = {f"{name}XYZ": _xyz(*values) for name, values in zip("rgb", primaries)}
    tags.update(dict.fromkeys(("rTRC", "gTRC", "bTRC"), _curve(srgb_curve() if curve is None else curve)))
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    """An ICC v2 profile of grey pixels."""
    return _profile(b"GRAY", {"kTRC": _curve(np.linspace(0, 1, 1024) ** gamma)})


def srgb_curve() -> np.ndarray:
    """Light [1024] of sRGB's values."""
    values = np.linspace(0, 1, 1024)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def in_srgb(pixels: np.ndarray, primaries=DISPLAY_P3) -> np.ndarray:
    """What sRGB calls the colours of `pixels`, by the textbook: decode, change the primaries, clip, encode."""
    light = np.interp(pixels / 255, np.linspace(0, 1, 1024), srgb_curve())
    xyz = light @ np.array(primaries)
    linear = (xyz @ np.linalg.inv(np.array(SRGB))).clip(0, 1)
    return np.interp(linear, srgb_curve(), np.linspace(0, 255, 1024))


def _profile(space: bytes, tags: dict[str, bytes]) -> bytes:
    tags = {"wtpt": _xyz(*D50), "desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78), **tags}
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = struct.pack(">I", at + len(body))
    head = size + b"lcms" + b"\x02\x40\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    return (head + _xyz(*D50)[8:]).ljust(128, b"\0") + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(light: np.ndarray) -> bytes:
    points = np.rint(light * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(points)) + points.tobytes()
