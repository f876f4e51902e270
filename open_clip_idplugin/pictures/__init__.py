"""Pictures: ONE decoder for image vectors, faces, thumbnails, training and evaluation, and the thumbnails of an index.

`load_picture` gives an array, `load_image` the Pillow image that an image tower's preprocessing gets, `open_image` a header.
Importing this package loads NumPy only; Pillow is loaded with the first picture.
"""

from open_clip_idplugin.pictures.decoder_version import DECODER_VERSION, pictures_read_otherwise
from open_clip_idplugin.pictures.decoding import (
    PictureSource,
    load_image,
    load_picture,
    open_image,
    orientation_of,
    read_picture,
    upright,
    xmp_of,
)
from open_clip_idplugin.pictures.errors import (
    DecoderMissing,
    ImageRejected,
    NoPicture,
    PictureDamaged,
    PictureMissing,
    PictureTooElongated,
    PictureTooLarge,
    PictureTooSmall,
    PixelsUnusable,
)

__all__ = [
    "DECODER_VERSION",
    "DecoderMissing",
    "ImageRejected",
    "NoPicture",
    "PictureDamaged",
    "PictureMissing",
    "PictureSource",
    "PictureTooElongated",
    "PictureTooLarge",
    "PictureTooSmall",
    "PixelsUnusable",
    "load_image",
    "load_picture",
    "open_image",
    "orientation_of",
    "pictures_read_otherwise",
    "read_picture",
    "upright",
    "xmp_of",
]
