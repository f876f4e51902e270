"""Version of the picture decoder, noted with everything that is computed from pixels and kept: other pixels, other vectors.

Role: version of an index or a cache -> whether it may be added to, and which pictures an older one saw otherwise.
"""

DECODER_VERSION = 2  # grows whenever a picture gives other pixels than before

# Version -> the pictures that the next one decodes otherwise. Version 1 was whatever Pillow's own conversion gave.
_CHANGED_AFTER = {
    1: "turned by EXIF, transparent, with 16 bits a channel, or with a colour profile other than sRGB (CMYK, Display P3)",
}


def pictures_read_otherwise(version: int) -> str | None:
    """The pictures that a decoder of `version` read otherwise than this one, in words; None where there are none."""
    if version == DECODER_VERSION:
        return None
    if version > DECODER_VERSION:
        return "that a newer version of this program reads otherwise"
    return "; or ".join(words for since, words in sorted(_CHANGED_AFTER.items()) if since >= version)
