"""Where the scenes get their parts from: photographs, wallpapers, cut-outs, clip-art, emoji, fonts and words, each for one split.

Photographs and wallpapers were chosen by eye from a contact sheet: those without a salient object of their own, which would be a layer
that the truth does not know. Cut-outs and clip-art are chosen by measured rules (`is_clear_cutout`, `is_photograph`) and a short list
of names that the rules let through.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from benchmarks import assets
from benchmarks.assets import Split

Bytes = npt.NDArray[np.uint8]

PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "tuning": (
        "Bridge_by_Sander_Klootwijk.jpg", "BytheWater", "DarkestHour", "Dune.jpg", "ocean_splash.jpg", "GreenMeadow.jpg", "Grey", "Path",
        "Storm.jpg", "Wood.jpg", "summer_1am", "cliff.jpg", "mudstone.jpg", "ocean_waves.jpg", "rocks.jpg",
    ),
    "held-out": (
        "ColdRipple", "Blinds.jpg", "aitzgorri_by_Aitzol_Berasategi.jpg", "life_by_Aitzol_Berasategi.jpg", "Volna",
        "sunset_by_Aitzol_Berasategi.jpg", "analogpattern_by_Peter_Nerlich.jpg", "burnt_bark.jpg", "corn_maze.jpg", "redwoods_above.jpg",
        "spiders_web.jpg", "sun_behind_clouds.jpg", "sun_behind_leaves.jpg",
    ),
}  # fmt: skip
WALLPAPERS: dict[Split, tuple[str, ...]] = {
    "tuning": ("Elarun", "wood-l.webp", "Ubuntu-Mate-Cold-no-logo.png", "Stripes.png", "symbolic-l.webp"),
    "held-out": ("adwaita-l.webp", "adwaita-d.webp", "PastelHills", "Opal", "Kokkini"),
}

CLIPART_FOLDERS_WITHOUT_OBJECTS = (
    "signs_and_symbols", "special", "shapes", "computer/icons", "computer/buttons", "recreation/games/cards", "transportation/aiga", "doc",
    "transportation/roadsigns", "geography", "logos", "decorations", "people/stickmen", "recreation/games/dice", "duplicates",
)  # fmt: skip
DRAWN_STAMP_FOLDERS = ("cartoon", "symbols", "flags", "roadsigns", "plastic", "toys", "doc/", "clothes", "easter")
CLIPART_WITH_TEXT: tuple[str, ...] = (
    "firestation_mimooh_01.png", "home_piche_loic_corwin_r_01.png", "alcatel_nicolas_cle_.png", "phone_sergio_luiz_araujo_01.png",
    "diary_costea_bogdan_01.png", "pizza_slice_01.png", "piano_theory__ganson.png", "piano_theory_ganson1.png", "teacher_zazou.png",
    "abc_blocks_petri_lummema_01.png", "milk_ganson.png", "milk_carton_jarno_vasama_.png", "milk_mateya_01.png",
    "milk_bw.png", "ped_and_bikes.png",
)  # fmt: skip
NOT_PHOTOGRAPHS = ("button.png", "bunny.png", "daffodil.png", "paratrooper.png", "explosion.png", "fire.png", "drumkit.png")

EMOJI_RANGES = ((0x1F300, 0x1F519), (0x1F525, 0x1F550), (0x1F5FB, 0x1F650), (0x1F680, 0x1F6BA), (0x1F900, 0x1FA00), (0x1FA70, 0x1FAD0))
EMOJI_WITH_LETTERS = (0x1F3E7, 0x1F3E8, 0x1F3E9, 0x1F3EA, 0x1F4AF, 0x1F4C5, 0x1F4C6, 0x1F4DB, 0x1F3A6, 0x1F3B0, 0x1F92C, 0x1F948, 0x1F949)
EMOJI_IN_DASHED_BOXES = (0x1F9B0, 0x1F9B1, 0x1F9B2, 0x1F9B3)
EMOJI_SIZE = 109

LATIN_FONTS: dict[Split, tuple[str, ...]] = {
    "tuning": (
        "Cantarell-Bold.otf", "Cantarell-ExtraBold.otf", "DejaVuSans-Bold.ttf", "LiberationSans-Bold.ttf", "LiberationSans-Regular.ttf",
        "Roboto-Black.ttf", "Roboto-Medium.ttf", "lobster.otf", "Dosis-Bold.otf", "Dosis-ExtraBold.otf",
    ),
    "held-out": (
        "Comfortaa-Bold.ttf", "Comfortaa-Regular.ttf", "Quicksand-Bold.ttf", "Quicksand-Medium.ttf", "EBGaramond12-Italic.otf",
        "EBGaramond12-Regular.otf", "Cabin-Bold.otf", "Cabin-Medium.otf", "Yrsa-Bold.ttf", "Yrsa-SemiBold.ttf",
    ),
}  # fmt: skip
ASIAN_FONTS: dict[Split, tuple[tuple[str, int, str], ...]] = {
    "tuning": (("ipag.ttf", 0, "ja"), ("VL-Gothic-Regular.ttf", 0, "ja")),
    "held-out": (
        ("NotoSansCJK-Bold.ttc", 0, "ja"), ("NotoSansCJK-Bold.ttc", 2, "zh"),
        ("NotoSansCJK-Regular.ttc", 2, "zh"), ("wqy-zenhei.ttc", 0, "zh"),
    ),
}  # fmt: skip
WORDS: dict[Split, tuple[str, ...]] = {
    "tuning": (
        "Autumn Fair", "BIG SALE", "Open Daily", "City Marathon 2025", "New Arrivals", "Jazz on the River", "Hello", "Farm to Table",
        "Save 30%", "Happy Birthday!", "Film Club", "Read More Books", "Crème brûlée", "Travel Light", "MOUNTAIN LODGE", "Free Entry",
        "Sunday Market\n9:00 - 14:00", "Learn to Code\nin 30 days", "Winter Coats\nand Boots", "Concert\nin the Park", "Stay\nCurious",
    ),
    "held-out": (
        "Spring Festival", "GRAND OPENING", "Fresh Coffee", "Summer Sale", "Night Market", "Café Lumière", "Weekend Yoga", "Live Music",
        "50% OFF", "Join us today", "Book Fair 2026", "Garden Party", "Design Week", "Homemade Pizza", "Happy New Year", "ADVENTURE",
        "Keep it simple", "Ocean Breeze", "Museum Night", "Über den Wolken", "Piñata Fiesta", "Download now", "Only $19.90", "Thank you!",
        "Slow Food\nFast Bikes", "Art & Craft\nWorkshop", "Wild Forest\nTrail Run", "Morning\nsessions", "Learn. Build.\nRepeat.",
        "Saturday, May 9\n18:30 - 22:00", "The Little\nBakery\nRound the Corner", "Tickets\nat the door", "Sail Away\nwith us",
    ),
}  # fmt: skip
ASIAN_WORDS: dict[tuple[Split, str], tuple[str, ...]] = {
    ("tuning", "ja"): ("秋の味覚", "夏休み", "東京散歩", "本日開店", "花火大会\n八月十日", "おいしいパン"),
    ("held-out", "ja"): ("春の音楽祭", "温泉旅行", "おかえりなさい", "新発売", "手作り市\n日曜日", "コーヒーの時間"),
    ("held-out", "zh"): (
        "城市之光", "新年快乐", "美食节", "周末市集", "限时优惠", "旅行的意义", "夏日音乐会\n免费入场", "茶与书", "开业大吉",
    ),
}  # fmt: skip


@cache
def load_photograph(name: str) -> Image.Image:
    """A photograph or wallpaper of the lists above by file name, or by folder name for Plasma's; RGB, at most 1500 px on the long side."""
    picture: Image.Image = Image.open(_photograph_paths()[name])
    picture.draft("RGB", (1500, 1500))
    picture = picture.convert("RGB")
    picture.thumbnail((1500, 1500), Image.Resampling.LANCZOS)
    return picture


