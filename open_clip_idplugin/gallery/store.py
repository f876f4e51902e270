"""The people of a gallery: name + face embeddings of a few photos -> a unit mean embedding under that name.

Role: what queries, verbs and the service ask of a gallery. The file holds biometric data: permission 0600, overwritten
on deletion (`secure_delete`, VACUUM), and no embedding is ever printed or logged. All embeddings of a gallery come from
one face model, because vectors of different models must never be compared.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from open_clip_idplugin.faces.model_identity import same_model
from open_clip_idplugin.gallery.erasure import Erasure, count_left, files_of
from open_clip_idplugin.gallery.errors import GalleryError
from open_clip_idplugin.gallery.file import GalleryFile
from open_clip_idplugin.gallery.person_names import display_name, fold_name, printable, written_out
from open_clip_idplugin.gallery.rows import (
    Person,
    PhotoFace,
    find_person,
    read_details,
    read_face_model,
    read_person,
    read_photos,
    read_secrets,
    read_vector,
    require_face_model,
    require_no_alias,
    unit_rows,
    write_details,
)


class Gallery(GalleryFile):
    """People by name. Every call opens the file anew: one object serves threads and sees what others enroll."""

    @property
    def model_id(self) -> str | None:
        """The face model that every embedding comes from; None while nobody has been enrolled."""
        if not self.path.exists():
            return None
        with self._reading() as connection:
            return read_face_model(connection)[0]

    @property
    def embedding_size(self) -> int | None:
        """Numbers of every embedding; None while nobody has been enrolled."""
        if not self.path.exists():
            return None
        with self._reading() as connection:
            return read_face_model(connection)[1]

    def require_model(self, model_id: str | None) -> None:
        """Refuse another face model than the gallery's, before anything is done with it.

        Raises:
            GalleryError: with both ids.
        """
        known = self.model_id
        if not same_model(known, model_id):
            raise GalleryError(
                f"the gallery '{self.path}' was made with the face model '{known}', whose embeddings cannot be compared "
                f"with those of '{model_id}': use that face model, or another gallery file"
            )

    def enroll(
        self,
        name: str,
        embeddings: npt.ArrayLike,
        model_id: str,
        photos: Sequence[str] | None = None,
        qualities: Sequence[float] | None = None,
        crops: Sequence[bytes | None] | None = None,
        details: Mapping[str, str | None] | None = None,
    ) -> Person:
        """Add photos to a person, who is created if the name is new. A photo that is already there is not counted
        twice.

        Args:
            name: compared without regard to case, Unicode form and spacing.
            embeddings: [K, D] (or [D]) float, face embeddings of K photos; each is scaled to unit length.
            model_id: face model of the embeddings; must be the gallery's.
            photos: K labels for listing, e.g. file names; what cannot be seen in them is written out.
            qualities: K weights above 0 for the mean; all 1 where missing.
            crops: K JPEGs of the faces (or None each), kept for `cover`.
            details: fields of `Details` to change; None leaves one as it is.

        Raises:
            GalleryError: wrong shape, not finite, another face model or size than the gallery's, or a bad name.
        """
        rows = unit_rows(np.atleast_2d(np.asarray(embeddings, dtype=np.float32)))
        labels = [written_out(label) for label in photos] if photos is not None else [""] * len(rows)
        if len(labels) != len(rows):
            raise GalleryError(f"{len(labels)} photo labels were given for {len(rows)} embeddings; give one for each")
        weights = [float(weight) for weight in qualities] if qualities is not None else [1.0] * len(rows)
        pictures = list(crops) if crops is not None else [None] * len(rows)
        if not len(weights) == len(pictures) == len(rows) or not all(0 < weight < np.inf for weight in weights):
            raise GalleryError(f"give one quality above 0 and one crop for each of the {len(rows)} embeddings")
        folded, display = fold_name(name), display_name(name)
        with self._writing(create=True) as connection:
            require_face_model(connection, model_id, rows.shape[1], self.path)
            require_no_alias(connection, folded, display)
            connection.execute("INSERT OR IGNORE INTO people (name, folded) VALUES (?, ?)", (display, folded))
            person = find_person(connection, name)
            connection.executemany(
                "INSERT OR IGNORE INTO photos (person, label, embedding, quality, crop) VALUES (?, ?, ?, ?, ?)",
                [
                    (person, label, row.astype("<f4").tobytes(), weight, picture)
                    for label, row, weight, picture in zip(labels, rows, weights, pictures)
                ],
            )
            if details:
                write_details(connection, person, read_details(connection, person).changed(**details))
            return read_person(connection, person)

    def person(self, name: str) -> Person:
        """The person of a name or alias."""
        with self._reading() as connection:
            return read_person(connection, find_person(connection, name))

    def edit(self, name: str, **details: str | None) -> Person:
        """Change fields of a person's `Details`: None leaves one as it is, an empty text takes it away."""
        with self._writing(rebuild=True) as connection:
            person = find_person(connection, name)
            write_details(connection, person, read_details(connection, person).changed(**details))
            return read_person(connection, person)

    def people(self) -> list[Person]:
        """Everybody enrolled, in order of name."""
        if not self.path.exists():
            return []
        with self._reading() as connection:
            rows = connection.execute("SELECT id FROM people ORDER BY folded").fetchall()
            return [read_person(connection, person) for (person,) in rows]

    def names(self) -> list[str]:
        """Names of everybody enrolled, in order."""
        return [person.name for person in self.people()]

    def names_and_aliases(self) -> dict[str, str]:
        """Every name and alias -> the person's name, as `named_people.find_people` takes them."""
        if not self.path.exists():
            return {}
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT name, name FROM people UNION ALL SELECT alias, name FROM aliases JOIN people ON person = people.id"
            ).fetchall()
        return dict(rows)

    def add_alias(self, name: str, alias: str) -> Person:
        """Let a person be called something else as well; refuses what is somebody's name or alias."""
        folded, display = fold_name(alias), display_name(alias)
        with self._writing() as connection:
            person = find_person(connection, name)
            require_no_alias(connection, folded, display)
            if connection.execute("SELECT 1 FROM people WHERE folded = ?", (folded,)).fetchone():
                raise GalleryError(f"'{display}' is already enrolled: choose another alias")
            connection.execute(
                "INSERT INTO aliases (person, alias, folded) VALUES (?, ?, ?)", (person, display, folded)
            )
            return read_person(connection, person)

    def remove_alias(self, name: str, alias: str) -> Person:
        """Take an alias away from a person; no byte of it stays in the file."""
        with self._writing(rebuild=True) as connection:
            person = find_person(connection, name)
            removed = connection.execute(
                "DELETE FROM aliases WHERE person = ? AND folded = ?", (person, fold_name(alias))
            ).rowcount
            if not removed:
                raise GalleryError(f"'{printable(alias)}' is no alias of '{read_person(connection, person).name}'")
            return read_person(connection, person)

    def embedding(self, name: str) -> npt.NDArray[np.float32]:
        """The person's [D] float32 unit vector: the quality-weighted mean of the photos', scaled to unit length.

        Raises:
            ConsentExpired: the person is not searched for any more.
        """
        photos = self._photos_for_queries(name)
        weights = np.array([photo.quality for photo in photos], np.float32)
        return unit_rows(np.average([photo.embedding for photo in photos], axis=0, weights=weights)[None])[0]

    def embeddings(self, name: str) -> npt.NDArray[np.float32]:
        """[K, D] float32 unit rows, one for each of the person's photos; refuses as `embedding` does."""
        return np.stack([photo.embedding for photo in self._photos_for_queries(name)])

    def means(self) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Names and [P, D] unit rows (as `embedding`) of everybody whose consent has not expired."""
        if not self.path.exists():
            return [], np.zeros((0, 0), np.float32)
        sums: dict[int, npt.NDArray[np.float32]] = {}
        with self._reading() as connection:
            size = read_face_model(connection)[1]
            for person, blob, quality in connection.execute("SELECT person, embedding, quality FROM photos"):
                vector = read_vector(blob, quality, size)
                sums[person] = sums.get(person, np.float32(0)) + np.float32(quality) * vector
            people = {person: read_person(connection, person) for person in sorted(sums)}
        valid = [person for person, found in people.items() if not found.details.expired]
        rows = unit_rows(np.stack([sums[person] for person in valid])) if valid else np.zeros((0, 0), np.float32)
        return [people[person].name for person in valid], rows

    def cover(self, name: str) -> bytes | None:
        """JPEG of the person's best face; None where no crop was kept."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT crop FROM photos WHERE person = ? AND crop IS NOT NULL ORDER BY quality DESC, rowid LIMIT 1",
                (find_person(connection, name),),
            ).fetchone()
        return row[0] if row is not None else None

    def photos(self, name: str) -> list[PhotoFace]:
        """What is kept of the person's photos, also where the consent has expired: for exports and pages, not for queries."""
        with self._reading() as connection:
            return read_photos(connection, find_person(connection, name))

    def _photos_for_queries(self, name: str) -> list[PhotoFace]:
        with self._reading() as connection:
            person = find_person(connection, name)
            read_details(connection, person).require_valid(read_person(connection, person).name)
            return read_photos(connection, person)

    def rename(self, old: str, new: str) -> Person:
        """Give a person another name; refuses a name that somebody else has."""
        folded, display = fold_name(new), display_name(new)
        with self._writing(rebuild=True) as connection:
            person = find_person(connection, old)
            require_no_alias(connection, folded, display)
            taken = connection.execute("SELECT id FROM people WHERE folded = ?", (folded,)).fetchone()
            if taken is not None and taken[0] != person:
                raise GalleryError(f"'{display}' is already enrolled: choose another name or forget that person first")
            connection.execute("UPDATE people SET name = ?, folded = ? WHERE id = ?", (display, folded, person))
            return read_person(connection, person)

    def merge(self, name: str, into: str) -> Person:
        """Give all photos and aliases of `name` to the person `into`; the name itself becomes an alias."""
        with self._writing(rebuild=True) as connection:
            gone, person = find_person(connection, name), find_person(connection, into)
            if gone == person:
                raise GalleryError(f"'{printable(name)}' and '{printable(into)}' are the same person already")
            connection.execute("UPDATE OR IGNORE photos SET person = ? WHERE person = ?", (person, gone))
            connection.execute("UPDATE aliases SET person = ? WHERE person = ?", (person, gone))
            connection.execute(
                "INSERT INTO aliases (person, alias, folded) SELECT ?, name, folded FROM people WHERE id = ?",
                (person, gone),
            )
            joined = read_details(connection, person).joined(read_details(connection, gone))
            write_details(connection, person, joined)
            connection.execute("DELETE FROM people WHERE id = ?", (gone,))
            return read_person(connection, person)

    def forget(self, name: str) -> Erasure:
        """Erase a person: rows are overwritten, the file is rebuilt, and its bytes are searched for what was there."""
        with self._writing(rebuild=True) as connection:
            person = find_person(connection, name)
            gone = read_person(connection, person)
            secrets = read_secrets(connection, person)
            connection.execute("DELETE FROM people WHERE id = ?", (person,))
            # An empty gallery may start again with another face model.
            connection.execute("DELETE FROM face_model WHERE NOT EXISTS (SELECT 1 FROM people)")
        with self._writing() as connection:  # nobody writes while the bytes are searched for what nobody else has
            kept = read_secrets(connection, None)
            files = files_of(self.path)
            left_words, left_texts = count_left(files, secrets, kept)
        crops = len(secrets.blobs) - gone.photos
        names = tuple(file.name for file in files)
        return Erasure(gone.name, gone.photos, crops, len(gone.aliases), names, left_words, left_texts)
