"""Caption templates: a caption (and a name) in, texts for training and evaluation out.

Role: the vocabulary of "Towards Identity-Aware Cross-Modal Retrieval" (arXiv 2412.21009): the keyword rule, the
training captions, the templates around `[ENTITY]` and their expansion by the inference configurations. Strings only.
"""

import random
import re

from open_clip_idplugin.errors import IdClipError

ENTITY = "[ENTITY]"  # where the person stands in a template, before a configuration says how the person is written
PLACEHOLDER = "[TOK]"  # where the identity token goes
PLACEHOLDERS = re.compile(r"\[TOK(?::\d+)?\]")  # [TOK] (or [TOK:1]) of the first person, [TOK:2] of the second ...

KEYWORDS = (
    "person", "man", "mother", "father", "dad", "mum", "woman", "child", "boy", "guy",
    "girl", "kid", "human", "adult", "male", "female", "lady", "teenager", "baby",
)  # fmt: skip

TRAINING_PROMPTS = (
    "An image with [TOK]",
    "An image containing [TOK]",
    "[TOK]",
    "A picture of [TOK]",
    "[TOK] in the image",
    "There is [TOK] in the picture",
)
TRAINING_SETTINGS = ("fixed", "multi", "in_place")

GENERAL_TEMPLATES = (
    "An image with [ENTITY]. [CAPTION]",
    "An image with a person whose name is [ENTITY]. [CAPTION]",
    "[ENTITY]. [CAPTION]",
    "A picture of [ENTITY]. [CAPTION]",
    "[ENTITY] in the image. [CAPTION]",
    "There is [ENTITY] in the picture. [CAPTION]",
    "[BEFORE] [ENTITY] [AFTER]",
    "[BEFORE] [KEYWORD] ([ENTITY]) [AFTER]",
    "[BEFORE] [KEYWORD] (whose name is [ENTITY]) [AFTER]",
    "[BEFORE] famous [KEYWORD] [ENTITY] [AFTER]",
    "[BEFORE] famous [ENTITY] [AFTER]",
)
CAPTION_TEMPLATES = GENERAL_TEMPLATES[:6]  # these need no keyword
ENTITY_TEMPLATES = tuple(template.removesuffix(" [CAPTION]") for template in CAPTION_TEMPLATES)

# How `BEFORE [ENTITY] AFTER` is written: (prefix, what replaces [ENTITY]).
_EXPANSIONS = {
    "names": ("", "NAME"),
    "conf1": ("", "[TOK]"),
    "conf2": ("", "[TOK] NAME"),
    "conf3": ("", "NAME [TOK]"),
    "conf4": ("An image with [TOK]. ", "NAME"),
    "conf5": ("[TOK]. ", "NAME"),
    "conf6": ("[TOK]. ", "[TOK]"),
}
CONFIGURATIONS = ("captions", *_EXPANSIONS)

# A hyphen binds: "man-made" holds no "man".
_KEYWORD = re.compile(rf"(?<![\w-])(?:{'|'.join(KEYWORDS)})(?![\w-])", re.IGNORECASE)
# The reference's tokenizer takes signs together, so that a placeholder directly behind one is letters to it: "([TOK])".
_HIDDEN = re.compile(r"(?<!\[TOK\])(?<=[^\s\w]|_)\[TOK\]")
_MOST_DIGITS = 18  # of a placeholder's number: beyond, nobody is meant
_REFERENCE_ARTICLE = re.compile(
    rf"(?:(?<=\s)an?|An?)\s+(?={re.escape(ENTITY)})"
)  # neither "the" nor a small one at the start
_ARTICLE = re.compile(rf"(?<![\w-])(?:an?|the)\s+(?={re.escape(ENTITY)})", re.IGNORECASE)


def placeholder_numbers(text: str) -> list[int]:
    """Numbers of the people whose placeholders stand in a text, in order, counted from 1."""
    written = (match[0][len("[TOK:") : -1] for match in PLACEHOLDERS.finditer(text))
    return [int(digits[:_MOST_DIGITS] or 1) for digits in written]


def display_name(name: str) -> str:
    """The name as it stands in a text: "Ada_Lovelace" -> "Ada Lovelace"."""
    return _one_line(name.replace("_", " "))


def split_at_keyword(caption: str) -> tuple[str, str, str] | None:
    """(before, keyword, after) when exactly one keyword occurs exactly once, else None; they join to the caption."""
    matches = list(_KEYWORD.finditer(caption))
    if len(matches) != 1:
        return None
    start, end = matches[0].span()
    return caption[:start], caption[start:end], caption[end:]


