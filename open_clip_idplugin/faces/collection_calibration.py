"""Calibration of a collection: a face table -> whether its scores fit what is known of the face model.

Role: what happens unasked when faces join an index. A model that nobody has measured is measured on the collection itself; where
it was measured, a collection of other scores is reported.
"""

from pathlib import Path

from open_clip_idplugin.faces.calibrating import calibrate_scores, describe_genuines, misfit
from open_clip_idplugin.faces.calibration import FMR_NAMES, Calibration, CalibrationError
from open_clip_idplugin.faces.calibration_files import FILE, load_calibration, user_file, write_calibration
from open_clip_idplugin.faces.face_table import FaceTable
from open_clip_idplugin.faces.score_pairs import LEAST_FACE, CollectedFaces, collect_scores


def calibrate_collection(table: FaceTable) -> tuple[Calibration | None, str | None]:
    """Measure a face model of which nothing is known on a collection without labels, or compare the collection.

    Returns:
        The new calibration, None where the model has one or the collection is too small; and a sentence for people, None where
        there is nothing to say.
    """
    known = load_calibration(table.model_id)
    try:
        faces = CollectedFaces.of_table(table)
        scores = collect_scores(faces, groups=known.assumed)
        if not known.assumed:
            return None, misfit(known, scores.impostors)
        source = f"{len(faces)} faces of '{table.info.input}', without names"
        measured = calibrate_scores(scores, table.model_id, source, faces=len(faces), least_face=LEAST_FACE)
    except CalibrationError as error:
        if not known.assumed:
            return None, None
        reason = f"nobody has measured the face model '{table.model_id}', and this collection cannot: {error}"
        return None, f"{reason}; until then {known.source}"
    return measured, (
        f"the face model '{table.model_id}' was measured on this collection: names from cosine "
        f"{measured.threshold(FMR_NAMES):.3f} on; one person: {describe_genuines(measured.genuines)}"
    )


def calibrate_beside(table: FaceTable, folder: Path) -> str | None:
    """Keep what was measured beside the faces of an index, and for this user where nothing of the model is there.

    Returns a sentence for people; None where there is nothing to say, or `folder` has a calibration already.
    """
    if (folder / FILE).exists():
        return None
    measured, said = calibrate_collection(table)
    if measured is not None:
        write_calibration(folder / FILE, measured)
        if not user_file(measured.model_id).exists():  # enrolling and grouping know as well
            write_calibration(user_file(measured.model_id), measured)
    return said
