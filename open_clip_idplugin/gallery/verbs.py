"""The gallery's verbs: `idclip enroll`, `list`, `edit`, `rename`, `alias`, `merge`, `forget`, `export_people`, `import_people`.

Role: photos of people on disk -> named mean embeddings in the gallery, and back out again. Prints names and counts,
never an embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import Details, Gallery, fold_name
from open_clip_idplugin.gallery.details import DETAIL_FLAGS, with_detail_flags
from open_clip_idplugin.gallery.enrolment import enroll_faces, read_photo
from open_clip_idplugin.gallery.likeness import find_likenesses
from open_clip_idplugin.gallery.rows import PhotoFace
from open_clip_idplugin.queries.person_words import noun_phrase

if TYPE_CHECKING:
    from open_clip_idplugin.faces import FaceEngine, FacePolicy

from open_clip_idplugin.gallery.exchange import export_people as write_zip
from open_clip_idplugin.gallery.exchange import import_people as read_zip


@with_detail_flags
def enroll(
    name: str,
    *photos: str,
    gallery: str | None = None,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    face: str = "only",
    crops: bool = True,
    same_face: float | None = None,
    details: Mapping[str, str | None] = MappingProxyType({}),
) -> None:
    """Remember a person from one or more photos; more photos can be added later under the same name.

    Args:
        name: how the person is called in queries (case and accents' encoding do not matter).
        photos: picture files that show the person's face.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        faces: face model, e.g. insightface:buffalo_l, insightface:miniature or insightface:<folder>.
        det_size: side of the square in which the face detector sees a photo; None takes the face engine's own.
        face: which face of a photo is meant: only (refuse photos with several), largest or center.
        crops: keep a small picture of each face in the gallery; --nocrops keeps embeddings alone.
        same_face: warn when a photo has this cosine or more with a person of another name; above 1 never warns.
            By default the one that different people reach once in 10,000 pairs (see idclip calibrate).
    """
    fold_name(name)  # refuse a bad name before the face model is loaded
    if not photos:
        raise IdClipError(f"no photo was given for '{name}': idclip enroll NAME PHOTO [PHOTO ...]")
    from open_clip_idplugin.faces import load_face_engine

    policy = face_policy(face)
    engine = load_face_engine(faces, det_size=det_size)
    enroll_photos(Gallery(gallery), name, photos, engine, policy, crops, details, same_face)


def face_policy(face: str) -> "FacePolicy":
    """The policy of a flag's text; refuses what is none."""
    from open_clip_idplugin.faces import FacePolicy

    if face not in get_args(FacePolicy):
        raise IdClipError(f"--face '{face}' is not known: choose one of {', '.join(get_args(FacePolicy))}")
    return cast("FacePolicy", face)


def enroll_photos(
    gallery: Gallery,
    name: str,
    photos: Sequence[str],
    engine: "FaceEngine",
    policy: "FacePolicy" = "only",
    crops: bool = True,
    details: Mapping[str, str | None] | None = None,
    same_face: float | None = None,
) -> None:
    """Embed the face of every photo and enroll the good ones; each bad photo costs one printed sentence.

    `crops` keeps a small picture of each face, for pages that show who is enrolled.

    Raises:
        IdClipError: no photo could be used, or the gallery refuses the embeddings.
    """
    gallery.require_model(engine.model_id)
    faces = []
    for photo in photos:
        try:
            faces.append(read_photo(photo, engine, policy, crops))
        except IdClipError as error:
            print(f"{Path(photo).name}: left out, {error}")
    if not faces:
        raise IdClipError(f"nobody was enrolled: none of the {len(photos)} photos of '{name}' shows a usable face")
    person = enroll_faces(gallery, name, faces, engine.model_id, details)
    print(f"{person.name}: {len(faces)} of {len(photos)} photos used, {person.photos} in the gallery {gallery.path}")
    for line in same_face_warnings(gallery, person.name, faces, same_face):
        print(line)
    listed = f'"{person.name}"' if "," in person.name else person.name  # the flag takes several
    places = {"index": "DIR", "model": "MODEL", "checkpoint": "FILE"}
    print(f"Next: {command('search', '[TOK] ...', identities=listed, **places, gallery=gallery.path)}")


def same_face_warnings(
    gallery: Gallery, name: str, faces: Sequence[PhotoFace], threshold: float | None = None
) -> list[str]:
    """A sentence for everybody of another name whom the photos of `name` look like."""
    rows = np.stack([face.embedding for face in faces])
    return [
        f"Warning: photos of '{name}' look like '{other.name}' (cosine {other.cosine:.2f}). If they are one person: "
        f'idclip merge "{name}" "{other.name}"'
        for other in find_likenesses(gallery, name, rows, threshold)
    ]


def list_people(gallery: str | None = None) -> None:
    """List the enrolled people: photos, aliases, consent and notes of each one.

    Args:
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    opened = Gallery(gallery)
    people = opened.people()
    if not people:
        print(f"Nobody is enrolled in {opened.path}.\nNext: idclip enroll NAME PHOTO [PHOTO ...]")
        return
    width = max(len(person.name) for person in people)
    for person in people:
        photos = f"{person.photos:>3} photo{'s' if person.photos != 1 else ''}"
        aliases = f", also called {', '.join(person.aliases)}" if person.aliases else ""
        print(f"{person.name:<{width}}  {photos}{aliases}, {_consent(person.details)}")
        if person.details.word:
            print(f"{'':<{width}}  in words: {person.details.word}")
        if person.details.notes:
            print(f"{'':<{width}}  {' '.join(person.details.notes.split())}")
    print(f"{len(people)} people in {opened.path}, face model {opened.model_id}")


def _consent(details: Details) -> str:
    """The state of a consent in a few words."""
    if details.expired:
        return f"consent EXPIRED on {details.consent_until}: not searched for"
    words = [details.consent] if details.consent else []
    words += [f"of {details.consent_date}"] if details.consent_date else []
    words += [f"until {details.consent_until}"] if details.consent_until else []
    return f"consent {' '.join(words)}" if words else "no consent noted"


@with_detail_flags
def edit(name: str, gallery: str | None = None, details: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Change the notes, the consent or the word of an enrolled person; what is not given stays, an empty text takes away.

    Args:
        name: the person.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    if all(value is None for value in details.values()):
        flags = ", ".join(f"--{flag.name}" for flag in DETAIL_FLAGS)
        raise IdClipError(f"nothing to change was given for '{name}': use {flags}")
    person = Gallery(gallery).edit(name, **details)
    notes, word = person.details.notes or "none", noun_phrase(person.details.word)
    print(f"'{person.name}': {_consent(person.details)}; notes: {notes}; in words: {word}")


def rename(old: str, new: str, gallery: str | None = None) -> None:
    """Give an enrolled person another name.

    Args:
        old: the name so far.
        new: the name from now on.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    opened = Gallery(gallery)
    print(f"'{old}' is now '{opened.rename(old, new).name}' in {opened.path}")


def alias(name: str, alias: str, remove: bool = False, gallery: str | None = None) -> None:
    """Let an enrolled person be called something else as well, in texts and everywhere else.

    Args:
        name: the person.
        alias: the other name.
        remove: take the alias away instead.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    opened = Gallery(gallery)
    person = opened.remove_alias(name, alias) if remove else opened.add_alias(name, alias)
    print(
        f"'{person.name}' is {'also' if person.aliases else 'not'} called {', '.join(person.aliases) or 'anything else'}"
    )


def merge(name: str, into: str, gallery: str | None = None) -> None:
    """Join a person who was enrolled under two names; the first name becomes an alias of the second.

    Args:
        name: the name that becomes an alias.
        into: the name that stays.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    opened = Gallery(gallery)
    person = opened.merge(name, into)
    print(f"'{name}' is now an alias of '{person.name}', who has {person.photos} photos in {opened.path}")


def forget(name: str, gallery: str | None = None) -> None:
    """Erase an enrolled person completely, and search the gallery file's bytes for what was erased.

    Args:
        name: the person to forget.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    opened = Gallery(gallery)
    gone = opened.forget(name)
    print(f"'{gone.name}' was erased from {opened.path}: {gone.photos} face embeddings, {gone.crops} pictures of the")
    print(f"face, {gone.aliases} aliases, name, notes and consent; the file was rewritten.")
    if not gone.clean:
        raise IdClipError(
            f"{gone.left_words} pieces of embeddings or pictures and {gone.left_texts} texts are still in "
            f"{', '.join(gone.files)}: close the programs that use the gallery and run this verb for somebody else, "
            "or export the others with `idclip export_people`, delete the files and import them again"
        )
    print(f"Searched byte by byte afterwards: {', '.join(gone.files)}. Nothing of the person is left there.")
    print("Copies elsewhere (backups, photos, exports, results, faces of an indexed collection) are not touched.")


def export_people(output: str, *names: str, gallery: str | None = None) -> None:
    """Write enrolled people to one file for another gallery: embeddings, pictures, aliases, notes and consent.

    Args:
        output: the zip to write; only its owner can read it.
        names: whom; everybody where nobody is named.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    opened = Gallery(gallery)
    people = write_zip(opened, Path(output), names)
    photos = sum(person.photos for person in people)
    print(f"wrote {output}: {len(people)} people with {photos} photos, face model {opened.model_id}")
    print("It holds biometric data: keep it as private as the gallery; `idclip forget` does not reach it.")
    print(f"Next: idclip import_people {output} --gallery OTHER")


def import_people(source: str, gallery: str | None = None) -> None:
    """Enroll the people of an export; nobody who is in the gallery already is changed.

    Args:
        source: a zip of `idclip export_people`.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
    """
    opened = Gallery(gallery)
    enrolled, conflicts = read_zip(opened, Path(source))
    for person in enrolled:
        print(f"{person.name}: {person.photos} photos")
    for sentence in conflicts:
        print(sentence)
    print(f"{len(enrolled)} people were enrolled in {opened.path}, {len(conflicts)} left out")
    if conflicts:
        print("For those: rename or forget one of the two, or import into another gallery file.")
