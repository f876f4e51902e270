"""The verbs `idclip export_people` and `idclip import_people`."""

from pathlib import Path

from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.exchange import export_people as write_zip
from open_clip_idplugin.gallery.exchange import import_people as read_zip


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
