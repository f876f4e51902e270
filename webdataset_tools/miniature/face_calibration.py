"""Calibration of the miniature face pack: drawn faces -> FILE (`python -m webdataset_tools.miniature.face_calibration`).

Drawn people whom the pack was not trained on -> photos and scenes of every stratum -> scores of the detected faces. The file
that is shipped comes from the default options.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from open_clip_idplugin.faces import FaceEngine, load_face_engine
from open_clip_idplugin.faces.calibrating import calibrate_scores
from open_clip_idplugin.faces.calibration import Calibration
from open_clip_idplugin.faces.score_pairs import CollectedFaces, collect_scores
from webdataset_tools.miniature.face_samples import POOL, UNSEEN, draw_photo, draw_scene_face
from webdataset_tools.miniature.people import sample_person
from webdataset_tools.miniature.scenes import STRATA

_PHOTOS = 3  # of each person, beside one scene a stratum


def calibrate_pack(engine: FaceEngine, people: int = 200) -> Calibration:
    """Compare the best face of every picture of drawn people; pictures without a face are left out."""
    rows, owners = [], []
    for number in tqdm(range(UNSEEN, UNSEEN + people), desc="people", unit=""):
        for faces in engine.detect_many(_pictures(number)):
            if faces and faces[0].embedding is not None:
                rows.append(faces[0].embedding)
                owners.append(number)
    count = len(rows)
    boxes = np.zeros((count, 4), np.float32)
    found = CollectedFaces(np.stack(rows), np.array(owners, np.int64), np.arange(count), boxes)
    source = (
        f"{count} pictures of {people} drawn people: {_PHOTOS} photos and a scene of each stratum, {', '.join(STRATA)}"
    )
    return calibrate_scores(collect_scores(found), engine.model_id, source, faces=count, people=people)


def _pictures(number: int) -> Iterator[np.ndarray]:
    person = sample_person(number, POOL)
    for index in range(_PHOTOS):
        yield draw_photo(person, number, 2 * index).picture  # even numbers are people's own heads, as in a gallery
    for stratum in STRATA:
        yield draw_scene_face(person, number, 1, stratum).picture


def main(output: str, people: int = 200) -> None:
    """Write the calibration of the shipped pack.

    Args:
        output: the JSON file.
        people: drawn people.
    """
    Path(output).write_text(calibrate_pack(load_face_engine("insightface:miniature"), people).to_json(), "utf-8")


if __name__ == "__main__":
    from open_clip_idplugin.cli import main_of

    main_of(main, "python -m webdataset_tools.miniature.face_calibration")