@cache
def clipart_paths(split: Split) -> list[Path]:
    """Candidates for clip-art; what `load_clipart` gives for one may still be None."""
    paths = assets.files(assets.CLIPART, (".png",))
    return [
        path
        for path in paths
        if assets.split_of(path.name, trainable=True) == split
        and not any(folder in path.as_posix() for folder in CLIPART_FOLDERS_WITHOUT_OBJECTS)
        and path.name not in CLIPART_WITH_TEXT
    ]


@cache
def stamp_paths(split: Split) -> list[Path]:
    """Candidates for photographic cut-outs; what `load_stamp` gives for one may still be None."""
    paths = assets.files(assets.CUTOUTS, (".png",))
    return [
        path
        for path in paths
        if assets.split_of(path.name, trainable=False) == split
        and not any(folder in path.as_posix() for folder in DRAWN_STAMP_FOLDERS)
        and path.name not in NOT_PHOTOGRAPHS
    ]


@cache
def emoji_points(split: Split) -> list[int]:
    points = [point for first, last in EMOJI_RANGES for point in range(first, last)]
    left_out = EMOJI_WITH_LETTERS + EMOJI_IN_DASHED_BOXES
    return [point for point in points if point not in left_out and assets.split_of(f"emoji{_letters(point)}", trainable=True) == split]


