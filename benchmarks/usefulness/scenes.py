"""Composites with known true layers, for measuring how useful an engine's layers are.

A scene is built from its name alone ("held-out-photo-017"), always the same for the same versions of Pillow, OpenCV and the art.
Two kinds: "design" (drawn plates; shapes, cards, clip-art, emoji, text, now and then a photographic cut-out) and "photo" (photographs as
plates; photographic cut-outs, clip-art, emoji and text on them). 2..6 visible layers, Background included, equally often. Half of all
scenes have elements that overlap; of a covered element at least 40 % stays visible. A soft shadow, where there is one, is part of its
element's own true layer. A third of the photo scenes went through JPEG, so that their true layers flatten to them only nearly.
No asset is in two splits (`benchmarks/assets.py`); "held-out" is for the report, "tuning" for everything else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from benchmarks import assets
from benchmarks.assets import Split
from benchmarks.usefulness import art, drawing, layout
from benchmarks.usefulness.layout import Role
from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack

SceneKind = Literal["design", "photo"]
Bytes = npt.NDArray[np.uint8]

CACHE = assets.CACHE.parent / "usefulness" / "scenes"
SCENES_A_KIND: dict[Split, int] = {"tuning": 30, "held-out": 80}
KINDS: tuple[SceneKind, ...] = ("design", "photo")
LAYER_COUNTS = (2, 3, 4, 5, 6)
ROLES: dict[SceneKind, tuple[tuple[Role, ...], tuple[float, ...]]] = {
    "design": (("shape", "card", "clipart", "emoji", "cutout"), (0.3, 0.14, 0.32, 0.14, 0.1)),
    "photo": (("cutout", "clipart", "emoji", "card"), (0.62, 0.2, 0.12, 0.06)),
}
SIZES: dict[SceneKind, tuple[tuple[int, int], ...]] = {
    "design": ((1024, 768), (768, 1024), (900, 900), (1024, 576), (576, 1024), (640, 960), (800, 600), (512, 512), (720, 960), (1000, 640)),
    "photo": ((640, 512), (512, 640), (768, 512), (512, 768), (720, 540), (600, 600), (800, 600), (1024, 683), (683, 1024), (560, 560)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One picture and what it is made of.

    `image`: uint8 H x W x 3. `stack`: the true layers, amodal, Background first. `plate`: what the Background is. `order`: (lower, upper)
    places in `stack.layers` of all pairs of elements that overlap. `text`: the strings of the text layers.
    """

    name: str
    kind: SceneKind
    image: Bytes
    stack: LayerStack
    plate: str
    order: tuple[tuple[int, int], ...]
    text: tuple[str, ...]


def names(split: Split, kind: SceneKind | None = None) -> list[str]:
    """The names of all scenes of a split; the kinds take turns, so that the start of the list is a fair sample."""
    kinds = KINDS if kind is None else (kind,)
    return [f"{split}-{each}-{index:03d}" for index in range(SCENES_A_KIND[split]) for each in kinds]


def scenes(split: Split) -> Iterator[Scene]:
    """All scenes of a split, each built when it is asked for."""
    return map(scene, names(split))


def scene(name: str) -> Scene:
    """The scene of that name, kept on disk once it was built. Raises ValueError for a name that `names` does not give."""
    _parsed(name)
    path = CACHE / drawn_by() / f"{name}.npz"
    if path.exists():
        return _load(path)
    made = build(name)
    _save(made, path)
    return made


@cache
def drawn_by() -> str:
    """A hash of the code that decides what the scenes look like; results of different ones are not mixed."""
    digest = hashlib.sha256()
    for module in (assets, art, drawing, layout):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:12]


def build(name: str) -> Scene:
    """The scene of that name, drawn anew."""
    _, kind, index = _parsed(name)
    block, place = divmod(index, len(LAYER_COUNTS))
    elements = LAYER_COUNTS[place] - 1
    overlapping = elements > 1 and (5 * block + 2 * place) % 8 < 5
    for attempt in count():
        seed = int.from_bytes(hashlib.sha256(f"{name}/{attempt}".encode()).digest()[:8], "big")
        made = _composed(name, elements, overlapping, np.random.default_rng(seed))
        if made is not None:
            return _through_jpeg(made, 85 + seed % 11) if kind == "photo" and block % 3 == 0 else made
    raise AssertionError("an endless count ended")


def _save(scene: Scene, path: Path) -> None:
    """Written beside its place and moved in, so that two processes may build the same scene."""
    layers = list(scene.stack.walk())
    facts = {"kind": scene.kind, "plate": scene.plate, "order": scene.order, "text": scene.text}
    facts["layers"] = [[layer.name, layer.left, layer.top, layer.kind, layer.text] for layer in layers]
    pixels: dict[str, npt.ArrayLike] = {f"layer{index}": layer.pixels for index, layer in enumerate(layers)}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(half, allow_pickle=False, image=scene.image, facts=np.array(json.dumps(facts)), **pixels)
    half.replace(path)