def training_caption(caption: str, setting: str, rng: random.Random) -> str:
    """The caption with `[TOK]`, as one draw of a training setting.

    "fixed" puts "An image with [TOK]." in front, "multi" one of `TRAINING_PROMPTS`; "in_place" puts the placeholder
    beside or instead of the one keyword of the caption, and does as "multi" where `split_at_keyword` finds none.
    """
    if setting not in TRAINING_SETTINGS:
        raise IdClipError(f"unknown caption setting {setting!r}; choose one of {', '.join(TRAINING_SETTINGS)}")
    caption = _one_line(caption)
    parts = split_at_keyword(caption) if setting == "in_place" else None
    if parts:
        before, keyword, after = parts
        middle = rng.choice((f"{keyword} {PLACEHOLDER}", f"{PLACEHOLDER} {keyword}", PLACEHOLDER))
        return before + middle + after
    prompt = TRAINING_PROMPTS[0] if setting == "fixed" else rng.choice(TRAINING_PROMPTS)
    return f"{prompt}. {caption}".rstrip()


def as_reference_reads(text: str) -> str:
    """The text with the placeholders that the reference's tokenizer does not see as the letters that it sees instead."""
    return _HIDDEN.sub(PLACEHOLDER.lower(), text)


def general_text(caption: str, template: int, reference_articles: bool = False) -> str:
    """The caption in one of `GENERAL_TEMPLATES`, holding `[ENTITY]` once.

    A template around the keyword (6 to 10) falls back to template 0 where the caption has not exactly one keyword.
    reference_articles: drop articles before the person as the reference does, which keeps "the".
    """
    if not 0 <= template < len(GENERAL_TEMPLATES):
        raise IdClipError(f"there is no template {template}; choose one from 0 to {len(GENERAL_TEMPLATES) - 1}")
    caption = _one_line(caption)
    if template >= len(CAPTION_TEMPLATES):
        parts = split_at_keyword(caption)
        if parts:
            return _around_keyword(GENERAL_TEMPLATES[template], *parts, reference_articles)
        template = 0
    return _one_line(GENERAL_TEMPLATES[template].replace("[CAPTION]", caption))


def general_texts(caption: str, rng: random.Random, reference_articles: bool = False) -> list[str]:
    """The 11 texts of a caption, each holding `[ENTITY]` once; see `general_text`.

    Without exactly one keyword the last five are drawn again (with replacement) from the first six templates.
    """
    keyword_templates: list[int] = list(range(len(CAPTION_TEMPLATES), len(GENERAL_TEMPLATES)))
    if split_at_keyword(_one_line(caption)) is None:
        keyword_templates = rng.choices(range(len(CAPTION_TEMPLATES)), k=len(keyword_templates))
    indices = (*range(len(CAPTION_TEMPLATES)), *keyword_templates)
    return [general_text(caption, index, reference_articles) for index in indices]


def entity_texts() -> list[str]:
    """The six prompts that name the person and no context."""
    return list(ENTITY_TEMPLATES)


def needs_face(configuration: str) -> bool:
    """Whether the texts of a configuration hold `[TOK]`."""
    return configuration != "captions" and any(PLACEHOLDER in part for part in _expansion(configuration))


def needs_name(configuration: str) -> bool:
    """Whether the texts of a configuration spell the name."""
    return configuration != "captions" and "NAME" in _expansion(configuration)[1]


def expand(text: str, configuration: str, name: str = "") -> str:
    """Write the person of a text holding `[ENTITY]` as "names" or "conf1" to "conf6" has it.

    The baseline "captions" has no template to expand: its text is the caption itself.
    """
    prefix, person = _expansion(configuration)
    if ENTITY not in text:
        raise IdClipError(f"the text {text!r} holds no {ENTITY}; make it with general_texts or entity_texts")
    if "NAME" in person:
        name = display_name(name)
        if not name:
            raise IdClipError(f"configuration {configuration!r} spells the name, and the name is empty; give one")
        person = person.replace("NAME", name)
    if person.endswith("."):  # "Martin King Jr." ends its sentence with the dot it has
        text = text.replace(f"{ENTITY}.", ENTITY)
    return prefix + text.replace(ENTITY, person)


def _expansion(configuration: str) -> tuple[str, str]:
    if configuration not in _EXPANSIONS:
        raise IdClipError(f"configuration {configuration!r} has no expansion; choose one of {', '.join(_EXPANSIONS)}")
    return _EXPANSIONS[configuration]


def _around_keyword(template: str, before: str, keyword: str, after: str, reference_articles: bool) -> str:
    # The template's middle takes the keyword's place, so that "a man, smiling" keeps its comma without a space.
    middle = template.removeprefix("[BEFORE] ").removesuffix(" [AFTER]").replace("[KEYWORD]", keyword)
    article = _REFERENCE_ARTICLE if reference_articles else _ARTICLE
    return _one_line(article.sub("", before + middle + after))


def _one_line(text: str) -> str:
    return " ".join(text.split())
