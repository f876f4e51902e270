"""New keys for rows of an index: the pictures are the same, their files have other names.

Role: index folder + old key -> new key -> the folder with these keys in metadata, faces and face table. Vectors, thumbnails
and ids stay; the new folder takes the old one's place in one step.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from open_clip_idplugin.retrieval.face_index.kept_face_table import rename_in_table
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES
from open_clip_idplugin.retrieval.face_index.reading import INFO_FILE, keys_digest, read_info
from open_clip_idplugin.retrieval.index_folder.generations import changing, link_tree, replacing
from open_clip_idplugin.retrieval.index_folder.metadata_columns import key_column, read_keys
from open_clip_idplugin.retrieval.index_folder.removed_rows import read_removed
from open_clip_idplugin.retrieval.index_folder.row_metadata import FOLDER as UNPACKED
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_path, atomic_write
from open_clip_idplugin.storage.output_folder import building_folder


def rename_images(index: Path, names: Mapping[str, str], finish: Callable[[Path], object] = lambda _: None) -> int:
    """Give the rows of some keys other keys, all at once, and return how many there were; removed rows keep theirs.

    finish: called with the new folder before it takes the old one's place.
    """
    index = index.resolve()
    with changing(index), building_folder(index, "rename") as building, replacing(index, building) as folder:
        for entry in index.iterdir():
            if not entry.name.startswith(".") and entry.name not in ("metadata", UNPACKED):
                link_tree(entry, folder / entry.name)
        count = _rename_metadata(index, folder, names)
        if (folder / FACES).is_dir():
            info = read_info(folder / FACES)
            keys = keys_digest(read_keys(folder)[: info.images])
            # atomic_write puts a new file where a link to the old one is
            atomic_write(folder / FACES / INFO_FILE, replace(info, keys=keys).to_json(), PRIVATE)
        rename_in_table(folder, names)
        finish(folder)
    return count


def _rename_metadata(index: Path, folder: Path, names: Mapping[str, str]) -> int:
    import pyarrow
    import pyarrow.parquet

    (folder / "metadata").mkdir()
    removed = set(read_removed(index).tolist())
    start = count = 0
    for path in sorted((index / "metadata").glob("*.parquet")):
        table = pyarrow.parquet.read_table(path)
        place = table.schema.get_field_index(key_column(table.column_names) or "")
        before = table.column(place).to_pylist()
        after = [key if row in removed else names.get(key, key) for row, key in enumerate(before, start)]
        start += len(before)
        changes = sum(old != new for old, new in zip(before, after, strict=True))
        count += changes
        if not changes:
            link_tree(path, folder / "metadata" / path.name)
            continue
        table = table.set_column(place, table.schema.field(place), pyarrow.array(after))
        with atomic_path(folder / "metadata" / path.name) as target:
            pyarrow.parquet.write_table(table, target)
    return count
