"""People over HTTP: checked JSON, gallery, face engine and served indices -> who is enrolled, who is in a picture, what changes.

The addresses lie below `/people/`, for the search page. All take POST with JSON and nothing else, which other origins' pages
cannot send unasked (see `access`); what changes the gallery is refused where the service is read-only. Nothing is kept between
requests: the gallery is read anew, so that whoever was enrolled or forgotten a moment ago is known or unknown at once. Answers
hold names, notes and small pictures of faces, never an embedding.
"""

import base64
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import flask

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Gallery, GalleryError, Person, fold_name
from open_clip_idplugin.gallery.enrolment import enroll_faces, to_photo_face
from open_clip_idplugin.gallery.likeness import find_likenesses
from open_clip_idplugin.gallery.rows import PhotoFace
from open_clip_idplugin.retrieval.ranking.answerable import choose_index
from open_clip_idplugin.retrieval.ranking.query_people import People, PersonError, without_path
from open_clip_idplugin.retrieval.ranking.request_fields import BadRequest, Request
from open_clip_idplugin.retrieval.service.answers import answer, json_body
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.people_requests import (
    EnrollRequest,
    ForgetRequest,
    InImageRequest,
    InPhotoRequest,
    ListRequest,
    RenameRequest,
)
from open_clip_idplugin.retrieval.service.picture_faces import (
    faces_in_image,
    faces_in_photo,
    indexed_face,
    require_row,
)
from open_clip_idplugin.retrieval.service.served_indices import ServedIndices

if TYPE_CHECKING:
    from open_clip_idplugin.faces import Face

_View = tuple[str, type[Request], Callable[[Any], dict[str, Any]]]
_READ_ONLY = "this service changes nobody: it was started with --read_only_people, or others reach it without a token"


class PeopleService:
    """Answers about the people of one service; safe to use from several threads."""

    def __init__(self, people: People, indices: ServedIndices, limits: Limits) -> None:
        self._people = people
        self._indices = indices
        self._limits = limits

    def list_people(self, request: ListRequest) -> dict[str, Any]:
        """A page of the enrolled people, in order of name."""
        gallery = self._people.gallery
        with _without_paths(gallery), self._people.one_state():
            everybody = gallery.people() if gallery is not None else []
            if request.find is not None:
                everybody = [person for person in everybody if _is_called(person, request.find)]
            page = everybody[request.offset : request.offset + request.count]
            described = [describe(person) for person in page]
            if request.include_images and gallery is not None:
                for entry in described:
                    _add_cover(entry, gallery)
        return {"total": len(everybody), "people": described}

    def in_image(self, request: InImageRequest) -> dict[str, Any]:
        """The faces of an indexed image."""
        row = request.image_id
        resource = choose_index(self._indices.current(), request.indice_name)
        require_row(resource, row)
        with _without_paths(self._people.gallery):
            faces = faces_in_image(resource.faces, row, self._people.gallery, request.same_face)
        return {"id": row, "index_has_faces": resource.faces is not None, "faces": faces}

    def in_photo(self, request: InPhotoRequest) -> dict[str, Any]:
        """The faces of a photo that was sent."""
        faces, width, height, model_id = self._find(request.photo)
        with _without_paths(self._people.gallery):
            described = faces_in_photo(faces, width, height, model_id, self._people.gallery, request.same_face)
        return {"width": width, "height": height, "faces": described}

    def enroll(self, request: EnrollRequest) -> dict[str, Any]:
        """Give a person a face, of a photo or of an indexed image; `alike` names others whom it looks like."""
        gallery = self._writable()
        fold_name(request.name)
        face, model_id = self._face_to_enroll(request)
        with _without_paths(gallery):
            gallery.require_model(model_id)
            person = enroll_faces(gallery, request.name, [face], model_id, request.details)
            alike = find_likenesses(gallery, person.name, face.embedding[None])
        entry = describe(person)
        _add_cover(entry, gallery)
        return {
            "person": entry,
            "alike": [{"name": other.name, "similarity": round(other.cosine, 4)} for other in alike],
        }

    def rename(self, request: RenameRequest) -> dict[str, Any]:
        """Give a person another name."""
        gallery = self._writable()
        with _without_paths(gallery):
            self._require_somebody(gallery)
            return {"person": describe(gallery.rename(request.name, request.new_name))}

    def forget(self, request: ForgetRequest) -> dict[str, Any]:
        """Erase a person; says what was erased, and whether the gallery's bytes hold anything of it still."""
        gallery = self._writable()
        with _without_paths(gallery):
            self._require_somebody(gallery)
            gone = gallery.forget(request.name)
        fields = ("name", "photos", "crops", "aliases", "clean")
        return {field: getattr(gone, field) for field in fields}

    def _face_to_enroll(self, request: EnrollRequest) -> tuple[PhotoFace, str]:
        if request.image_id is not None:
            resource = choose_index(self._indices.current(), request.indice_name)
            require_row(resource, request.image_id)
            return indexed_face(resource, request.image_id, request.face or 0)
        assert request.photo is not None  # the parser takes exactly one of the two
        faces, _, _, model_id = self._find(request.photo)
        usable = [face for face in faces if face.embedding is not None]
        if request.face is not None:
            if request.face >= len(faces):
                raise BadRequest(f"{len(faces)} faces were found in the photo, not one of number {request.face}")
            usable = [faces[request.face]]
        if not usable:
            raise PersonError("no face was found in the photo: send a clearer, larger picture of the face")
        if len(usable) > 1:
            raise PersonError(f"the photo shows {len(usable)} faces: say in 'face' which one is meant")
        return to_photo_face(request.photo_label, usable[0], model_id), model_id

    def _find(self, photo: bytes) -> "tuple[list[Face], int, int, str]":
        """Faces of a photo, its width and height, and the face model."""
        self._limits.check_picture(photo, "'photo'")
        return self._people.find_faces(photo)

    def _writable(self) -> Gallery:
        if self._people.gallery is None:
            raise PersonError("this service was started without a gallery: start it with --gallery")
        return self._people.gallery

    @staticmethod
    def _require_somebody(gallery: Gallery) -> None:
        if not gallery.path.exists():
            raise PersonError("nobody is enrolled yet")


