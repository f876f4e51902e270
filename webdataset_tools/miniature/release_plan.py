"""What a miniature release holds, before anything is drawn: sizes and a seed -> people, scenes and who is in which.

Role: the data set's design. People and scenes of train, val and test come from pools of their own; every scene is swapped with
several people of its body's gender and skin group, each used about equally often; a share of the
validation and test scenes is swapped with people who look alike. A plan is a pure function of its settings.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from open_clip_idplugin.errors import IdClipError
from webdataset_tools.miniature.people import POOL_SIZE, Person, look_alike, sample_person, skin_group
from webdataset_tools.miniature.streams import stream

# Look-alikes of the splits that are asked for, validation like test so that a recipe can be chosen on the former: the
# share of a split's people and scenes, and how strongly the traits of a family correlate.
LOOK_ALIKE_SPLITS = ("val", "test")
LOOK_ALIKE_PEOPLE = 0.4
LOOK_ALIKE_SCENES = 0.25
LOOK_ALIKE_CLOSENESS = 0.8
_IDENTITIES = POOL_SIZE // 2  # numbers below are identities, those above lend their bodies only
_FIRST_IMAGE_ID = {"train": 100_001, "val": 400_001, "test": 500_001}


@dataclass(frozen=True)
class SplitSize:
    """Number of images (scenes x faces a scene) and people of one split."""

    images: int
    people: int


@dataclass(frozen=True)
class ReleaseSize:
    """Numbers of a whole release."""

    train: SplitSize
    val: SplitSize
    test: SplitSize
    faces_per_scene: int = 5
    photos_per_person: int = 4

    def __post_init__(self) -> None:
        if self.faces_per_scene < 1 or self.photos_per_person < 1:
            raise IdClipError("faces_per_scene and photos_per_person must be at least 1.")
        for split in ("train", "val", "test"):
            size: SplitSize = getattr(self, split)
            if size.images % self.faces_per_scene:
                raise IdClipError(
                    f"{split}_images is {size.images}: give a multiple of faces_per_scene ({self.faces_per_scene})."
                )
            if size.images and not 4 * self.faces_per_scene <= size.people <= _IDENTITIES:
                raise IdClipError(
                    f"{split}_people is {size.people}: give {4 * self.faces_per_scene} to {_IDENTITIES}, "
                    "so that each scene finds enough people of one gender."
                )


SIZES: dict[str, ReleaseSize] = {
    "tiny": ReleaseSize(SplitSize(200, 60), SplitSize(50, 30), SplitSize(100, 40), photos_per_person=3),
    "demo": ReleaseSize(SplitSize(4000, 1000), SplitSize(250, 60), SplitSize(1000, 150), photos_per_person=3),
    "benchmark": ReleaseSize(SplitSize(12000, 2500), SplitSize(500, 100), SplitSize(1500, 200)),
}


@dataclass(frozen=True)
class PlannedScene:
    """One COCO-like image: the scene, the person whose body it shows, and the people whose faces are swapped in."""

    split: str
    image_id: int
    scene_seed: int
    body: Person
    faces: tuple[Person, ...]
    look_alike: bool

    @property
    def file_name(self) -> str:
        """Name of the image that was swapped, as COCO writes it."""
        return f"{self.image_id:012d}.jpg"


@dataclass(frozen=True)
class ReleasePlan:
    """All scenes of a release, and its people who occur in one, sorted by identity id."""

    seed: int
    photos_per_person: int
    scenes: tuple[PlannedScene, ...]
    people: tuple[Person, ...]


def plan_release(size: ReleaseSize, seed: int) -> ReleasePlan:
    """Return the plan of a release; equal arguments give equal plans."""
    scenes: list[PlannedScene] = []
    for index, split in enumerate(("train", "val", "test")):
        scenes += _plan_split(split, getattr(size, split), size.faces_per_scene, seed, (index + 1 << 40) + (seed << 20))
    people = {person.identity_id: person for scene in scenes for person in scene.faces}
    return ReleasePlan(seed, size.photos_per_person, tuple(scenes), tuple(people[key] for key in sorted(people)))


def _plan_split(split: str, size: SplitSize, faces: int, seed: int, first_scene: int) -> list[PlannedScene]:
    count = size.images // faces
    families, others = _people(split, size.people, faces, seed)
    look_alikes = round(count * LOOK_ALIKE_SCENES) if families else 0
    # Look-alike scenes are spread evenly, so that any part of the split holds its share.
    flags = [(i + 1) * look_alikes // count > i * look_alikes // count for i in range(count)]
    bodies = _bodies(split, seed)
    casting = _Casting(others, stream(seed, "casting", split))
    planned = []
    for index, alike in enumerate(flags):
        if alike:
            family = families[sum(flags[:index]) % len(families)]
            body, chosen = next(b for b in bodies if _group(b) == _group(family[0])), tuple(family)
        else:
            body = next(bodies)
            chosen = casting.choose(body, faces)
        planned.append(PlannedScene(split, _FIRST_IMAGE_ID[split] + index, first_scene + index, body, chosen, alike))
    return planned


def _people(split: str, count: int, faces: int, seed: int) -> tuple[list[list[Person]], list[Person]]:
    """Return the families of look-alikes (not in train) and the other people of a split, all names distinct."""
    numbers = iter(stream(seed, "people", split).permutation(_IDENTITIES).tolist())
    names: set[str] = set()

    def fresh(like: Person | None) -> Person:
        for number in numbers:
            person = sample_person(number, split) if like is None else look_alike(like, number, LOOK_ALIKE_CLOSENESS)
            if person.name not in names:
                names.add(person.name)
                return person
        raise IdClipError(f"There are not enough distinct names for {count} people; ask for fewer.")

    families = []
    # At least ten strangers stay per gender and group on average; a family of one would be no look-alike.
    has_families = split in LOOK_ALIKE_SPLITS and faces > 1
    for _ in range(int(count * LOOK_ALIKE_PEOPLE) // faces if has_families else 0):
        first = fresh(None)
        families.append([first, *(fresh(first) for _ in range(faces - 1))])
    return families, [fresh(None) for _ in range(count - faces * len(families))]


def _bodies(split: str, seed: int) -> Iterator[Person]:
    """Yield the people who lend their bodies to scenes; none of them is an identity."""
    for number in stream(seed, "bodies", split).permutation(POOL_SIZE - _IDENTITIES).tolist():
        yield replace(sample_person(_IDENTITIES + number, split), name="")


def _group(person: Person) -> tuple[str, str]:
    return person.gender, skin_group(person)


class _Casting:
    """Chooses people for bodies: same gender and skin group, the least used first."""

    def __init__(self, people: list[Person], rng: np.random.Generator) -> None:
        self._groups: dict[tuple[str, ...], list[Person]] = defaultdict(list)
        for person in people:
            self._groups[_group(person)].append(person)
            self._groups[(person.gender,)].append(person)
        self._used: Counter[str] = Counter()
        self._rng = rng

    def choose(self, body: Person, count: int) -> tuple[Person, ...]:
        candidates = self._groups[_group(body)]
        if len(candidates) < count:  # a small release: gender alone
            candidates = self._groups[(body.gender,)]
        if len(candidates) < count:
            raise IdClipError(
                f"Only {len(candidates)} people of one gender are left for scenes with {count} faces; ask for more people."
            )
        dice = self._rng.random(len(candidates)).tolist()
        order = sorted(range(len(candidates)), key=lambda i: (self._used[candidates[i].identity_id], dice[i]))
        chosen = tuple(candidates[i] for i in order[:count])
        self._used.update(person.identity_id for person in chosen)
        return chosen
