"""The verb `idclip swap`: COCO and identity photos -> a release."""

from open_clip_idplugin.command_line.next_step import command
from webdataset_tools.contact_sheet import CONTACT_SHEET
from webdataset_tools.faceswap.manifest import MANIFEST_FILE
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.release_output import CAPTIONS_FILE
from webdataset_tools.faceswap.swap_release import build_release
from webdataset_tools.faceswap.swap_report import REPORT_FILE
from webdataset_tools.faceswap.swappers import KEEP_SKIN


def swap(
    coco: str,
    identities: str,
    output: str,
    swapper: str = "blend",
    swapper_model: str | None = None,
    keep_skin: float = KEEP_SKIN,
    faces: str = "insightface:buffalo_l",
    det_size: int | None = None,
    match: str = "gender,age_group",
    unknown: str = "any",
    attributes: str | None = None,
    image_attributes: str | None = None,
    people_per_image: int = 5,
    contexts: int = 4,
    shares: str = "70,10,20",
    train_images: int | None = None,
    val_images: int | None = None,
    test_images: int | None = None,
    min_face: int = 40,
    min_score: float = 0.5,
    min_inside: float = 0.7,
    photos_per_identity: int = 5,
    tries: int = 3,
    margin: float | None = None,
    min_similarity: float | None = None,
    max_original: float | None = None,
    checks: str = "photographs",
    max_turn: float = 35.0,
    max_covered: float = 0.2,
    min_sharpness: float = 0.12,
    max_patchiness: float = 5.4,
    max_pose: float = 20.0,
    max_light: float = 15.0,
    max_skin: float = 14.0,
    quality: int | None = None,
    workers: int = 2,
    distributor: str = "processes",
    seed: int = 0,
) -> None:
    """Make a COCO-PFS release: faces of identities swapped into COCO images; run it again to go on after an interruption.

    Folders and tables may be URLs that fsspec knows, such as s3://bucket/coco.

    Args:
        coco: COCO 2017's folder, with train2017/, val2017/ and annotations/.
        identities: folder of identity photos, <identity id>/*.jpg, with identity_meta.csv in it or beside it.
        output: folder of the release.
        swapper: blend (no weights), inswapper (needs --swapper-model), or package.module:function of another one.
        swapper_model: model file of the swapper, such as inswapper_128.onnx.
        keep_skin: share of the identity's own skin colour that blend keeps, from 0 (all from the scene) to 1 (seams may show).
        faces: face engine that finds, verifies and embeds faces; for inswapper the pack it was trained with.
        det_size: side of the square in which the face detector sees a picture; None takes the face engine's own.
        match: attributes that an image's person and an identity share, such as gender,ethnicity; '' matches everybody.
        unknown: any (people of whom a matched attribute is not known match everybody but children) or skip (they are left out).
        attributes: CSV of identities: identity_id and columns such as gender, ethnicity, age_group.
        image_attributes: CSV (image_id, ...) or JSON ({id: {...}}) of the same about the person in a COCO image.
        people_per_image: identities swapped into each image.
        contexts: least images an identity gets, where there are enough; fewer identities are used otherwise.
        shares: percentages of the identities for train, val and test; val2017's images are divided as val and test are.
        train_images: most COCO images of train; all that are usable when not given.
        val_images: the same of val.
        test_images: the same of test.
        min_face: smallest face, in pixels of its shorter side.
        min_score: least score of the detector for a face to count.
        min_inside: least share of the face that lies in the annotated person.
        photos_per_identity: most photos of a person that are used.
        tries: photos tried until the swapped face is recognised.
        margin: by how much the swapped face must be closer to the identity than to the original face (cosine); None takes half
            of the way from different people's mean to the threshold, by the face model's calibration.
        min_similarity: least cosine to the identity; None takes the calibration's threshold for a false match rate of 1e-3.
        max_original: cosine to the original face from which it is still that person; None takes the same threshold.
        checks: photographs (turned, covered and blurred faces, and pairs of different pose, light and colour are refused, by the
            bounds that follow; hair and background are left where they are) or none (drawn worlds).
        max_turn: degrees (about) by which a face may be turned to a side.
        max_covered: share of a face that may lie under hair, frames, hands or things.
        min_sharpness: least sharpness of a face, see docs/swap.md.
        max_patchiness: how far the skin's colour on an identity photo may stray from an even one, in Lab: patches of sun.
        max_pose: most degrees (about) between the turns of a face and of the photo that is put there.
        max_light: most difference between the two faces' falls of light, in lightness (0 to 100).
        max_skin: most difference between the person's skin and the face's, in units of Lab.
        quality: of the JPEGs, 1 to 100; None takes each original's own.
        workers: processes, or threads of a local Spark session.
        distributor: processes, or pyspark (the extra spark, and Java).
        seed: another seed gives another choice of people.
    """
    report = build_release(SwapOptions(**locals()))
    print("\n".join(report.lines()))
    print(
        f"wrote {output}: the release, {CAPTIONS_FILE}, {MANIFEST_FILE} and {REPORT_FILE}; "
        f"have a look at {output}/{CONTACT_SHEET}"
    )
    splits = [split for split, totals in report.splits.items() if totals.swaps]
    given = {"photos": identities, "faces": faces, "det_size": det_size}
    print(f"next: {command('shards', release=output, split=splits[0], **given, output='SHARDS')}")
