"""Image formats that are read: first bytes and file extensions -> Pillow's names of formats, and which decoders are here.

HEIC (photographs of iPhones) needs the package pillow-heif, the extra `heic`; its decoder is looked for once a process.
"""

from functools import lru_cache

# Formats that decode in the process itself; EPS, for one, would start an interpreter on the untrusted file.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF")
_MPO = "MPO"  # how Pillow calls a JPEG with more pictures behind the first
# Extensions of files and members of shards in lower case, without the dot, in order of preference within a sample.
HEIC_EXTENSIONS = ("heic", "heif", "hif")
PICTURE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "jpe", "jfif", "ppm", "pgm", "pbm", "pnm"),
    *HEIC_EXTENSIONS,
)
HEIC_REMEDY = "HEIC needs the package pillow-heif: pip install 'open-clip-idplugin[heic]'"
_AVIF_REMEDY = "AVIF needs a newer Pillow: pip install 'Pillow>=11.3'"
# Brands of ISO media files that hold a still picture.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"), "HEIF"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
_GENERIC_BRANDS = (b"mif1", b"msf1", b"mif2")  # the brands behind the first one say what it is


@lru_cache(maxsize=1)
def known_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be decoded here."""
    from PIL import Image

    Image.init()  # registers what is not built into Pillow's short list
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)


def is_known(kind: str | None) -> bool:
    """Whether a Pillow image of this format (None: made in memory) may be decoded."""
    return kind is None or kind == _MPO or kind in known_formats()


def reads_heic() -> bool:
    """Whether the extra `heic` is installed."""
    return "HEIF" in known_formats()


def missing_decoder(content: bytes) -> str | None:
    """How to make these bytes readable, where they are a picture whose decoder is not installed."""
    brands = [content[8:12]] if content[4:8] == b"ftyp" else []
    if brands and brands[0] in _GENERIC_BRANDS:
        end = min(int.from_bytes(content[:4], "big"), 256)
        brands = [content[at : at + 4] for at in range(16, end, 4)]
    kind = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if kind is None or kind in known_formats():
        return None
    return HEIC_REMEDY if kind == "HEIF" else _AVIF_REMEDY
