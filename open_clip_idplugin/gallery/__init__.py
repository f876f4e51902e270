"""Enrolled people and the face embeddings that stand for them, in one private SQLite file.

Role: the public names. `store` has the people, `file` the file and its transactions, `schema` its versions, `names` how
names are compared.
"""

from open_clip_idplugin.gallery.details import Details
from open_clip_idplugin.gallery.erasure import Erasure
from open_clip_idplugin.gallery.errors import ConsentExpired, GalleryError
from open_clip_idplugin.gallery.file import default_gallery
from open_clip_idplugin.gallery.person_names import LONGEST_NAME, fold_name
from open_clip_idplugin.gallery.rows import Person
from open_clip_idplugin.gallery.schema import SCHEMA_VERSION
from open_clip_idplugin.gallery.store import Gallery

__all__ = [
    "LONGEST_NAME",
    "SCHEMA_VERSION",
    "ConsentExpired",
    "Details",
    "Erasure",
    "Gallery",
    "GalleryError",
    "Person",
    "default_gallery",
    "fold_name",
]
