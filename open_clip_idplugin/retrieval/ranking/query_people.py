"""Query people: photos, embeddings and enrolled names of a request -> one face embedding each.

Role: what a request says about people -> [F, D] float32. Knows the gallery and the face engine of a service, and
refuses vectors of different face models, which mean nothing to each other.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from open_clip_idplugin.errors import Busy, IdClipError
from open_clip_idplugin.faces.model_identity import require_same_model
from open_clip_idplugin.gallery import Gallery, GalleryError, fold_name
from open_clip_idplugin.gallery.named_people import Hint, find_people
from open_clip_idplugin.pictures.bounded_decoding import decode_picture
from open_clip_idplugin.queries.person_words import SOMEBODY

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face, FaceEngine
    from open_clip_idplugin.retrieval.face_index.reading import FaceIndex  # which loads faiss
    from open_clip_idplugin.retrieval.ranking.knn_request import KnnRequest
    from open_clip_idplugin.retrieval.ranking.ranking_request import PeopleClause

_NO_ENGINE = "this service was started without a face model, so that it cannot read photos: start it with --faces"


@dataclass(frozen=True, eq=False)
class EnrolledPerson:
    """What a query takes of an enrolled person: the embedding [D] float32, and what the person is in a text."""

    embedding: np.ndarray
    word: str


class PersonError(IdClipError):
    """A person of a query that cannot be turned into a face embedding."""


class People:
    """Turns photos and names into face embeddings; either part may be absent from a service."""

    def __init__(self, gallery: Gallery | None = None, engine: "FaceEngine | None" = None) -> None:
        """Take what there is.

        Raises:
            GalleryError: gallery and engine come from different face models.
        """
        self.gallery = gallery
        self._engine = engine
        if engine is not None and gallery is not None:
            gallery.require_model(engine.model_id)

    @property
    def face_model(self) -> str | None:
        """The face model of photos and enrolled people; None where there are neither."""
        if self._engine is not None:
            return self._engine.model_id
        return self.gallery.model_id if self.gallery is not None else None

    @property
    def face_size(self) -> int | None:
        """D of the face embeddings of photos and enrolled people; None where there are neither."""
        if self._engine is not None:
            return self._engine.embedding_size
        return self.gallery.embedding_size if self.gallery is not None else None

    @property
    def reads_photos(self) -> bool:
        """Whether there is a face engine."""
        return self._engine is not None

    def find_faces(self, photo: bytes) -> "tuple[list[Face], int, int, str]":
        """All faces of a picture, best detection first; its width and height in pixels; and the face model.

        Raises:
            PersonError: there is no face engine, or the picture cannot be read.
        """
        from open_clip_idplugin.faces import load_picture

        if self._engine is None:
            raise PersonError(_NO_ENGINE)
        try:
            pixels = load_picture(decode_picture(photo))
            faces = self._engine.detect(pixels)
        except Busy:
            raise
        except IdClipError as error:
            raise PersonError(f"the photo: {error}") from None
        return faces, pixels.shape[1], pixels.shape[0], self._engine.model_id

    def names(self) -> dict[str, str]:
        """Every enrolled name and alias -> the name, for finding people in texts; empty without a gallery."""
        return {} if self.gallery is None else self.gallery.names_and_aliases()

    def one_state(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block this thread reads one state of the gallery; nothing slow belongs into it (see `GalleryFile`)."""
        return self.gallery.one_state() if self.gallery is not None else contextlib.nullcontext()

    def of_request(
        self, request: "KnnRequest", faces: "FaceIndex | None"
    ) -> "tuple[KnnRequest, AskedPeople, tuple[Hint, ...]]":
        """The request with enrolled names in its text as placeholders, everybody asked for, and words that may be names.

        All is one state of the gallery, which is then let go.

        Args:
            request: those of `faces` and `identities` come before the people of the text.
            faces: of the index.

        Raises:
            PersonError, GalleryError: somebody is not enrolled, or is not to be searched for.
            IdClipError: the faces of the index come from another model than the people's.
        """
        hints: tuple[Hint, ...] = ()
        with self.one_state():
            if request.text is not None and request.find_names:
                names = self.names()
                named = find_people(request.text, names)
                identities, hints = request.identities + named.identities, named.hints
                clause = _without_named(request.people, named.identities, names)
                request = request.model_copy(update={"text": named.text, "identities": identities, "people": clause})
            people = self.asked_for(request.enrolled)
        if faces is not None and (request.has_people or not request.people.empty):
            require_same_model(faces.model_id, people.face_model, "the faces of the index and the people of the query")
        return request, people, hints

    def asked_for(self, identities: Iterable[str]) -> "AskedPeople":
        """These people as one state of the gallery has them: the rest of a request is answered without reading it again.

        Raises:
            PersonError, GalleryError: somebody is not enrolled, or is not to be searched for.
        """
        with self.one_state():
            enrolled = {name: self._enrolled(name) for name in dict.fromkeys(identities)}
            return AskedPeople(self, enrolled, self.face_model, self.face_size)

    def word(self, name: str) -> str:
        """What an enrolled person is in a text that names nobody: the gallery's word, else "a person"."""
        return self._enrolled(name).word

    def embeddings(self, faces: Sequence[bytes | np.ndarray], identities: Sequence[str]) -> np.ndarray:
        """[F, D] float32: those of `faces` (photos or embeddings), then those of the enrolled `identities`.

        Raises:
            PersonError, GalleryError: in one sentence that says which one, and why not.
        """
        rows = [self._face(face, number) for number, face in enumerate(faces, 1)]
        rows += [self._enrolled(name).embedding for name in identities]
        if len({row.shape for row in rows}) > 1:
            raise PersonError("the face embeddings differ in size: give those of one face model")
        return np.stack(rows) if rows else np.zeros((0, self.face_size or 0), np.float32)

    def _face(self, face: bytes | np.ndarray, number: int) -> np.ndarray:
        if not isinstance(face, bytes):
            if self.face_size not in (None, face.size):
                raise PersonError(
                    f"the embedding of face {number} has {face.size} numbers, but the faces of this service have "
                    f"{self.face_size}"
                )
            return face
        if self._engine is None:
            raise PersonError(f"{_NO_ENGINE}, or send an embedding or an enrolled name")
        try:
            found = self._engine.the_face(decode_picture(face), policy="largest")
        except Busy:
            raise
        except IdClipError as error:
            raise PersonError(f"face {number}: {error}") from None
        if found.embedding is None:
            raise PersonError(f"face {number}: no embedding can be made of this face; send a clearer photo")
        return found.embedding

    def _enrolled(self, name: str) -> EnrolledPerson:
        if self.gallery is None:
            raise PersonError(
                "this service was started without a gallery, so that it knows nobody by name: start it with --gallery"
            )
        if not self.gallery.path.exists():  # the gallery's own message would tell a stranger where it lies
            raise PersonError("nobody is enrolled yet: enroll the person first with `idclip enroll`")
        with self.gallery.one_state():
            return EnrolledPerson(self.gallery.embedding(name), self.gallery.person(name).details.word or SOMEBODY)


