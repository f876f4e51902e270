"""Plan of an unswapped miniature: size, seed -> a release's plan, with more scenes than will be left after the swap.

Role: a release's size -> the scenes to draw and the `idclip swap` that makes a release of that size of them. A face
swap finds no face in some scenes and drops swaps that are not recognised; how many was measured (docs/swap.md).
"""

import shlex
from collections import Counter
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from webdataset_tools.faceswap.matching import age_group
from webdataset_tools.miniature.people import Person, skin_group
from webdataset_tools.miniature.release_plan import PlannedScene, ReleasePlan, ReleaseSize, SplitSize, plan_release
from webdataset_tools.miniature.scenes import SIZE, sample_scene
from webdataset_tools.release import SPLITS

# Shares of the scenes whose face can be used and of the swaps that are recognised: measured with the shipped pack and `blend`,
# the first with room for small splits.
USABLE, KEPT = 0.76, 0.95
SMALLEST_FACE = 14  # pixels; the pictures are 192 pixels wide
# `blend` moves one photo; with three the adaptor learns pictures rather than people.
PHOTOS_PER_PERSON = 8
KEEP_SKIN = 1  # as in the drawn swaps: a face in its own skin
# The world means to hold turned, blurred and occluded faces, and swaps that are only nearly like the person.
DRAWN = ("--checks", "none", "--margin", "0", "--min-similarity", "0", "--max-original", "1", "--quality", "95")
IDENTITY_ATTRIBUTES = "identity_attributes.csv"
IMAGE_ATTRIBUTES = "image_attributes.csv"
ANYBODY = "anybody"


@dataclass(frozen=True)
class UnswappedPlan:
    """Scenes and identities of an unswapped world, and the release that is meant to come of them.

    by_skin     whether each skin group has people enough for a scene; else gender alone is matched
    """

    release: ReleaseSize
    plan: ReleasePlan
    by_skin: bool

    def splits(self) -> dict[str, str]:
        """Return identity id -> split."""
        return {person.identity_id: planned.split for planned in self.plan.scenes for person in planned.faces}

    def casts(self) -> dict[str, str]:
        """Return identity id -> cast: the scenes of the same cast and gender are those for this identity."""
        families = _families(self.plan)
        return {
            person.identity_id: families.get(person.identity_id, self._usual(person)) for person in self.plan.people
        }

    def cast_of(self, planned: PlannedScene) -> str:
        """Return the cast of a scene: a family of look-alikes, or the skin group of the body."""
        return _family(planned) if planned.look_alike else self._usual(planned.body)

    def _usual(self, person: Person) -> str:
        return skin_group(person) if self.by_skin else ANYBODY


def plan_unswapped(size: ReleaseSize, seed: int) -> UnswappedPlan:
    """Plan the scenes from which a release of `size` can be made; equal arguments give equal plans."""
    train, val, test = (_with_surplus(part, size.faces_per_scene) for part in (size.train, size.val, size.test))
    plan = plan_release(replace(size, train=train, val=val, test=test), seed)
    return UnswappedPlan(size, plan, _enough_of_each_group(plan, size.faces_per_scene))


def identity_attributes(world: UnswappedPlan) -> str:
    """Return the CSV of what is known about each identity."""
    splits, casts = world.splits(), world.casts()
    lines = ["identity_id,split,gender,skin_group,age_group,cast"]
    for person in world.plan.people:
        key = person.identity_id
        lines.append(f"{key},{splits[key]},{_looks(person)},{casts[key]}")
    return "\n".join(lines) + "\n"


def image_attributes(world: UnswappedPlan) -> str:
    """Return the CSV of what is known about each scene and the person in it."""
    lines = ["image_id,split,gender,skin_group,age_group,cast,look_alike,stratum,yaw"]
    for planned in world.plan.scenes:
        scene = sample_scene(planned.scene_seed)
        known = (world.cast_of(planned), "yes" if planned.look_alike else "no", scene.stratum, f"{scene.pose.yaw:.1f}")
        lines.append(",".join((str(planned.image_id), planned.split, _looks(planned.body), *known)))
    return "\n".join(lines) + "\n"


def swap_command(folder: Path, world: UnswappedPlan, face_model: str, seed: int) -> str:
    """Return the command that makes a release of the planned size of the world in `folder`."""
    words = ["idclip", "swap", "--coco", str(folder), "--identities", f"{folder}/identities", "--swapper", "blend"]
    words += ["--keep-skin", str(KEEP_SKIN)]
    words += ["--faces", face_model, "--det-size", str(SIZE), "--min-face", str(SMALLEST_FACE)]
    words += ["--attributes", f"{folder}/{IDENTITY_ATTRIBUTES}", "--image-attributes", f"{folder}/{IMAGE_ATTRIBUTES}"]
    words += DRAWN
    words += ["--match", "gender,cast", "--people-per-image", str(world.release.faces_per_scene)]
    words += ["--photos-per-identity", str(world.release.photos_per_person)]
    sizes: dict[str, SplitSize] = {split: getattr(world.release, split) for split in SPLITS}
    for split, size in sizes.items():
        if size.images:
            words += [f"--{split}-images", str(ceil(size.images / world.release.faces_per_scene / KEPT))]
    shares = ",".join(str(size.people if size.images else 0) for size in sizes.values())
    return shlex.join([*words, "--shares", shares, "--seed", str(seed), "--output", "RELEASE"])


def _with_surplus(size: SplitSize, faces: int) -> SplitSize:
    return replace(size, images=ceil(size.images / faces / (USABLE * KEPT)) * faces)


def _enough_of_each_group(plan: ReleasePlan, faces: int) -> bool:
    """Whether every scene finds people enough of its body's gender and skin group, look-alikes aside."""
    families, scenes = _families(plan), [planned for planned in plan.scenes if not planned.look_alike]
    strangers = {(planned.split, p.identity_id): p for planned in scenes for p in planned.faces}
    groups = Counter((split, p.gender, skin_group(p)) for (split, key), p in strangers.items() if key not in families)
    return all(groups[s.split, s.body.gender, skin_group(s.body)] >= faces for s in scenes)


def _families(plan: ReleasePlan) -> dict[str, str]:
    """Return identity id -> family of those who have look-alikes."""
    return {p.identity_id: _family(planned) for planned in plan.scenes if planned.look_alike for p in planned.faces}


def _family(planned: PlannedScene) -> str:
    """Return the name of a family of look-alikes, after its first member."""
    return min(person.identity_id for person in planned.faces)


def _looks(person: Person) -> str:
    gender = "female" if person.gender == "f" else "male"
    return f"{gender},{skin_group(person)},{age_group(person.face.age)}"