def describe(person: Person) -> dict[str, Any]:
    """A person as answers show them."""
    details = {**vars(person.details), "expired": person.details.expired}
    return {"name": person.name, "photos": person.photos, "aliases": list(person.aliases), **details}


def _add_cover(entry: dict[str, Any], gallery: Gallery) -> None:
    with contextlib.suppress(GalleryError):  # forgotten since the list was read
        cover = gallery.cover(entry["name"])
        if cover is not None:
            entry["image"] = base64.b64encode(cover).decode()


def _is_called(person: Person, part: str) -> bool:
    """Whether the name or an alias holds this text, compared as names are."""
    try:
        folded = fold_name(part)
    except GalleryError:
        return False
    return any(folded in fold_name(name) for name in (person.name, *person.aliases))


@contextlib.contextmanager
def _without_paths(gallery: Gallery | None) -> Iterator[None]:
    """Errors of the gallery and its disk, for strangers (see `without_path`)."""
    try:
        with without_path(gallery):
            yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise IdClipError(f"the gallery cannot be read or written: {reason}") from None


def add_people(app: flask.Flask, service: PeopleService, may_edit: bool) -> None:
    """Serve everything about people; `may_edit`: also what changes the gallery."""
    reading: list[_View] = [
        ("list", ListRequest, service.list_people),
        ("in-image", InImageRequest, service.in_image),
        ("in-photo", InPhotoRequest, service.in_photo),
    ]
    editing: list[_View] = [
        ("enroll", EnrollRequest, service.enroll),
        ("rename", RenameRequest, service.rename),
        ("forget", ForgetRequest, service.forget),
    ]
    for name, schema, work in reading:
        _add_view(app, name, schema, work, True)
    for name, schema, work in editing:
        _add_view(app, name, schema, work, may_edit)


def _add_view(
    app: flask.Flask, name: str, schema: type[Request], work: Callable[[Any], dict[str, Any]], allowed: bool
) -> None:
    def view() -> Any:
        if not allowed:
            return {"message": _READ_ONLY}, 403
        if flask.request.mimetype != "application/json":
            flask.abort(415)
        return answer(lambda: work(schema.read(json_body())))

    app.add_url_rule(f"/people/{name}", f"people-{name}", view, methods=["POST"])
