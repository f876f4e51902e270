"""The face table that an index keeps of its own pictures: `face_table/` in the index folder.

Role: what grouping, naming and calibrating people need beyond the folder `faces/`, such as landmarks. It follows the images
of the index: faces join, leave and get other keys with them. The files may be links to those of the index that is being
served, so that they are replaced and never written into.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from open_clip_idplugin.faces.face_table import FaceTable, load_face_table
from open_clip_idplugin.faces.face_table_writing import join_tables
from open_clip_idplugin.faces.model_identity import require_same_model
from open_clip_idplugin.retrieval.index_folder.generations import replacing_part

FOLDER = "face_table"


def add_to_table(folder: Path, table: Path, alive: AbstractSet[str]) -> None:
    """Take in the faces of a new table; of those that were kept before, only the faces of `alive` pictures stay.

    folder: index folder under construction. Raises ModelMismatch for faces of another face model.
    """
    new = load_face_table(table)
    parts = [(new, np.ones(len(new), bool))]
    if (folder / FOLDER).is_dir():
        kept = load_face_table(folder / FOLDER)
        require_same_model(kept.model_id, new.model_id, f"the faces of the index and those of '{table}'")
        parts.insert(0, (kept, _rows_of(kept, alive)))
    _replace(folder, parts, len(alive) + new.info.pictures)


def keep_only(folder: Path, alive: AbstractSet[str]) -> None:
    """Drop the faces of pictures that are not `alive`."""
    if not (folder / FOLDER).is_dir():
        return
    table = load_face_table(folder / FOLDER)
    stays = _rows_of(table, alive)
    if not stays.all():
        _replace(folder, [(table, stays)], len(alive))


def rename_in_table(folder: Path, names: Mapping[str, str]) -> None:
    """Give pictures other keys."""
    if not (folder / FOLDER).is_dir():
        return
    table = load_face_table(folder / FOLDER)
    _replace(folder, [(table, np.ones(len(table), bool))], table.info.pictures, names)


def _rows_of(table: FaceTable, keys: AbstractSet[str]) -> np.ndarray:
    return np.array([key in keys for key in table.column("key")], bool)


def _replace(
    folder: Path,
    parts: "list[tuple[FaceTable, np.ndarray]]",
    pictures: int,
    names: Mapping[str, str] | None = None,
) -> None:
    with replacing_part(folder / FOLDER) as building:
        join_tables(building, parts, pictures, names)
