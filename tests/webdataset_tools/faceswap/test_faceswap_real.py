"""Swaps of the real photographs that lie beside the project: what is refused, what is kept, and what stays of the file."""

import io
import json
import re

import numpy as np
import pyarrow.parquet
import pytest
from face_engine_fixtures import write_mobile_face_net
from PIL import Image
from real_photos import REAL, needs_real_photos

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.pictures import load_picture
from webdataset_tools.faceswap import reasons
from webdataset_tools.faceswap.options import SwapOptions
from webdataset_tools.faceswap.swap_release import build_release

pytestmark = needs_real_photos
PEOPLE = {
    "Family1-Dad": ("male", "young"),
    "Family1-Mom": ("female", "young"),
    "Family1-Son": ("male", "child"),
    "Family1-Daughter": ("female", "child"),
    "Family2-Lady": ("female", "old"),
    "Family2-Man": ("male", "old"),
    "Family3-Lady": ("female", "old"),
    "Family3-Man": ("male", "old"),
}


def test_coco_refuses_a_profile_and_a_printed_face(tmp_path):
    options = {"faces": write_mobile_face_net(tmp_path), "workers": 1, "match": "", "people_per_image": 8}
    with pytest.raises(IdClipError, match="no image can be swapped") as refused:
        build_release(SwapOptions(REAL / "coco", REAL / "identities", tmp_path / "out", **options))
    assert re.search(f"'{reasons.TURNED_AWAY}': 2", str(refused.value))
    told = json.loads((tmp_path / "out" / "nothing_swapped.json").read_text())
    assert told["images_left_out"]["counts"][reasons.TURNED_AWAY] == 2 and told["splits"] == {}
    assert sum(told["not_one_person"].values()) + len(told["images_left_out"]["entries"]) == 51


def test_portraits_are_swapped_among_people_alike(tmp_path):
    """The 16 identity photos as scenes, each also in grey, with the same people to put there."""
    folder = tmp_path / "coco" / "train2017"
    folder.mkdir(parents=True)
    (tmp_path / "coco" / "annotations").mkdir()
    images, people, captions, told, grey = [], [], [], {}, set()
    for person in sorted(PEOPLE):
        for path in sorted((REAL / "identities" / person).iterdir()):
            for toned in (False, True):
                number = len(images) + 1
                content = path.read_bytes()
                if toned:
                    stream = io.BytesIO()
                    Image.open(path).convert("L").save(stream, "JPEG", quality=90)
                    content = stream.getvalue()
                    grey.add(number)
                (folder / f"{number:012d}.jpg").write_bytes(content)
                height, width = load_picture(content).shape[:2]
                images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": width, "height": height})
                box = {"bbox": [0, 0, width, height], "category_id": 1}
                people.append({"id": number, "image_id": number, **box})
                captions.append({"image_id": number, "caption": "A portrait."})
                told[str(number)] = dict(zip(("gender", "age_group"), PEOPLE[person]))
    for kind, rows in (("instances", people), ("captions", captions)):
        content = {"images": images, "annotations": rows}
        (tmp_path / "coco" / "annotations" / f"{kind}_train2017.json").write_text(json.dumps(content))
    (tmp_path / "images.json").write_text(json.dumps(told))
    table = "".join(f"{person},{','.join(values)}\n" for person, values in PEOPLE.items())
    (tmp_path / "people.csv").write_text("identity_id,gender,age_group\n" + table)
    options = {"faces": write_mobile_face_net(tmp_path), "workers": 1, "shares": "1,0,0"}
    options |= {"attributes": tmp_path / "people.csv", "image_attributes": tmp_path / "images.json"}
    report = build_release(
        SwapOptions(tmp_path / "coco", REAL / "identities", tmp_path / "out", people_per_image=8, contexts=1, **options)
    )
    rows = [
        row
        for row in pyarrow.parquet.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
        if row["identity_id"]
    ]
    kept = [row for row in rows if row["kept"]]
    assert kept and report.splits["train"].pairs_refused[reasons.GREY_AND_COLOUR] > 0
    assert not {row["image_id"] for row in rows} & grey  # the lent photos are in colour
    assert {skip.reason for skip in report.photos_left_out} >= {reasons.PATCHY}
    for row in kept:
        assert PEOPLE[row["identity_id"]] == tuple(told[str(row["image_id"])].values())
        assert row["similarity_identity"] > 0.3 and row["similarity_original"] < row["similarity_identity"] - 0.1
        before = Image.open(folder / f"{row['image_id']:012d}.jpg")
        after = Image.open(tmp_path / "out/coco_dataset/coco_train_swapped" / row["file_name"])
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        outside = np.ones(before.size[::-1], bool)
        x0, y0, x1, y1 = (int(value) for value in row["face_box"])
        outside[max(y0 - 20, 0) : y1 + 20, max(x0 - 20, 0) : x1 + 20] = False
        shift = np.abs(np.asarray(after).astype(int) - np.asarray(before))[outside]
        assert not shift.size or shift.mean() <= 1