@cache
def load_clipart(path: Path) -> Bytes | None:
    """The drawing as RGBA cropped to its content, None unless it is one clear coloured object."""
    rgba = _cropped(Image.open(path)) if max(Image.open(path).size) <= 1500 else None
    return rgba if rgba is not None and is_clear_cutout(rgba) and not _is_outline(rgba) else None


@cache
def load_stamp(path: Path) -> Bytes | None:
    """The cut-out as RGBA cropped to its content, None unless it is a photograph of one clear object."""
    rgba = _cropped(Image.open(path))
    return rgba if rgba is not None and is_clear_cutout(rgba) and is_photograph(rgba) else None


@cache
def load_emoji(point: int) -> Bytes | None:
    """The emoji as RGBA cropped to its content, None where the font has none."""
    font = ImageFont.truetype(str(assets.files(assets.EMOJI, (".ttf",))[0]), EMOJI_SIZE)
    tile = Image.new("RGBA", (150, 150))
    ImageDraw.Draw(tile).text((5, 5), chr(point), font=font, embedded_color=True)
    rgba = _cropped(tile)
    return rgba if rgba is not None and is_clear_cutout(rgba, smallest=80) else None


@cache
def font_path(name: str) -> Path:
    return next(path for path in assets.files(assets.FONTS + assets.MORE_FONTS, (".ttf", ".otf", ".ttc")) if path.name == name)


def is_clear_cutout(rgba: Bytes, *, smallest: int = 150) -> bool:
    """Whether the picture shows one solid object: big enough, 25..93 % of its box, few half-transparent pixels, in one piece, no hairlines.

    A hairline is what an opening with a disk of 2 % of the size removes; 85 % of the object must survive it.
    """
    height, width = rgba.shape[:2]
    alpha = rgba[..., 3] / 255.0
    inside = alpha > 0.5
    coverage = float(alpha.mean())
    if max(height, width) < smallest or min(height, width) < smallest / 2.5 or not 0.25 <= coverage <= 0.93:
        return False
    if ((alpha > 0.05) & (alpha < 0.95)).mean() > 0.15 * coverage:
        return False
    pieces, _ = ndimage.label(inside)
    if np.bincount(pieces[inside]).max() < 0.9 * inside.sum():
        return False
    radius = max(1, int(0.02 * max(height, width)))
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    opened = ndimage.distance_transform_edt(depth < radius) <= radius
    return bool(opened[inside].mean() >= 0.85)


def is_photograph(rgba: Bytes) -> bool:
    """Whether fewer than 12 % of the horizontal neighbours inside the object are exactly equal in grey: drawings have flat areas."""
    inside = ndimage.binary_erosion(rgba[..., 3] > 250, iterations=3)
    if inside.sum() < 2000:
        return False
    grey = rgba[..., :3].astype(np.float64).mean(axis=2)
    return bool((np.diff(grey, axis=1)[inside[:, 1:]] == 0).mean() < 0.12)


def _is_outline(rgba: Bytes) -> bool:
    """Whether a drawing is mostly white paper, or one flat colour."""
    colours = rgba[..., :3][rgba[..., 3] > 127].astype(np.int64)
    shades = np.bincount((colours[::7] // 32) @ np.array([64, 8, 1]))
    return bool((colours.min(axis=1) > 235).mean() > 0.7 or (shades > 0.02 * shades.sum()).sum() < 2)


def _cropped(picture: Image.Image) -> Bytes | None:
    rgba = picture.convert("RGBA")
    box = rgba.getchannel("A").point(lambda value: 255 * (value > 12)).getbbox()
    return np.asarray(rgba.crop(box)) if box else None


def _letters(number: int) -> str:
    """A code point as letters only, so that every emoji is a family of its own."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


@cache
def _photograph_paths() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in assets.files(assets.PHOTOGRAPHS + assets.MORE_PHOTOGRAPHS, (".jpg", ".png", ".webp")):
        if "wallpapers" not in path.parts:
            found.setdefault(path.name, path)
        elif path.parent.name == "images" and path.stem not in ("1080x1920", "720x1440", "1622x2880"):
            found[path.parts[path.parts.index("wallpapers") + 1]] = path
    return found
