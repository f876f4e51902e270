"""Invented names: a person's number -> given and family name in the miniature; nobody in particular is meant.

The ending of a family name tells where the family comes from, as the endings of many real names do.
"""

from webdataset_tools.miniature.streams import stream


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FEMALE_NAMES = _words(
    """
    Ada Alba Alma Amina Anouk Astrid Beata Bianca Carla Celia Clara Daria Delia Dora Edith Elena Elif Emmy Esther
    Farah Fiona Freya Gerda Greta Hana Hilda Ida Ilse Ines Irene Jana Jenna Judit Karin Katya Keiko Laila Leonie
    Lida Lotte Lucia Mabel Maren Marta Mina Mira Nadia Nell Nora Olga Orla Paula Petra Priya Rosa Ruth Sana Selma
    Sofia Stella Tamar Tessa Thea Uma Vera Viola Wanda Yara Yuki Zora
    """
)
MALE_NAMES = _words(
    """
    Abel Adam Akira Alan Amir Anton Arno Arvid Basil Bela Bruno Carl Cyrus Dario David Denis Edgar Elias Emil Enzo
    Erik Ezra Felix Finn Franz Gino Goran Hugo Igor Ivan Jakob Jamal Janek Jonas Jorge Kamal Karl Kenji Kofi Lars
    Leon Levi Lorenz Luca Magnus Marek Marco Mateo Milan Nils Oleg Omar Oscar Otto Pavel Pedro Piet Rafael Ravi
    Rolf Samir Simon Sven Tariq Theo Tomas Ugo Victor Walter Yusuf
    """
)
_STARTS = _words(
    """
    Bar Bel Bren Cal Cor Dar Del Dor Fal Fen Gar Hal Har Kel Kor Lan Mar Mel Nor Or Per Ral San Sol Tal Tor Val
    Ver Wes Zan
    """
)
_ENDS = _words("ado bach dane elli esku field gaard inski ley mont ova sby stein ura wick")
FAMILY_NAMES = tuple(start + end for start in _STARTS for end in _ENDS)
ORIGINS = len(_ENDS)


def invented_name(number: int, gender: str) -> tuple[str, int]:
    """Return the given name of person `number`, and the number of the family name."""
    rng = stream(number, "name")
    given = FEMALE_NAMES if gender == "f" else MALE_NAMES
    return given[int(rng.integers(len(given)))], int(rng.integers(len(FAMILY_NAMES)))


def origin_of(family: int) -> int:
    """Return the number of the origin that family name number `family` tells by its ending, 0 ... ORIGINS - 1."""
    return family % ORIGINS
