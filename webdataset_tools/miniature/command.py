"""The verb `idclip miniature`: sizes and a seed -> a drawn release, or the world before a swap."""

from dataclasses import replace
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from webdataset_tools.contact_sheet import CONTACT_SHEET
from webdataset_tools.miniature.release_plan import SIZES, ReleaseSize, SplitSize
from webdataset_tools.miniature.release_writer import write_release
from webdataset_tools.miniature.unswapped_plan import PHOTOS_PER_PERSON, swap_command
from webdataset_tools.miniature.unswapped_writer import write_unswapped


def miniature(
    output: str,
    size: str = "demo",
    unswapped: bool = False,
    train_images: int | None = None,
    val_images: int | None = None,
    test_images: int | None = None,
    train_people: int | None = None,
    val_people: int | None = None,
    test_people: int | None = None,
    faces_per_scene: int | None = None,
    photos_per_person: int | None = None,
    face_model: str = "insightface:miniature",
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Draw a small COCO-PFS release: people in scenes, captions, identity photos, face embeddings. No downloads.

    The same settings give the same release; a stopped run goes on where it stopped.

    Args:
        output: folder of the release, new or of a stopped run.
        unswapped: draw the scenes with their own people, in COCO's layout, for `idclip swap` to make such a release of;
            the numbers are then those of the release, and more scenes are drawn than it needs.
        size: tiny (350 images), demo (5,250) or benchmark (14,000); the numbers below override it.
        train_images: swapped images of the training split (a multiple of faces_per_scene).
        val_images: of the validation split.
        test_images: of the test split.
        train_people: identities to draw from, disjoint from those of the other splits.
        val_people: of the validation split.
        test_people: of the test split.
        faces_per_scene: people swapped into each scene (5).
        photos_per_person: identity photos, which are no scene pictures (3 or 4; 8 unswapped, where photos are swapped in).
        face_model: face engine of the embeddings.
        seed: another seed draws another world.
        workers: processes.
    """
    if size not in SIZES:
        raise IdClipError(f"Unknown size {size!r} of a miniature: use one of {', '.join(SIZES)}.")
    preset = SIZES[size]
    photos = PHOTOS_PER_PERSON if unswapped else preset.photos_per_person
    chosen = replace(
        preset,
        train=_override(preset.train, train_images, train_people),
        val=_override(preset.val, val_images, val_people),
        test=_override(preset.test, test_images, test_people),
        faces_per_scene=preset.faces_per_scene if faces_per_scene is None else faces_per_scene,
        photos_per_person=photos if photos_per_person is None else photos_per_person,
    )
    if workers < 1:
        raise IdClipError(f"workers is {workers}: give at least 1.")
    if not 0 <= seed < 1 << 20:
        raise IdClipError(f"seed is {seed}: give 0 to {(1 << 20) - 1}.")
    folder = Path(output)
    if unswapped:
        _write_unswapped(folder, chosen, seed, workers, face_model)
    else:
        _write_release(folder, chosen, seed, workers, face_model)


def _write_release(folder: Path, size: ReleaseSize, seed: int, workers: int, face_model: str) -> None:
    summary = write_release(folder, size, seed, workers, face_model)
    for split, images in summary.images.items():
        print(f"{split}: {images} images of {summary.people[split]} people")
    _print_end(folder, summary.strata, "release")
    print(
        f"next: idclip shards --release {folder} --split train --output SHARDS --photos {folder}/vggface_test_kaggle/photos"
    )


def _write_unswapped(folder: Path, size: ReleaseSize, seed: int, workers: int, face_model: str) -> None:
    world, summary = write_unswapped(folder, size, seed, workers)
    for split, scenes in summary.scenes.items():
        print(f"{split}: {scenes} scenes, {summary.people[split]} identities")
    _print_end(folder, summary.strata, "unswapped world")
    print(f"next: {swap_command(folder, world, face_model, seed)}")


def _print_end(folder: Path, strata: dict[str, float], what: str) -> None:
    print("strata: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in strata.items()))
    print(f"{what} written to {folder}; have a look at {folder / CONTACT_SHEET}")


def _override(size: SplitSize, images: int | None, people: int | None) -> SplitSize:
    return SplitSize(size.images if images is None else images, size.people if people is None else people)
