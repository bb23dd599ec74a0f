"""How well a photograph's subject is found: `python benchmarks/subject.py`.

Sixteen photographs with a subject, whose outlines were drawn by hand, and others without one: the examples, and wallpapers of Debian
packages outside of the held-out part. The weights of `subject.py` were set on these pictures, so that the numbers flatter it; the held-out
scenes of `benchmarks/usefulness` do not.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import assets  # noqa: E402
from layerctl.engines.classic.network import look  # noqa: E402
from layerctl.engines.classic.proposals import LOOKS, WORK  # noqa: E402
from layerctl.engines.classic.subject import SURE, find_subject  # noqa: E402

UNIT = 424.8
"""The long side of a picture in the units of the outlines."""
OUTLINES = {
    "astronaut": (
        "155,25 185,12 225,20 247,50 250,90 232,110 222,140 245,165 253,205 240,240 285,222 300,260 302,290 270,300 245,330 "
        "232,380 232,424 70,424 25,380 18,360 30,260 60,210 100,190 98,165 115,140 140,128 150,112 130,90 128,55"
    ),
    "chelsea": "20,0 308,5 312,30 300,60 302,100 300,140 280,165 265,185 255,215 235,249 10,249 40,180 15,120 5,60",
    "coffee": (
        "125,75 122,50 135,25 165,12 205,10 240,15 265,35 285,48 300,52 300,70 325,110 338,150 335,180 310,225 270,255 220,270 "
        "170,270 120,255 80,225 58,185 52,150 58,110 80,80 115,58"
    ),
    "rocket": "207,125 213,80 221,125 221,272 205,272",
    "Picture_0B": (
        "95,150 130,100 180,65 240,40 290,37 340,50 385,85 415,130 420,170 410,220 380,260 340,280 290,285 240,270 190,240 140,195"
    ),
    "Garden": (
        "155,150 165,125 215,120 190,90 190,70 240,75 260,50 300,60 350,65 355,100 424,80 424,230 390,205 395,240 370,262 "
        "320,262 305,225 255,210 230,200 190,210 200,180 235,160 155,160"
    ),
    "YellowFlower": (
        "90,135 130,130 165,140 140,100 130,70 155,65 215,110 165,45 165,25 200,30 225,0 424,0 424,264 90,264 105,225 150,205 "
        "180,205 100,165"
    ),
    "lighthouse": (
        "136,15 142,15 150,45 210,110 212,150 243,150 245,200 260,200 225,277 235,424 53,424 70,277 50,275 30,202 40,155 68,150 "
        "68,110 130,60"
    ),
    "free": ("107,212 155,212 190,228 210,212 225,210 265,187 274,188 235,225 232,260 225,270 195,270 175,255 190,240 150,238 115,222"),
    "FlyingKonqui": "250,75 262,65 285,65 290,45 300,30 325,28 350,35 360,55 375,60 355,75 345,95 300,98 290,110 270,118 270,105 250,95",
    "seeding": "61,75 68,45 90,20 126,10 165,20 188,50 190,90 180,115 150,135 132,138 132,238 118,238 118,138 90,128 68,105",
    "Aqua": "230,140 240,120 280,108 340,120 357,130 360,170 345,210 300,222 250,205 235,180",
    "FallenLeaf": (
        "225,140 265,145 268,110 285,105 287,80 298,100 310,105 318,120 325,115 335,130 370,100 365,145 380,150 355,175 365,190 "
        "320,205 270,195 235,185 240,160"
    ),
    "Kite": "273,80 302,88 275,108",
    "LadyBird": "278,140 285,122 300,118 318,130 316,155 295,158",
    "Kleiber": "172,85 185,100 215,140 228,152 205,152 195,157 178,150 172,125 178,115",
}
WITHOUT = (
    "Bridge", "BytheWater", "DarkestHour", "Dune", "ocean_splash", "GreenMeadow", "Grey", "Path", "Storm", "Wood", "summer_1am", "cliff",
    "mudstone", "ocean_waves", "rocks", "hubble_deep_field", "symbolic-l", "wood-l", "trees_above", "picosdeeuropa", "sheep", "grid-d",
    "truchet-l", "mossy_bark", "Infinite-Sea", "Elarun",
)  # fmt: skip
PORTRAITS = ("1080x1920", "720x1440", "1622x2880", "360x720")


def pictures() -> dict[str, Path]:
    """The file of every picture, by the first part of its name, or by the name of its wallpaper's folder."""
    packages = (*assets.PHOTOGRAPHS, *assets.MORE_PHOTOGRAPHS)
    files = [*(ROOT / "examples" / "photographs").iterdir(), *assets.files(packages, (".jpg", ".jpeg", ".png", ".webp"))]
    wanted, found = {*OUTLINES, *WITHOUT}, {}
    for path in files:
        name = path.parts[-4] if path.parts[-3] == "contents" else path.stem.split("_by")[0]
        if name in wanted and path.stem not in PORTRAITS and path.suffix != ".md":
            found[name] = path
    return found


def truth(outline: str, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The inside of an outline on a picture of this size."""
    points = np.array([pair.split(",") for pair in outline.split()], float) * max(size) / UNIT
    drawn = np.zeros(size, np.uint8)
    cv2.fillPoly(drawn, [np.rint(points).astype(np.int32)], 1)
    return drawn > 0


def main() -> None:
    cv2.setNumThreads(1)
    sure, ious = {True: 0, False: 0}, []
    files = pictures()
    seconds = []
    print("| picture | IoU | confidence |\n| --- | ---: | ---: |")
    for name in (*OUTLINES, *WITHOUT):
        if name not in files:
            raise SystemExit(f"there is no picture {name!r}: look into {assets.CACHE}")
        picture = np.array(Image.open(files[name]).convert("RGB"))
        factor = WORK / max(picture.shape)
        size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
        work = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if factor < 1 else picture
        looks = [look(work, side) for side in LOOKS]
        began = time.process_time()
        subject = find_subject(work, looks)
        seconds.append(time.process_time() - began)
        confidence = subject.confidence if subject else 0.0
        sure[name in OUTLINES] += confidence >= SURE
        shown = "no subject"
        if name in OUTLINES:
            there = truth(OUTLINES[name], work.shape[:2])
            ious.append(float((subject.mask & there).sum() / (subject.mask | there).sum()) if subject else 0.0)
            shown = f"{ious[-1]:.2f}"
        print(f"| {name} | {shown} | {confidence:.2f} |", flush=True)
    print(f"\nmean IoU {np.mean(ious):.3f} of {len(ious)}; CPU seconds: mean {np.mean(seconds):.2f}, largest {max(seconds):.2f}")
    print(f"confidence at least {SURE}: {sure[True]} of {len(OUTLINES)} with a subject, {sure[False]} of {len(WITHOUT)} without one")


if __name__ == "__main__":
    main()
