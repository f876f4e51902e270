"""Names of an older gallery, compared by today's rule.

Role: an open transaction -> `folded` of all names and aliases anew. Nobody is lost: a name with characters that are no longer
taken gets them written out, and of two people whose names have become one the later one gets a number.
"""

import sqlite3
from collections.abc import Callable
from itertools import count

from open_clip_idplugin.gallery.errors import GalleryError
from open_clip_idplugin.gallery.names import LONGEST_NAME, fold_name, written_out


def fold_again(connection: sqlite3.Connection) -> None:
    """Fold names and aliases anew; people before aliases, the earlier entry keeps its name."""
    taken: set[str] = set()
    for table, column in (("people", "name"), ("aliases", "alias")):
        entries = connection.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid").fetchall()
        connection.execute(f"UPDATE {table} SET folded = char(1) || rowid")  # no two alike on the way
        for row, name in entries:
            if not isinstance(name, str):
                raise sqlite3.DatabaseError("a name in it is no text")
            free, folded = _free_name(name, taken.__contains__)
            taken.add(folded)
            connection.execute(
                f"UPDATE {table} SET {column} = ?, folded = ? WHERE rowid = ?",
                (free, folded, row),
            )


def _free_name(name: str, is_taken: Callable[[str], bool]) -> tuple[str, str]:
    """The name, or the most similar one that can be taken, and its folded form."""
    try:
        folded = fold_name(name)
    except GalleryError:
        name = written_out(name)[:LONGEST_NAME] or "unnamed"
        folded = fold_name(name)
    if not is_taken(folded):
        return name, folded
    numbered = (f"{name[: LONGEST_NAME - 10]} ({number})" for number in count(2))
    return next((one, fold_name(one)) for one in numbered if not is_taken(fold_name(one)))
