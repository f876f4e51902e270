"""What an unswapped miniature holds: the plan of a release, with more scenes than will be left after the swap.

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
IDENTITY_ATTRIBUTES = "identity_attributes.csv"
IMAGE_ATTRIBUTES = "image_attributes.csv"
NO_FAMILY = "none"


@dataclass(frozen=True)
class UnswappedPlan:
    """Scenes and identities of an unswapped world, and the release that is meant to come of them."""

    release: ReleaseSize
    plan: ReleasePlan

    def families(self) -> dict[str, str]:
        """Return identity id -> name of the family of look-alikes; other people are not in it."""
        return {
            person.identity_id: family_of(planned)
            for planned in self.plan.scenes
            if planned.look_alike
            for person in planned.faces
        }

    def splits(self) -> dict[str, str]:
        """Return identity id -> split."""
        return {person.identity_id: planned.split for planned in self.plan.scenes for person in planned.faces}


def plan_unswapped(size: ReleaseSize, seed: int) -> UnswappedPlan:
    """Plan the scenes from which a release of `size` can be made; equal arguments give equal plans."""
    grown = {split: _with_surplus(getattr(size, split), size.faces_per_scene) for split in SPLITS}
    return UnswappedPlan(size, plan_release(replace(size, **grown), seed))


def family_of(planned: PlannedScene) -> str:
    """Return the family of look-alikes for whom a scene is meant, named after its first member."""
    return min(person.identity_id for person in planned.faces) if planned.look_alike else NO_FAMILY


def identity_attributes(world: UnswappedPlan) -> str:
    """Return the CSV of what is known about each identity."""
    splits, families = world.splits(), world.families()
    lines = ["identity_id,split,gender,skin_group,age_group,family"]
    for person in world.plan.people:
        family = families.get(person.identity_id, NO_FAMILY)
        lines.append(f"{person.identity_id},{splits[person.identity_id]},{_looks(person)},{family}")
    return "\n".join(lines) + "\n"


def image_attributes(world: UnswappedPlan) -> str:
    """Return the CSV of what is known about each scene and the person in it."""
    lines = ["image_id,split,gender,skin_group,age_group,family,look_alike,stratum,yaw"]
    for planned in world.plan.scenes:
        scene = sample_scene(planned.scene_seed)
        known = (family_of(planned), "yes" if planned.look_alike else "no", scene.stratum, f"{scene.pose.yaw:.1f}")
        lines.append(",".join((str(planned.image_id), planned.split, _looks(planned.body), *known)))
    return "\n".join(lines) + "\n"


def swap_command(folder: Path, world: UnswappedPlan, face_model: str, seed: int) -> str:
    """Return the command that makes a release of the planned size of the world in `folder`."""
    words = ["idclip", "swap", "--coco", str(folder), "--identities", f"{folder}/identities", "--swapper", "blend"]
    words += ["--faces", face_model, "--det-size", str(SIZE), "--min-face", str(SMALLEST_FACE)]
    words += ["--attributes", f"{folder}/{IDENTITY_ATTRIBUTES}", "--image-attributes", f"{folder}/{IMAGE_ATTRIBUTES}"]
    words += ["--match", ",".join(_matched(world)), "--people-per-image", str(world.release.faces_per_scene)]
    words += ["--photos-per-identity", str(world.release.photos_per_person)]
    sizes: dict[str, SplitSize] = {split: getattr(world.release, split) for split in SPLITS}
    for split, size in sizes.items():
        if size.images:
            words += [f"--{split}-images", str(ceil(size.images / world.release.faces_per_scene / KEPT))]
    shares = ",".join(str(size.people if size.images else 0) for size in sizes.values())
    return shlex.join([*words, "--shares", shares, "--seed", str(seed), "--output", "RELEASE"])


def _with_surplus(size: SplitSize, faces: int) -> SplitSize:
    return replace(size, images=ceil(size.images / faces / (USABLE * KEPT)) * faces)


def _matched(world: UnswappedPlan) -> list[str]:
    """Return what image and identity share: the skin group too, where each group has people enough for a scene."""
    families, splits = world.families(), world.splits()
    strangers = [person for person in world.plan.people if person.identity_id not in families]
    groups = Counter((splits[p.identity_id], p.gender, skin_group(p)) for p in strangers)
    scenes = [planned for planned in world.plan.scenes if not planned.look_alike]
    wanted = {(planned.split, planned.body.gender, skin_group(planned.body)) for planned in scenes}
    enough = all(groups[group] >= world.release.faces_per_scene for group in wanted)
    return ["gender", *(["skin_group"] if enough else []), *(["family"] if families else [])]


def _looks(person: Person) -> str:
    gender = "female" if person.gender == "f" else "male"
    return f"{gender},{skin_group(person)},{age_group(person.face.age)}"