class AskedPeople(People):
    """The people of one request, as they were when it was read; knows no other enrolled people."""

    def __init__(
        self, people: People, enrolled: Mapping[str, EnrolledPerson], face_model: str | None, face_size: int | None
    ) -> None:
        """See `People.asked_for`."""
        self.gallery, self._engine = people.gallery, people._engine
        self._known, self._face_model, self._face_size = dict(enrolled), face_model, face_size

    @property
    def face_model(self) -> str | None:
        """The face model of photos and enrolled people; None where there were neither."""
        return self._face_model

    @property
    def face_size(self) -> int | None:
        """D of the face embeddings of photos and enrolled people; None where there were neither."""
        return self._face_size

    def _enrolled(self, name: str) -> EnrolledPerson:
        return self._known[name]


def _without_named(clause: "PeopleClause", identities: Sequence[str], names: Mapping[str, str]) -> "PeopleClause":
    """The clause without those of `all` whom the text names already: one person, and not two different faces."""
    if not identities or not clause.all:
        return clause
    people = {fold_name(spelling): person for spelling, person in names.items()}
    kept = [one for one in clause.all if one.identity is None or people.get(fold_name(one.identity)) not in identities]
    return clause.model_copy(update={"all": tuple(kept)})


@contextlib.contextmanager
def without_path(gallery: Gallery | None) -> Iterator[None]:
    """The gallery's sentences, which tell its owner where it lies, without the place: here strangers read them."""
    try:
        yield
    except Busy:
        raise
    except GalleryError as error:
        path = str(gallery.path) if gallery is not None else ""
        raise IdClipError(str(error).replace(path, "gallery") if path else str(error)) from None
