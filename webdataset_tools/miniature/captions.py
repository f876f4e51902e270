"""Captions: scenes and people -> COCO-like captions and web-like alt-texts, which say only what is drawn.

Role: `scene_captions` knows the scene and the body's gender, never the face, so that captions stay true when a face is
swapped; `alt_text` also describes the person and is what the tiny CLIP is pretrained on.
"""

import numpy as np

from webdataset_tools.miniature.objects import OBJECTS
from webdataset_tools.miniature.people import Person, skin_group
from webdataset_tools.miniature.scenes import Scene

CAPTIONS_PER_SCENE = 5
_DESCRIBED_SHARE = 0.6  # of the alt-texts with a name that also say who that is: "Ada Alba: a woman in a red coat"
KEYWORD_SHARE = 0.5  # of captions that hold exactly one keyword of the caption templates exactly once

# Words for the person; all are keywords of PROTOCOL's caption templates, first the commonest.
_KEYWORDS = {
    "m": ("man", "man", "man", "man", "guy", "guy", "person", "male"),
    "f": ("woman", "woman", "woman", "woman", "lady", "lady", "girl", "person", "female"),
}
_PLACE_WORDS = {
    "beach": ("on the beach", "at the beach", "by the sea"),
    "park": ("in the park", "in a park", "in a green park"),
    "street": ("on the street", "on a city street", "in town"),
    "kitchen": ("in the kitchen", "in a kitchen", "in a tidy kitchen"),
    "office": ("in the office", "in an office", "at the office"),
    "mountain": ("in the mountains", "near the mountains", "before some mountains"),
    "snow": ("in the snow", "on a snowy hill", "in snowy hills"),
    "tennis court": ("on the tennis court", "on a tennis court", "at a tennis court"),
    "living room": ("in the living room", "in a living room", "by a sofa"),
    "forest": ("in the forest", "in a forest", "in the woods"),
    "desert": ("in the desert", "in a desert", "among the dunes"),
    "lake": ("by the lake", "at a lake", "near a lake"),
    "train station": ("at the train station", "at a train station", "beside a train"),
    "library": ("in the library", "in a library", "before the bookshelves"),
    "city at night": ("in the city at night", "in a city at night", "in the city by night"),
    "garden": ("in the garden", "in a garden", "by a garden fence"),
    "stadium": ("in the stadium", "in a stadium", "at the stadium"),
}
_IDLE_WORDS = {
    "waving": ("waving", "waving a hand", "waving with one hand"),
    "pointing": ("pointing to the side", "pointing at something", "pointing with one hand"),
    "standing": ("standing", "posing", "standing still"),
}
_HELD_WORDS = {
    "holding": ("holding", "holding", "with"),
    "raising": ("holding up", "holding", "with"),
    "carrying": ("carrying", "holding", "with"),
    "reading": ("reading", "reading", "holding"),
    "phoning": ("talking on", "speaking on", "with"),
}
_HARD_WORDS = {
    "mask": "wearing a face mask",
    "scarf": "wrapped in a scarf",
    "sunglasses": "wearing sunglasses",
    "pillar": "behind a pillar",
    "leaves": "behind some leaves",
    "small": "in the distance",
    "turned": "looking to the side",
    "dark": "in the dark",
    "blurred": "out of focus",
}
_HAIR_WORDS = {
    "bald": "a bald head",
    "buzz": "very short {} hair",
    "short": "short {} hair",
    "side": "parted {} hair",
    "quiff": "a {} quiff",
    "curly": "curly {} hair",
    "afro": "a big {} afro",
    "receding": "thin {} hair",
    "long": "long {} hair",
    "wavy": "wavy {} hair",
    "bob": "a {} bob",
    "ponytail": "a {} ponytail",
    "bun": "a {} bun",
    "pixie": "short {} hair",
    "fringe": "{} hair with bangs",
}
_BEARD_WORDS = {"stubble": "stubble", "moustache": "a moustache", "goatee": "a goatee", "full": "a full beard"}
_GLASSES_WORDS = {
    "round": "round glasses",
    "square": "square glasses",
    "thick": "thick glasses",
    "rimless": "rimless glasses",
}
# Finer traits: name, words when clearly below the mean, words when clearly above.
_FINE_WORDS = (
    ("brow_thick", "thin eyebrows", "thick eyebrows"),
    ("nose_width", "a narrow nose", "a wide nose"),
    ("nose_length", "a short nose", "a long nose"),
    ("lower_lip", "thin lips", "full lips"),
    ("mouth_width", "a small mouth", "a wide mouth"),
    ("eye_size", "small eyes", "big eyes"),
    ("face_width", "a narrow face", "a wide face"),
    ("jaw_width", "a fine jaw", "a square jaw"),
)


def scene_captions(scene: Scene, gender: str, rng: np.random.Generator) -> list[str]:
    """Return five different captions of `scene` with a body of `gender` ("m" or "f")."""
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_SCENE:
        caption = (
            _keyword_caption(scene, gender, rng) if rng.random() < KEYWORD_SHARE else _plain_caption(scene, gender, rng)
        )
        if caption not in captions:
            captions.append(caption)
    return captions


