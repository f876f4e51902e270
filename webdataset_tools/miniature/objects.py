"""Things that people hold: the name of an object -> strokes at a hand. Lengths are in frame units (a head is 130 high)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from webdataset_tools.miniature.canvas import Held, spline
from webdataset_tools.miniature.palette import Colour, mix, shade

_RING = np.linspace(0, 2 * np.pi, 24, endpoint=False)


def _cup(held: Held) -> None:
    held.blob(24, -12, 13, 15, shade(held.colour, 0.85))
    held.blob(24, -12, 7, 9, (90, 84, 80))
    held.area([(-20, -38), (22, -38), (18, 20), (-16, 20)], held.colour)
    held.blob(1, -38, 21, 7, shade(held.colour, 0.7))


def _ball(held: Held) -> None:
    held.blob(0, -26, 42, 42, (244, 244, 242))
    held.area(np.stack([np.cos(_RING[::5]) * 15, np.sin(_RING[::5]) * 15 - 26], 1), (34, 34, 38))
    for angle in np.arange(5) * 1.2566 + 0.3:
        held.blob(33 * np.cos(angle), 33 * np.sin(angle) - 26, 8, 8, (34, 34, 38))


def _basketball(held: Held) -> None:
    held.blob(0, -28, 44, 44, (222, 118, 48))
    held.stroke([(-44, -28), (44, -28)], (70, 38, 24), 4)
    held.stroke([(0, -72), (0, 16)], (70, 38, 24), 4)
    for side in (-1, 1):
        held.stroke([(side * 32, -58), (side * 16, -28), (side * 32, 2)], (70, 38, 24), 4)


def _book(held: Held) -> None:
    held.area([(-58, -58), (0, -50), (58, -58), (58, 30), (0, 38), (-58, 30)], (248, 244, 232))
    held.area([(-62, -50), (0, -42), (62, -50), (62, 36), (0, 44), (-62, 36)], held.colour)
    held.stroke([(0, -42), (0, 44)], shade(held.colour, 0.72), 6)
    held.area([(14, -30), (50, -36), (50, -20), (14, -14)], mix(held.colour, (255, 250, 230), 0.7))


def _flowers(held: Held) -> None:
    for x in (-16, 0, 16):
        held.stroke([(0, 16), (x, -50)], (60, 130, 64), 6)
    for x, y in ((-30, -58), (0, -74), (30, -58), (-14, -46), (16, -44)):
        for angle in np.arange(5) * 1.2566:
            held.blob(x + 10 * np.cos(angle), y + 10 * np.sin(angle), 9, 9, held.colour)
        held.blob(x, y, 7, 7, (250, 214, 80))


def _pizza(held: Held) -> None:
    held.blob(0, -18, 62, 32, (206, 148, 78))
    held.blob(0, -20, 53, 26, (246, 200, 92))
    for x, y in ((-28, -22), (0, -32), (28, -20), (-6, -10), (14, -6)):
        held.blob(x, y, 9, 6, (196, 52, 40))


def _cake(held: Held) -> None:
    held.area([(-50, -30), (50, -30), (50, 16), (-50, 16)], (250, 240, 226))
    held.blob(0, -30, 50, 13, held.colour)
    held.area([(-50, -12), (50, -12), (50, -2), (-50, -2)], held.colour)
    for x in (-24, 0, 24):
        held.stroke([(x, -32), (x, -62)], (250, 250, 250), 5)
        held.blob(x, -68, 5, 8, (252, 176, 54))


def _teddy_bear(held: Held) -> None:
    fur = (158, 104, 60)
    for x in (-24, 24):
        held.blob(x, -78, 14, 14, shade(fur, 0.85))
        held.blob(x * 1.5, -10, 14, 20, shade(fur, 0.9))
        held.blob(x * 1.1, 40, 17, 15, shade(fur, 0.9))
    held.blob(0, 6, 36, 40, fur)
    held.blob(0, -54, 34, 31, fur)
    held.blob(0, -44, 15, 12, (226, 190, 146))
    for x in (-12, 12):
        held.blob(x, -62, 5, 5, (24, 20, 20))
    held.blob(0, -49, 6, 4, (24, 20, 20))


def _cat(held: Held) -> None:
    fur = (92, 92, 100)
    held.stroke([(40, 20), (66, 0), (60, -36)], shade(fur, 0.9), 13)
    held.blob(0, 14, 44, 34, fur)
    for side in (-1, 1):
        held.area([(side * 8, -62), (side * 30, -88), (side * 34, -50)], fur)
        held.area([(side * 16, -62), (side * 27, -78), (side * 29, -56)], (236, 160, 164))
    held.blob(0, -42, 36, 31, fur)
    for x in (-14, 14):
        held.blob(x, -46, 8, 9, (198, 220, 92))
        held.blob(x, -46, 3, 8, (20, 20, 20))
    held.blob(0, -33, 5, 4, (236, 150, 156))


def _guitar(held: Held) -> None:
    held.stroke([(0, 0), (150, -84)], (70, 46, 32), 13)
    held.area([(142, -96), (172, -110), (182, -92), (152, -74)], (52, 36, 28))
    held.blob(-16, 10, 56, 44, (196, 122, 56), -30)
    held.blob(26, -14, 40, 33, (196, 122, 56), -30)
    held.blob(12, -6, 16, 15, (60, 36, 24))
    held.stroke([(-46, 28), (150, -84)], (240, 230, 210), 3)


def _camera(held: Held) -> None:
    held.area([(-46, -34), (46, -34), (46, 30), (-46, 30)], (44, 44, 50))
    held.area([(-18, -48), (18, -48), (22, -34), (-22, -34)], (60, 60, 68))
    held.blob(0, -2, 26, 26, (150, 152, 160))
    held.blob(0, -2, 19, 19, (34, 50, 80))
    held.blob(-6, -8, 6, 6, (180, 210, 240))


def _gift(held: Held) -> None:
    held.area([(-46, -44), (46, -44), (46, 40), (-46, 40)], held.colour)
    ribbon = (250, 226, 120) if sum(held.colour) < 560 else (196, 40, 60)
    held.area([(-6, -44), (6, -44), (6, 40), (-6, 40)], ribbon)
    held.area([(-46, -8), (46, -8), (46, 4), (-46, 4)], ribbon)
    for side in (-1, 1):
        held.blob(side * 14, -52, 14, 8, ribbon, 25 * side)


def _laptop(held: Held) -> None:
    held.area([(-62, -60), (62, -60), (62, 20), (-62, 20)], (172, 176, 184))
    held.area([(-55, -54), (55, -54), (55, 13), (-55, 13)], (56, 116, 186))
    held.area([(-70, 20), (70, 20), (78, 34), (-78, 34)], (140, 144, 152))
    held.area([(-40, -40), (10, -40), (10, -30), (-40, -30)], (230, 240, 250))


def _pumpkin(held: Held) -> None:
    for x, wide in ((-30, 22), (30, 22), (-13, 24), (13, 24), (0, 18)):
        held.blob(x, -16, wide, 38, shade((228, 122, 36), 0.88 + 0.004 * wide))
    held.stroke([(0, -52), (8, -72)], (74, 110, 50), 11)


def _umbrella(held: Held) -> None:
    held.stroke([(0, 26), (0, -120)], (60, 52, 48), 8)
    dome = np.stack(
        [np.cos(np.linspace(np.pi, 2 * np.pi, 17)) * 128, np.sin(np.linspace(np.pi, 2 * np.pi, 17)) * 84 - 100], 1
    )
    scallop = np.stack([np.linspace(128, -128, 17), -100 - 12 * np.abs(np.sin(np.linspace(0, 4 * np.pi, 17)))], 1)
    held.area(np.concatenate([dome, scallop]), held.colour)
    middle = np.stack([dome[:, 0] * 0.3, dome[:, 1]], 1)
    held.area(np.concatenate([middle, [[38, -108], [0, -100], [-38, -108]]]), shade(held.colour, 0.84))


def _kite(held: Held) -> None:
    held.stroke([(0, 0), (26, -70), (20, -110)], (240, 240, 240), 3)
    held.area([(20, -218), (84, -156), (20, -78), (-44, -156)], held.colour)
    other = mix(held.colour, (255, 255, 255), 0.6)
    held.area([(20, -218), (84, -156), (20, -156)], other)
    held.area([(20, -156), (20, -78), (-44, -156)], other)
    held.stroke([(20, -78), (40, -58), (16, -40), (36, -22)], held.colour, 6)


def _frisbee(held: Held) -> None:
    held.blob(8, -32, 58, 22, shade(held.colour, 0.72), -18)
    held.blob(6, -37, 57, 20, held.colour, -18)
    held.blob(6, -37, 32, 10, mix(held.colour, (255, 255, 255), 0.35), -18)


def _racket(held: Held) -> None:
    held.stroke([(0, 30), (0, -52)], (40, 40, 46), 12)
    held.blob(0, -112, 46, 60, held.colour)
    held.blob(0, -112, 38, 52, (226, 232, 226))
    for offset in (-24, -8, 8, 24):
        held.stroke([(offset, -158 + abs(offset) * 0.4), (offset, -66 - abs(offset) * 0.4)], (130, 138, 140), 2)
        held.stroke([(-34, -112 + offset * 1.4), (34, -112 + offset * 1.4)], (130, 138, 140), 2)


def _balloon(held: Held) -> None:
    held.stroke([(0, 10), (8, -50), (0, -96)], (230, 230, 230), 3)
    held.blob(0, -160, 54, 66, held.colour)
    held.blob(-18, -184, 12, 18, mix(held.colour, (255, 255, 255), 0.6), 20)


def _flag(held: Held) -> None:
    held.stroke([(0, 60), (0, -170)], (150, 110, 70), 8)
    wave = np.stack([np.linspace(0, 130, 9), np.sin(np.linspace(0, 5, 9)) * 9], 1)
    held.area(np.concatenate([wave + [0, -168], wave[::-1] + [0, -88]]), held.colour)
    held.area(np.concatenate([wave + [0, -142], wave[::-1] + [0, -114]]), (248, 248, 244))


def _baseball_bat(held: Held) -> None:
    held.area([(-6, 34), (6, 34), (17, -150), (0, -168), (-17, -150)], (206, 160, 98))
    held.area([(-7, 34), (7, 34), (8, -6), (-8, -6)], (60, 50, 46))


def _trophy(held: Held) -> None:
    gold = (238, 192, 66)
    for side in (-1, 1):
        held.blob(side * 36, -74, 17, 20, shade(gold, 0.8))
        held.blob(side * 36, -74, 9, 12, (120, 110, 100))
    held.area(
        [(-36, -104), (36, -104), (22, -46), (7, -34), (7, -8), (26, 6), (-26, 6), (-7, -8), (-7, -34), (-22, -46)],
        gold,
    )
    held.area([(-30, 4), (30, 4), (30, 22), (-30, 22)], (70, 50, 40))


def _suitcase(held: Held) -> None:
    held.area([(-18, -4), (18, -4), (18, 18), (-18, 18)], (50, 46, 44))
    held.area(spline(np.array([(-60, 18), (60, 18), (60, 116), (-60, 116)], np.float64), 2, closed=True), held.colour)
    for x in (-34, 34):
        held.stroke([(x, 14), (x, 120)], shade(held.colour, 0.7), 8)


def _handbag(held: Held) -> None:
    held.stroke([(-30, 40), (-14, 0), (14, 0), (30, 40)], shade(held.colour, 0.6), 8)
    held.area([(-50, 36), (50, 36), (60, 108), (-60, 108)], held.colour)
    held.area([(-52, 36), (52, 36), (42, 66), (-42, 66)], shade(held.colour, 0.82))
    held.blob(0, 66, 8, 8, (240, 210, 110))


def _surfboard(held: Held) -> None:
    board = np.stack([np.cos(_RING) * 34, np.sin(_RING) * 190], 1)
    held.area(board, held.colour)
    held.stroke([(0, -184), (0, 184)], mix(held.colour, (255, 255, 255), 0.7), 7)


def _skateboard(held: Held) -> None:
    held.area([(-22, -110), (-8, -124), (8, -124), (22, -110), (22, 90), (8, 104), (-8, 104), (-22, 90)], held.colour)
    for y in (-76, 56):
        held.area([(-32, y - 9), (32, y - 9), (32, y + 9), (-32, y + 9)], (60, 60, 66))


def _phone(held: Held) -> None:
    held.area([(-15, -44), (15, -44), (15, 22), (-15, 22)], (28, 28, 34))


def _newspaper(held: Held) -> None:
    held.area([(-84, -60), (0, -52), (84, -60), (84, 66), (0, 74), (-84, 66)], (238, 236, 228))
    for side in (-1, 1):
        held.area([(side * 74, -48), (side * 10, -42), (side * 10, -28), (side * 74, -34)], (60, 60, 62))
        for y in (-14, 2, 18, 34, 50):
            held.stroke([(side * 74, y - 4), (side * 10, y + 2)], (150, 150, 148), 4)


@dataclass(frozen=True)
class Kind:
    """How an object is painted, whether it comes in colours, and the words for it ("a", "an" or "some" included)."""

    paint: Callable[[Held], None]
    coloured: bool
    article: str


OBJECTS: dict[str, Kind] = {
    "cup": Kind(_cup, True, "a"),
    "soccer ball": Kind(_ball, False, "a"),
    "basketball": Kind(_basketball, False, "a"),
    "book": Kind(_book, True, "a"),
    "flowers": Kind(_flowers, True, "some"),
    "pizza": Kind(_pizza, False, "a"),
    "cake": Kind(_cake, True, "a"),
    "teddy bear": Kind(_teddy_bear, False, "a"),
    "cat": Kind(_cat, False, "a"),
    "guitar": Kind(_guitar, False, "a"),
    "camera": Kind(_camera, False, "a"),
    "gift": Kind(_gift, True, "a"),
    "laptop": Kind(_laptop, False, "a"),
    "pumpkin": Kind(_pumpkin, False, "a"),
    "umbrella": Kind(_umbrella, True, "an"),
    "kite": Kind(_kite, True, "a"),
    "frisbee": Kind(_frisbee, True, "a"),
    "tennis racket": Kind(_racket, True, "a"),
    "balloon": Kind(_balloon, True, "a"),
    "flag": Kind(_flag, True, "a"),
    "baseball bat": Kind(_baseball_bat, False, "a"),
    "trophy": Kind(_trophy, False, "a"),
    "suitcase": Kind(_suitcase, True, "a"),
    "handbag": Kind(_handbag, True, "a"),
    "surfboard": Kind(_surfboard, True, "a"),
    "skateboard": Kind(_skateboard, True, "a"),
    "phone": Kind(_phone, False, "a"),
    "newspaper": Kind(_newspaper, False, "a"),
}


def draw_object(canvas: np.ndarray, name: str, hand: np.ndarray, scale: float, colour: Colour) -> None:
    """Paint object `name` (a key of OBJECTS) held at `hand` (pixels), `scale` pixels a unit."""
    OBJECTS[name].paint(Held(canvas, np.asarray(hand, np.float64), scale, colour))