def _load(path: Path) -> Scene:
    with np.load(path) as file:
        facts = json.loads(str(file["facts"]))
        layers = tuple(
            Layer(name, file[f"layer{index}"], left, top, kind=kind, text=text)
            for index, (name, left, top, kind, text) in enumerate(facts["layers"])
        )
        image = file["image"]
    stack = LayerStack(image.shape[1], image.shape[0], layers)
    order = tuple((lower, upper) for lower, upper in facts["order"])
    return Scene(path.stem, facts["kind"], image, stack, facts["plate"], order, tuple(facts["text"]))


def _parsed(name: str) -> tuple[Split, SceneKind, int]:
    for split, size in SCENES_A_KIND.items():
        for kind in KINDS:
            digits = name.removeprefix(f"{split}-{kind}-")
            if digits.isdigit() and int(digits) < size:
                return split, kind, int(digits)
    raise ValueError(f"there is no scene {name!r}; names look like 'held-out-photo-017'")


def _composed(name: str, elements: int, overlapping: bool, rng: np.random.Generator) -> Scene | None:
    """One try at a scene; None when an element found no place."""
    split, kind, index = _parsed(name)
    width, height = SIZES[kind][int(rng.integers(len(SIZES[kind])))]
    hue = float(rng.random())
    if kind == "photo":
        title = art.PHOTOGRAPHS[split][index % len(art.PHOTOGRAPHS[split])]
        plate = _photograph(title, width, height, rng)
    elif index % 10 == 7:
        title = art.WALLPAPERS[split][index // 10 % len(art.WALLPAPERS[split])]
        plate = _photograph(title, width, height, rng)
    else:
        plate, title = _drawn_plate(width, height, hue, rng)
    draft = layout.start(plate, split, hue, overlapping)
    for role in _roles(kind, elements, overlapping, rng):
        layer = layout.place_text(draft, rng) if role == "text" else layout.place_element(draft, role, elements, rng)
        if layer is None:
            return None
        layout.put(draft, layer, role)
    order = layout.overlaps(draft.cores)
    if overlapping != bool(order):
        return None
    stack = LayerStack(width, height, tuple(draft.layers))
    text = tuple(layer.text for layer in draft.layers if layer.text)
    return Scene(name, kind, np.ascontiguousarray(flatten(stack)[..., :3]), stack, title, order, text)


def _roles(kind: SceneKind, elements: int, overlapping: bool, rng: np.random.Generator) -> list[Role]:
    """Bottom to top: cards and shapes first, text last; scenes with overlaps keep two elements that are no text."""
    wanted = int(rng.random() < (0.65 if kind == "design" and elements > 1 else 0.4)) + int(elements >= 4 and rng.random() < 0.35)
    texts = min(wanted, elements - 2 if overlapping else max(1, elements - 1))
    names, shares = ROLES[kind]
    drawn: list[Role] = [names[int(rng.choice(len(names), p=shares))] for _ in range(elements - texts)]
    drawn.sort(key=lambda role: {"card": 0, "shape": 1}.get(role, 2))
    lettering: list[Role] = ["text"] * texts
    return drawn + lettering


def _photograph(name: str, width: int, height: int, rng: np.random.Generator) -> Bytes:
    """A random part of a photograph, enlarged by at most 1.25 where it is big enough, mirrored half of the time."""
    picture = art.load_photograph(name)
    largest = min(picture.width / width, picture.height / height)
    zoom = rng.uniform(min(largest, 0.8), largest)
    wide, high = zoom * width, zoom * height
    left, top = (rng.random() * max(0.0, room) for room in (picture.width - wide, picture.height - high))
    part = picture.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + wide, top + high))
    return np.asarray(ImageOps.mirror(part) if rng.random() < 0.5 else part)


def _drawn_plate(width: int, height: int, hue: float, rng: np.random.Generator) -> tuple[Bytes, str]:
    name = drawing.PLATES[int(rng.choice(len(drawing.PLATES), p=[0.2, 0.28, 0.16, 0.13, 0.12, 0.11]))]
    light = rng.random() < 0.6
    saturation = float(rng.uniform(0.02, 0.35) if light else rng.uniform(0.2, 0.8))
    value = float(rng.uniform(0.85, 1.0) if light else rng.uniform(0.15, 0.7))
    near = (saturation * float(rng.uniform(0.4, 1.6)), value * float(rng.uniform(0.7, 1.1)))
    second = drawing.colour(hue + float(rng.uniform(-0.15, 0.15)), min(near[0], 1.0), min(near[1], 1.0))
    return drawing.plate(name, width, height, (drawing.colour(hue, saturation, value), second), rng), name


def _through_jpeg(scene: Scene, quality: int) -> Scene:
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, "JPEG", quality=quality)
    return replace(scene, image=np.asarray(Image.open(file).convert("RGB")))
