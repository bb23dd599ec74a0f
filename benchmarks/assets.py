"""Freely licensed art from Debian's archive for the benchmarks and for training the segmenter; nothing of it is committed.

Packages are downloaded and unpacked (not installed) into `.cache/assets`, which needs `apt-get` and `dpkg-deb` but no root.
Every asset belongs to one split, decided by its family alone (the first word of its file name, so that "led_red.png" and
"led_green.png" stay together): "train" for the segmenter, "tuning" for choosing methods and thresholds, "held-out" for reports only.
Only art in the public domain, under CC0, CC-BY 4.0, the SIL Open Font License or Apache-2.0 is used for training;
the share of a package with another licence that would fall into "train" goes to "tuning".
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Literal

Split = Literal["train", "tuning", "held-out"]
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "assets"

CLIPART = ("openclipart-png",)  # public domain
CUTOUTS = ("tuxpaint-stamps-default",)  # GPL-2
EMOJI = ("fonts-noto-color-emoji",)  # OFL-1.1 and Apache-2.0
PHOTOGRAPHS = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "gnome-backgrounds", "mate-backgrounds", "plasma-workspace-wallpapers")
FONTS = (
    "fonts-dejavu-core", "fonts-lato", "fonts-open-sans", "fonts-roboto-unhinted", "fonts-comfortaa",
    "fonts-liberation", "fonts-cantarell", "fonts-noto-cjk",
)  # fmt: skip

# Only the usefulness benchmark draws from these; nothing of them is for training.
MORE_PHOTOGRAPHS = ("tuxpaint-data",)  # GPL-2
MORE_FONTS = (
    "fonts-quicksand", "fonts-ebgaramond", "fonts-cabin", "fonts-yrsa-rasa", "fonts-wqy-zenhei",
    "fonts-lobster", "fonts-dosis", "fonts-ipafont-gothic", "fonts-vlgothic",
)  # fmt: skip

# Files of lomiri-wallpapers-16.04 under CC-BY 4.0 or CC0 (its copyright file); the other photographs are CC-BY-SA or GPL.
TRAINING_PHOTOGRAPHS = (
    "aitzgorri_by_Aitzol_Berasategi.jpg", "friends_by_Aitzol_Berasategi.jpg", "life_by_Aitzol_Berasategi.jpg",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg", "Picture_0B_by_freespace.jpg", "Picture_1A_by_freespace.jpg",
    "seeding_by_Clements_Engelhardt.jpg", "sunset_by_Aitzol_Berasategi.jpg", "umang_by_Abhishek_Mudgal.jpg", "Wine_by_Jakkub_Mede.jpg",
)  # fmt: skip


def unpacked(package: str) -> Path:
    """The folder with the package's files; downloads it the first time. Raises RuntimeError with the command's words on failure."""
    folder = CACHE / package
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _run("apt-get", "download", package, where=CACHE)
        archive = next(CACHE.glob(f"{package}_*.deb"))
        half = CACHE / f"{package}.part"
        _run("dpkg-deb", "-x", archive.name, half.name, where=CACHE)
        half.rename(folder)
        archive.unlink()
    return folder


def files(packages: tuple[str, ...], suffixes: tuple[str, ...]) -> list[Path]:
    """All files of the packages with one of the suffixes (".png"), sorted; links are left out."""
    found = [path for package in packages for path in unpacked(package).rglob("*") if path.suffix.lower() in suffixes]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def split_of(name: str, *, trainable: bool) -> Split:
    """The split of an asset by its file name (or an emoji's code point): 50 % train, 20 % tuning, 30 % held-out."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0].lower()
    family = next((word for word in re.split(r"[^a-z]+", stem) if word), stem)
    bucket = hashlib.sha256(family.encode()).digest()[0] % 10
    if bucket >= 7:
        return "held-out"
    return "train" if trainable and bucket < 5 else "tuning"


def _run(*command: str, where: Path) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
