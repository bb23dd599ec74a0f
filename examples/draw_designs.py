"""Draw the example designs and their true layers: `python examples/draw_designs.py [FOLDER]`.

Writes `poster.png`, `app-screen.png` and `icons.png`, and for each a folder of full-size PNG layers, bottom first, that flatten to exactly
that picture. Nothing but this code goes into them. They are committed, so that nobody needs to run it.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from examples.sheet import Point, Sheet  # noqa: E402
from layerctl.composite import flatten  # noqa: E402
from layerctl.layers import Layer, LayerStack, on_canvas  # noqa: E402

POSTER = (840, 1188)
SCREEN = (800, 1200)
ICONS = (1000, 700)


def poster() -> list[Layer]:
    """A night market at the moon festival."""
    width, height = POSTER
    sky = Sheet(POSTER)
    sky.area([(0, 0), (width, 0), (width, 430), (0, 430)], ("#12163f", "#54316f"))
    sky.area([(0, 429), (width, 429), (width, 860), (0, 860)], ("#54316f", "#f59a6c"))
    sky.area([(0, 859), (width, 859), (width, height), (0, height)], "#f59a6c")
    moon = Sheet(POSTER)
    moon.glow(560, 380, 330, "#ffd9a0", 0.55)
    moon.disk(560, 380, 186, ("#fff6dc", "#ffd88f"))
    for x, y, radius in ((500, 320, 34), (610, 300, 20), (620, 440, 44), (520, 450, 18), (560, 380, 12)):
        moon.disk(x, y, radius, "#f3c67c", 0.35)
    far = Sheet(POSTER)
    far.area(_ridge(width, height, 690, 70, 2.1, 0.4), ("#7d4a8a", "#b8647f"))
    middle = Sheet(POSTER)
    middle.area(_ridge(width, height, 780, 46, 3.3, 2.0), ("#47306b", "#6b3a72"))
    near = Sheet(POSTER)
    near.area(_ridge(width, height, 880, 30, 4.6, 4.2), ("#1c1a45", "#12112f"))
    for x, foot, size in ((40, 962, 1.25), (96, 960, 0.9), (696, 956, 1.0), (752, 968, 1.35), (808, 960, 1.05)):
        _pine(near, x, foot, size)
    chinese, english, details = Sheet(POSTER), Sheet(POSTER), Sheet(POSTER)
    chinese.text(64, 1012, "中秋夜市", 118, "#fff1d6", "Serif-Bold", spacing=8)
    english.text(68, 1078, "Moonlight Market", 49, "#ffc48a", "Serif-Bold", spacing=2.6)
    details.text(70, 1128, "26 September · 6 pm till midnight · Riverside Park", 22, "#d9cdea", "Sans-Regular", spacing=0.6)
    return [
        sky.layer("Sky", "background"),
        moon.layer("Moon"),
        far.layer("Far mountains"),
        middle.layer("Hills"),
        near.layer("Forest"),
        _lantern(446, 206, 0.8).layer("Small lantern"),
        _lantern(176, 262, 1.25).layer("Large lantern"),
        chinese.layer("中秋夜市", "text"),
        english.layer("Moonlight Market", "text"),
        details.layer("26 September · 6 pm till midnight · Riverside Park", "text"),
    ]


def app_screen() -> list[Layer]:
    """The home screen of a walking app."""
    width, height = SCREEN
    plate = Sheet(SCREEN)
    plate.area([(0, 0), (width, 0), (width, height), (0, height)], ("#f7f3ec", "#ece7f2"))
    title, caption = Sheet(SCREEN), Sheet(SCREEN)
    title.text(56, 128, "Good morning, Ana", 50, "#25213b")
    caption.text(56, 178, "Three dry hours ahead: time for a walk", 25, "#7d7891", "Sans-Regular")
    route = Sheet(SCREEN)
    route.text(96, 304, "Ridge Trail", 44, "#ffffff")
    route.text(96, 350, "12.4 km · 3 h 20", 25, "#ffffff", "Sans-Regular")
    return [
        plate.layer("Background", "background"),
        title.layer("Good morning, Ana", "text"),
        caption.layer("Three dry hours ahead: time for a walk", "text"),
        _hero().layer("Picture card"),
        route.layer("Ridge Trail\n12.4 km · 3 h 20", "text"),
        _steps().layer("Steps card"),
        _week().layer("Week card"),
        _tab_bar().layer("Tab bar"),
        _plus().layer("Add button"),
    ]


def icons() -> list[Layer]:
    """Six app icons and a badge on paper."""
    width, height = ICONS
    plate = Sheet(ICONS)
    plate.area([(0, 0), (width, 0), (width, height), (0, height)], ("#f3efe7", "#e6dfd3"))
    badge = Sheet(ICONS)
    badge.disk(606, 92, 38, ("#ff6b5e", "#e23b3b"))
    badge.text(606, 92, "3", 44, "#ffffff", anchor="mm")
    badge.cast_shadow(5, 5, 0.35)
    drawn = [("Camera", _camera), ("Chat", _chat), ("Weather", _weather), ("Music", _music), ("Maps", _maps), ("Garden", _garden)]
    layers = [plate.layer("Background", "background")]
    for place, (name, draw) in enumerate(drawn):
        layers.append(draw(130 + 260 * (place % 3), 90 + 300 * (place // 3)).layer(name))
    return [*layers, badge.layer("Badge")]


def write(name: str, size: tuple[int, int], layers: Sequence[Layer], folder: Path) -> None:
    """`NAME.png`, and `NAME-layers/NN-layer-name.png` of the full size."""
    stack = LayerStack(*size, tuple(layers))
    parts = folder / f"{name}-layers"
    parts.mkdir(parents=True, exist_ok=True)
    for old in parts.glob("*.png"):
        old.unlink()
    Image.fromarray(flatten(stack)).convert("RGB").save(folder / f"{name}.png", optimize=True)
    for index, layer in enumerate(stack.walk()):
        title = re.sub(r"[^\w]+", "-", layer.name.lower()).strip("-")
        Image.fromarray(on_canvas(layer, *size)).save(parts / f"{index:02d}-{title}.png", optimize=True)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples" / "designs"
    write("poster", POSTER, poster(), folder)
    write("app-screen", SCREEN, app_screen(), folder)
    write("icons", ICONS, icons(), folder)


def _ridge(width: int, height: int, level: float, swing: float, pace: float, phase: float) -> list[Point]:
    """The outline of a mountain range down to the bottom of the picture: two waves over each other."""
    top = []
    for x in range(-8, width + 9, 4):
        turn = x / width * 2 * math.pi
        rise = math.sin(pace / 2 * turn + phase) + 0.45 * math.sin(1.7 * pace * turn + 2 * phase) + 0.07 * math.sin(6 * pace * turn)
        top.append((float(x), level - swing * rise))
    return [*top, (width + 8.0, height + 8.0), (-8.0, height + 8.0)]


def _pine(sheet: Sheet, x: float, foot: float, size: float) -> None:
    for step in range(4):
        half, base = (46 - 9 * step) * size, foot - (18 + 30 * step) * size
        sheet.area([(x - half, base), (x + half, base), (x, base - 58 * size)], "#1c1a45")


def _lantern(x: float, y: float, size: float) -> Sheet:
    """A paper lantern on its string; y is the middle of the paper."""
    sheet = Sheet(POSTER)
    wide, high = 88 * size, 72 * size
    sheet.glow(x, y, 190 * size, "#ff9a4d", 0.5)
    sheet.line([(x, -20), (x, y - high)], 2.6, "#c98a26")
    sheet.oval((x - wide, y - high, x + wide, y + high), ("#ff7a45", "#c8242f"))
    for share in (0.72, 0.4):
        sheet.oval((x - wide * share, y - high, x + wide * share, y + high), ("#ffa04f", "#d93a35"), 0.55)
    sheet.oval((x - wide * 0.13, y - high, x + wide * 0.13, y + high), ("#ffd27a", "#f0703c"), 0.6)
    for side in (-1, 1):
        low, up = sorted((y + side * (high - 6 * size), y + side * (high + 12 * size)))
        sheet.card((x - 34 * size, low, x + 34 * size, up), 4 * size, ("#f7c65b", "#c98a26"))
    for step in (-2, -1, 0, 1, 2):
        sheet.line(
            [(x + 7 * step * size, y + high + 12 * size), (x + 9 * step * size, y + high + (66 - 5 * abs(step)) * size)],
            2.2 * size,
            "#e8493a",
        )
    return sheet


def _hero() -> Sheet:
    """A card with a sunrise over mountains."""
    sheet = Sheet(SCREEN)
    scene = Sheet(SCREEN)
    scene.card((56, 226, 744, 596), 36, ("#2f6f9f", "#ffc78a"))
    scene.glow(540, 400, 230, "#fff0c0", 0.8)
    scene.disk(540, 400, 54, "#fff6da")
    scene.area(_ridge(800, 700, 470, 44, 2.4, 1.0), ("#5d86a8", "#8f8aa6"))
    scene.area(_ridge(800, 700, 520, 34, 3.1, 3.4), ("#33587d", "#3f4a74"))
    scene.area(_ridge(800, 700, 560, 20, 4.0, 5.2), ("#1e3354", "#1a2745"))
    frame = Sheet(SCREEN)
    frame.card((56, 226, 744, 596), 36, "#ffffff")
    sheet.picture.paste(scene.picture, mask=frame.picture.getchannel("A"))
    sheet.cast_shadow(14, 16, 0.28)
    return sheet


def _steps() -> Sheet:
    """A card with a ring that is three quarters full."""
    sheet = Sheet(SCREEN)
    sheet.card((56, 640, 386, 1000), 32, "#ffffff")
    sheet.cast_shadow(10, 14, 0.16)
    sheet.arc(221, 800, 92, 26, (0.0, 1.0), "#e7f3ec")
    sheet.arc(221, 800, 92, 26, (0.0, 0.76), ("#37c98b", "#159a78"))
    sheet.text(221, 804, "7,620", 42, "#25213b", anchor="mm")
    sheet.text(221, 950, "steps today", 25, "#7d7891", "Sans-Regular", anchor="ms")
    return sheet


def _week() -> Sheet:
    """A card with seven bars."""
    sheet = Sheet(SCREEN)
    sheet.card((414, 640, 744, 1000), 32, "#ffffff")
    sheet.cast_shadow(10, 14, 0.16)
    for day, (letter, share) in enumerate(zip("MTWTFSS", (0.45, 0.7, 0.35, 0.85, 0.6, 1.0, 0.5), strict=True)):
        x = 459 + 40 * day
        sheet.card((x - 11, 690, x + 11, 890), 11, "#efeaf6")
        sheet.card((x - 11, 890 - 200 * share, x + 11, 890), 11, ("#8f7bea", "#6a4fd0") if share < 1 else ("#ffb04d", "#ff7d45"))
        sheet.text(x, 950, letter, 23, "#7d7891", "Sans-Regular", anchor="ms")
    return sheet


def _tab_bar() -> Sheet:
    sheet = Sheet(SCREEN)
    sheet.card((0, 1086, 800, 1260), 34, "#ffffff")
    sheet.cast_shadow(-6, 12, 0.14)
    active, idle = "#6a4fd0", "#b9b3c9"
    sheet.area([(92, 1148), (124, 1118), (156, 1148)], active)
    sheet.card((100, 1142, 148, 1172), 5, active)
    for x, y in ((262, 1124), (286, 1152), (312, 1130)):
        sheet.disk(x, y, 7, idle)
    sheet.line([(262, 1164), (262, 1124), (286, 1152), (312, 1130), (312, 1164)], 6, idle)
    sheet.disk(676, 1132, 14, idle)
    sheet.card((650, 1150, 702, 1174), 12, idle)
    for place, height in enumerate((22, 36, 50)):
        sheet.card((496 + 20 * place, 1172 - height, 508 + 20 * place, 1172), 4, idle)
    return sheet


def _plus() -> Sheet:
    sheet = Sheet(SCREEN)
    sheet.disk(400, 1094, 54, ("#ff9a5a", "#f4603f"))
    sheet.line([(376, 1094), (424, 1094)], 8, "#ffffff")
    sheet.line([(400, 1070), (400, 1118)], 8, "#ffffff")
    sheet.cast_shadow(10, 10, 0.32, "#7a2410")
    return sheet


def _tile(x: float, y: float, top: str, bottom: str) -> Sheet:
    """The body of an icon, 220 px wide, with its shadow."""
    sheet = Sheet(ICONS)
    sheet.card((x, y, x + 220, y + 220), 52, (top, bottom))
    sheet.cast_shadow(10, 12, 0.3, "#3a2c1c")
    return sheet


def _camera(x: float, y: float) -> Sheet:
    sheet = _tile(x, y, "#5b6b8c", "#2b3552")
    sheet.card((x + 38, y + 72, x + 182, y + 170), 22, ("#fdfdfd", "#dfe4ee"))
    sheet.card((x + 78, y + 52, x + 142, y + 92), 14, ("#fdfdfd", "#f4f6fa"))
    sheet.disk(x + 110, y + 120, 39, "#2b3552")
    sheet.disk(x + 110, y + 120, 29, ("#4aa3e0", "#2b5fb0"))
    sheet.disk(x + 100, y + 109, 9, "#ffffff", 0.85)
    sheet.disk(x + 163, y + 91, 7, "#ff7d45")
    return sheet


def _chat(x: float, y: float) -> Sheet:
    sheet = _tile(x, y, "#4fd18b", "#1c9c6b")
    sheet.area([(x + 74, y + 132), (x + 120, y + 150), (x + 66, y + 182)], "#ffffff")
    sheet.oval((x + 40, y + 54, x + 180, y + 162), "#ffffff")
    for step in (-1, 0, 1):
        sheet.disk(x + 110 + 34 * step, y + 108, 10, "#1c9c6b")
    return sheet


def _weather(x: float, y: float) -> Sheet:
    sheet = _tile(x, y, "#63b8ff", "#2a74d8")
    for step in range(8):
        angle = step * math.pi / 4
        ray = [(x + 88 + reach * math.cos(angle), y + 88 + reach * math.sin(angle)) for reach in (49, 62)]
        sheet.line(ray, 8, "#ffd95e")
    sheet.disk(x + 88, y + 88, 38, ("#ffe98a", "#ffc53d"))
    for cloud_x, cloud_y, radius in ((90, 150, 30), (126, 132, 38), (158, 152, 28)):
        sheet.disk(x + cloud_x, y + cloud_y, radius, "#ffffff")
    sheet.area([(x + 90, y + 150), (x + 158, y + 150), (x + 158, y + 180), (x + 90, y + 180)], "#ffffff")
    return sheet


def _music(x: float, y: float) -> Sheet:
    sheet = _tile(x, y, "#ff7fa8", "#d4356f")
    sheet.line([(x + 88, y + 152), (x + 88, y + 70), (x + 160, y + 56), (x + 160, y + 138)], 11, "#ffffff")
    sheet.area([(x + 84, y + 66), (x + 164, y + 50), (x + 164, y + 76), (x + 84, y + 92)], "#ffffff")
    for note_x, note_y in ((69, 154), (141, 140)):
        sheet.oval((x + note_x - 24, y + note_y - 18, x + note_x + 24, y + note_y + 18), "#ffffff")
    return sheet


def _maps(x: float, y: float) -> Sheet:
    sheet = _tile(x, y, "#f7f4ea", "#e3dcc6")
    sheet.line([(x + 30, y + 150), (x + 92, y + 118), (x + 130, y + 166), (x + 190, y + 140)], 15, "#ffffff")
    sheet.line([(x + 34, y + 64), (x + 74, y + 112), (x + 70, y + 188)], 15, "#b9d9a3")
    sheet.area([(x + 82, y + 104), (x + 158, y + 104), (x + 120, y + 176)], "#e2483d")
    sheet.disk(x + 120, y + 88, 44, ("#ff7664", "#e2483d"))
    sheet.disk(x + 120, y + 88, 17, "#ffffff")
    return sheet


def _garden(x: float, y: float) -> Sheet:
    sheet = _tile(x, y, "#ffd071", "#f59b3a")
    sheet.line([(x + 110, y + 140), (x + 110, y + 92)], 8, "#3c7a3f")
    for side in (-1, 1):
        sheet.area(_leaf(x + 110, y + 116, side * 66, -52), ("#86d466", "#3f9a4b"))
    sheet.area([(x + 68, y + 138), (x + 152, y + 138), (x + 140, y + 188), (x + 80, y + 188)], ("#c8643c", "#9c4426"))
    sheet.card((x + 60, y + 128, x + 160, y + 148), 6, ("#dd7a4d", "#c8643c"))
    return sheet


def _leaf(x: float, y: float, dx: float, dy: float) -> list[Point]:
    """A leaf from its stalk at x, y to its tip, bulging to both sides of the line between them."""
    there = [step / 24 for step in range(25)]
    edge = []
    for side, path in ((0.34, there), (-0.34, there[::-1])):
        for share in path:
            bulge = side * math.sin(math.pi * share) * (1.15 - 0.3 * share)
            edge.append((x + dx * share - dy * bulge, y + dy * share + dx * bulge))
    return edge


if __name__ == "__main__":
    main()