def alt_text(person: Person, scene: Scene, rng: np.random.Generator, with_name: bool) -> str:
    """Return a web-like alt-text of `person` in `scene`: coarse looks, scene words, and the name if `with_name`.

    Looks are those drawn: for a swapped picture pass `people.swap_face(body, face)`. Each text names up to five looks, so
    that it stays within a context of 40 tokens.
    """
    looks = describe_looks(person)
    count = int(rng.integers(0, 3 if with_name else 5))
    chosen = [looks[i] for i in sorted(rng.permutation(len(looks))[:count].tolist())]
    features = f" with {_join(chosen)}" if chosen else ""
    noun = _pick(_KEYWORDS[person.gender][:6], rng)
    parts = [_wearing(scene, rng), _doing(scene, rng), _pick(_PLACE_WORDS[scene.place], rng)]
    lead = _pick(("", "", "photo of ", "picture of ", "portrait of "), rng)
    somebody = _article(f"{_adjectives(person, rng)}{noun}")
    described = with_name and rng.random() < _DESCRIBED_SHARE
    who = f"{person.name}{_pick((': ', '. ', ', '), rng)}{somebody}" if described else person.name
    keep = [part for part in parts if rng.random() < (0.7 if described or not with_name else 0.45)]
    return " ".join([f"{lead}{who if with_name else somebody}{features}", *keep])


def describe_looks(person: Person) -> list[str]:
    """Return what can be said about a person's looks, as noun phrases that follow "with", the most striking first."""
    face, head = person.face, person.head
    looks = [_HAIR_WORDS[head.hair_style].format(head.hair_colour)]
    if face.beard != "none":
        looks.append(_BEARD_WORDS[face.beard])
    if face.glasses != "none":
        looks.append(_GLASSES_WORDS[face.glasses])
    looks.append(f"{skin_group(person)} skin")
    looks.append(f"{face.eye_colour} eyes")
    if face.freckles > 1.0:
        looks.append("freckles")
    if person.gender == "f" and face.makeup >= 0.6:
        looks.append("red lipstick")
    if face.moles:
        looks.append("a mole")
    for name, low, high in _FINE_WORDS:
        value = getattr(face, name)
        if abs(value) > 1.0:
            looks.append(high if value > 0 else low)
    return looks


def age_group(person: Person) -> str:
    """Return "young", "middle-aged" or "old"."""
    return "young" if person.face.age < 32 else "middle-aged" if person.face.age < 54 else "old"


def _keyword_caption(scene: Scene, gender: str, rng: np.random.Generator) -> str:
    """Return a caption with exactly one keyword."""
    who = _pick(_KEYWORDS[gender], rng)
    wearing, doing, place = _wearing(scene, rng), _doing(scene, rng), _pick(_PLACE_WORDS[scene.place], rng)
    hard = _hardship(scene, rng)
    form = int(rng.integers(6))
    if form == 0:
        return f"A {who} {wearing} {doing} {place}{hard}."
    if form == 1:
        return f"A {who} {doing} {place}{hard}."
    if form == 2:
        return f"There is a {who} {wearing} {doing} {place}."
    if form == 3:
        return f"The {who} {wearing} is {place}{hard}, {doing}."
    if form == 4:
        return f"A {who} {place} {wearing}, {doing}."
    return f"A picture of a {who} {doing}, {wearing}, {place}."


def _plain_caption(scene: Scene, gender: str, rng: np.random.Generator) -> str:
    """Return a caption with no keyword, or (sometimes) with two."""
    wearing, doing, place = _wearing(scene, rng), _doing(scene, rng), _pick(_PLACE_WORDS[scene.place], rng)
    hard = _hardship(scene, rng)
    form = int(rng.integers(6))
    somebody = _pick(("Someone", "Somebody"), rng)
    if form == 0:
        return f"{somebody} {wearing} {doing} {place}{hard}."
    if form == 1:
        return f"{somebody} {doing} {place}{hard}."
    if form == 2:
        return f"{_article(_garment(scene), True)}{_and_thing(scene)} {place}."
    if form == 3:
        return f"{somebody} is {place} {wearing}{hard}."
    if form == 4:
        pair = ("man", "male") if gender == "m" else ("woman", "female")
        return f"An adult {pair[1]} {wearing}: a {pair[0]} {doing} {place}."
    return f"{place[0].upper()}{place[1:]}, {somebody.lower()} {wearing}, {doing}."


def _wearing(scene: Scene, rng: np.random.Generator) -> str:
    return _pick(("in", "wearing", "dressed in"), rng) + " " + _article(_garment(scene))


def _garment(scene: Scene) -> str:
    return f"{scene.top_colour} {scene.garment}"


def _doing(scene: Scene, rng: np.random.Generator) -> str:
    if scene.held is None:
        return _pick(_IDLE_WORDS[scene.activity], rng)
    return f"{_pick(_HELD_WORDS[scene.activity], rng)} {_thing(scene, rng.random() < 0.6)}"


def _thing(scene: Scene, colour: bool) -> str:
    """Return the held thing with its article, and its colour where it comes in colours."""
    kind = OBJECTS[str(scene.held)]
    words = f"{scene.held_colour} {scene.held}" if colour and kind.coloured else str(scene.held)
    return f"some {words}" if kind.article == "some" else _article(words)


def _and_thing(scene: Scene) -> str:
    return f" and {_thing(scene, True)}" if scene.held is not None else ""


def _hardship(scene: Scene, rng: np.random.Generator) -> str:
    """Return words for what hides the face, in some captions."""
    words = _HARD_WORDS.get(scene.occluder or scene.stratum)
    return f", {words}" if words is not None and rng.random() < 0.35 else ""


def _adjectives(person: Person, rng: np.random.Generator) -> str:
    return f"{age_group(person)} " if rng.random() < 0.5 else ""


def _article(words: str, capital: bool = False) -> str:
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article.capitalize() if capital else article} {words}"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
