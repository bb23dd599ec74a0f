"""One layer split further: exact, with its own transparency, to any depth, and nothing else touched."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerctl_exporters.png import EXPORTER as PNG
from layerctl_exporters.psd import EXPORTER as PSD
from PIL import Image
from psd_tools import PSDImage
from psd_tools.api.layers import Group as PsdGroup
from psd_tools.constants import BlendMode, Tag

from layerctl import cli
from layerctl.composite import flatten, largest_difference
from layerctl.errors import InputError, UsageError
from layerctl.layered_files import read_stack
from layerctl.layers import Group, Layer, LayerStack, mapped, named_paths, on_canvas
from layerctl.registry import DecomposeRequest, ExportOptions, Progress, Proposal, Region
from layerctl.source import SourceImage
from layerctl.split import exact_tree, recursed, split_layer
from layerctl.split_files import pick
from layerctl.testing import scene

if TYPE_CHECKING:
    from tests.conftest import DrawPicture, Halves

Capture = pytest.CaptureFixture[str]


class Pieces:
    """An engine that covers its plate with soft pieces of the picture in wrong colours, at half the size; what it does follows a seed."""

    name = "pieces"
    version = "1"

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        progress("cutting", 0.5)
        width, height = max(1, source.width // 2), max(1, source.height // 2)
        small = np.asarray(Image.fromarray(source.pixels).resize((width, height)))
        layers = [Layer("Background", small, kind="background")]
        for number in range(int(self.rng.integers(1, 4))):
            _, drawn = scene(int(self.rng.integers(1000)), width=width, height=height, elements=1)
            layers.append(Layer(f"Element {number}", list(drawn.walk())[1].pixels, *list(drawn.walk())[1].box[:2]))
        return Proposal(LayerStack(width, height, tuple(layers)), warnings=("pieces are guessed",))


def quietly(what: str, share: float) -> None:
    assert what
    assert 0 <= share <= 1


def groups(nodes: tuple[Layer | Group, ...], depth: int = 1) -> Iterator[tuple[int, Group]]:
    for node in nodes:
        if isinstance(node, Group):
            yield depth, node
            yield from groups(node.children, depth + 1)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), depth=st.integers(1, 3), opaque=st.booleans())
def test_groups_in_groups_flatten_to_the_picture(seed: int, depth: int, opaque: bool) -> None:
    source, stack = scene(seed, width=64, height=48, opaque=opaque, elements=2)
    tree = recursed(source, stack, Pieces(seed), DecomposeRequest(), quietly, depth, lambda _, layer: layer.width > 12, worth=0)
    assert largest_difference(flatten(tree), source.pixels) <= 1
    found = list(groups(tree.layers))
    assert found
    assert max(level for level, _ in found) <= depth
    names = [*(group.name for _, group in found), *(layer.name for layer in tree.walk())]
    assert len({name.casefold() for name in names}) == len(names)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999))
def test_a_group_alone_flattens_to_its_layer_in_its_place(seed: int) -> None:
    _, stack = scene(seed, elements=2)
    layer = list(stack.walk())[-1]
    faint = Layer(layer.name, layer.pixels, layer.left - 30, layer.top + 9, 0.4, False)
    group = split_layer(faint, stack, Pieces(seed), DecomposeRequest(), quietly)
    assert isinstance(group, Group)
    assert (group.name, group.opacity, group.visible) == (faint.name, 0.4, False)
    assert all(isinstance(child, Layer) and child.opacity == 1 and child.visible for child in group.children)
    # A canvas on which all of the layer lies, its own part left of the picture too.
    shifted = mapped(group.children, lambda child: Layer(child.name, child.pixels, child.left + 30, child.top))
    alone = on_canvas(Layer("alone", layer.pixels, layer.left, layer.top + 9), 120, 90).astype(np.uint8)
    assert largest_difference(flatten(LayerStack(120, 90, shifted)), alone) <= 1


def test_only_what_lies_in_the_background_is_background() -> None:
    source, stack = scene(3)
    tree = recursed(source, stack, Pieces(1), DecomposeRequest(), quietly, 2, lambda _, layer: layer.width > 12)
    kinds = {path.split(" / ")[0]: set[str]() for path, _ in named_paths(tree.layers)}
    for path, layer in named_paths(tree.layers):
        kinds[path.split(" / ")[0]].add(layer.kind)
    assert kinds["Background"] == {"background", "element"}
    assert kinds["Element 1"] == {"element"}
    assert sum(layer.kind == "background" for layer in tree.walk()) == 1


def test_an_engine_that_finds_nothing_more_leaves_the_layer_as_it_was() -> None:
    class Whole:
        name, version = "whole", "1"

        def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
            dust = np.zeros_like(source.pixels)
            dust[0, 0] = 255
            layers = (Layer("Background", source.pixels, kind="background"), Layer("Everything", source.pixels), Layer("Dust", dust))
            return Proposal(LayerStack(source.width, source.height, layers))

    source, stack = scene(1)
    for layer in stack.walk():
        assert split_layer(layer, stack, Whole(), DecomposeRequest(), quietly) is layer
    assert recursed(source, stack, Whole(), DecomposeRequest(), quietly, 3, lambda *_: True) is stack


class Seen:
    """An engine that keeps what it is shown, and calls the whole an element above a plate of grey."""

    name, version = "seen", "1"
    source: SourceImage

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        self.source = source
        assert request.regions == ()
        grey = np.full_like(source.pixels, 128)
        grey[..., 3] = 255
        left, right = source.pixels.copy(), source.pixels.copy()
        left[:, source.width // 2 :] = 0
        right[:, : source.width // 2] = 0
        layers = (Layer("Background", grey, kind="background"), Layer("Left", left), Layer("Right", right))
        return Proposal(LayerStack(source.width, source.height, layers))


def test_a_layer_of_one_piece_is_shown_to_the_engine_without_its_outline() -> None:
    pixels = np.zeros((40, 60, 4), np.uint8)
    cv2.circle(pixels, (30, 20), 18, (200, 30, 40, 255), -1, cv2.LINE_AA)
    pixels[pixels[..., 3] == 0, :3] = 7
    engine = Seen()
    split_layer(Layer("disc", pixels), LayerStack(60, 40), engine, DecomposeRequest(), quietly)
    assert not engine.source.has_alpha
    assert (engine.source.pixels[..., 3] == 255).all()
    assert np.abs(engine.source.pixels[..., :3].astype(int) - (200, 30, 40)).max() <= 60


def test_things_that_lie_apart_are_cut_between_them_without_the_engine() -> None:
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[5:30, 5:25] = pixels[10:38, 35:55] = (200, 30, 40, 255)
    pixels[20, 27] = (9, 9, 9, 60)
    engine = Seen()
    layer = Layer("pair", pixels, 3, 4, opacity=0.5)
    group = split_layer(layer, LayerStack(60, 40), engine, DecomposeRequest(regions=(Region(pixels[..., 3], True),)), quietly)
    assert not hasattr(engine, "source")
    assert isinstance(group, Group)
    assert group.opacity == 0.5
    assert [(child.name, child.box) for child in group.children if isinstance(child, Layer)] == [
        ("pair 1", (38, 14, 58, 42)),
        ("pair 2", (8, 9, 31, 34)),
    ]
    shown = flatten(LayerStack(70, 50, group.children))
    assert np.array_equal(shown, on_canvas(Layer("pair", pixels, 3, 4), 70, 50))


def test_of_more_things_than_were_asked_for_the_largest_take_the_others_along() -> None:
    pixels = np.zeros((40, 90, 4), np.uint8)
    for left, size in ((2, 20), (34, 16), (66, 12)):
        pixels[5 : 5 + size, left : left + size] = (200, 30, 40, 255)
    group = split_layer(Layer("three", pixels), LayerStack(90, 40), Seen(), DecomposeRequest(2), quietly)
    assert isinstance(group, Group)
    assert [child.box for child in group.children if isinstance(child, Layer)] == [(2, 5, 22, 25), (34, 5, 78, 21)]


def test_parts_that_are_worse_than_asked_for_are_not_kept() -> None:
    source, stack = scene(3, width=64, height=48, elements=2)
    assert recursed(source, stack, Pieces(1), DecomposeRequest(), quietly, 1, lambda *_: True, worth=1.0) is stack


def test_blank_layers_and_text_are_not_split() -> None:
    source, stack = scene(1, elements=1)
    ground, element = stack.walk()
    blank = Layer("Blank", np.zeros((3, 3, 4), np.uint8))
    text = Layer("Sale", element.pixels, element.left, element.top, kind="text", text="Sale")
    assert split_layer(blank, stack, Pieces(), DecomposeRequest(), quietly) is blank
    tree = recursed(source, stack.with_layers((ground, text)), Pieces(), DecomposeRequest(), quietly, 1, lambda *_: True, worth=0)
    assert [type(node) for node in tree.layers] == [Group, Layer]


def test_the_remarks_of_the_engine_are_told_with_the_layers_name() -> None:
    _, stack = scene(1)
    said: list[str] = []
    split_layer(next(stack.walk()), stack, Pieces(), DecomposeRequest(), quietly, said.append)
    assert "Background: pieces are guessed" in said


def test_no_more_layers_are_made_than_the_solve_takes() -> None:
    source, stack = scene(2, width=40, height=30, elements=60)
    tree = recursed(source, stack, Pieces(2), DecomposeRequest(), quietly, 1, lambda *_: True, worth=0)
    assert 61 < len(list(tree.walk())) <= 64
    assert largest_difference(flatten(tree), source.pixels) <= 1


def test_16_bit_layers_are_refused() -> None:
    _, stack = scene(1)
    with pytest.raises(InputError, match="'deep' has 16 bits"):
        split_layer(Layer("deep", np.zeros((4, 4, 4), np.uint16)), stack, Pieces(), DecomposeRequest(), quietly)


@pytest.mark.parametrize("group", [Group("faint", (scene(1)[1].layers[1],), opacity=0.5), Group("off", scene(1)[1].layers, visible=False)])
def test_a_tree_with_opacities_or_hidden_groups_is_not_solved(group: Group) -> None:
    source, stack = scene(1)
    with pytest.raises(ValueError, match=f"'{group.name}' is not a visible group of opacity 1"):
        exact_tree(source, stack.with_layers((*stack.layers, group)))


NAMES = [(name, number) for number, name in enumerate(["Sky", "Cup / Handle", "Plate / Handle", "Café / Rim", "Ä/ö", "Cup / Sky"])]


@pytest.mark.parametrize(
    ("name", "number"),
    [("sky", 0), ("CUP/handle", 1), ("plate / Handle ", 2), ("rim", 3), ("Cafe\u0301 / rim", 3), ("ä / Ö", 4), ("cup / sky", 5)],
)
def test_a_layer_is_found_by_its_name_or_with_its_groups(name: str, number: int) -> None:
    assert pick(NAMES, name, Path("a.psd"))[1] == number


def test_a_name_that_several_have_lists_them() -> None:
    with pytest.raises(UsageError, match=r"a\.psd has 2 layers 'handle': 'Cup / Handle', 'Plate / Handle'"):
        pick(NAMES, "handle", Path("a.psd"))


def test_a_name_that_none_has_lists_all() -> None:
    with pytest.raises(UsageError, match=r"a\.psd has no layer 'Plate / Handel'") as caught:
        pick(NAMES, "Plate / Handel", Path("a.psd"))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean 'Plate / Handle'? its layers: 'Sky', 'Cup / Handle'")


def document(path: Path) -> Path:
    """A PSD with a group, an opacity, a hidden layer and one that multiplies, which no stack of ours can hold."""
    _, stack = scene(8, elements=4)
    ground, one, two, three, four = stack.walk()
    faint = Layer("Faint", two.pixels, two.left, two.top, 0.6)
    hidden = Layer("Hidden", three.pixels, three.left, three.top, visible=False)
    PSD.export(stack.with_layers((ground, Group("Folder", (one, faint)), hidden, four)), path, ExportOptions())
    psd = PSDImage.open(path)
    psd[3].blend_mode = BlendMode.MULTIPLY
    psd.save(path)
    return path


def stored(psd: PSDImage) -> dict[str, list[bytes]]:
    return {node.name: [data.data for data in node._channels] for node in psd.descendants() if not node.is_group()}


def shown(psd: PSDImage) -> Any:
    return np.asarray(psd.composite(force=True).convert("RGBA"))


def run(*arguments: str) -> int:
    return cli.main(["split", *arguments])


@pytest.mark.parametrize("name", ["faint", "Folder / Element 1", "background", "element 4", "hidden"])
def test_in_a_photoshop_file_only_the_layer_becomes_a_group(name: str, folder: Path, halves: Halves) -> None:
    document(Path("a.psd"))
    before = Path("a.psd").read_bytes()
    assert run("a.psd", "--layer", name) == 0
    assert Path("a.psd").read_bytes() == before
    assert sorted(os.listdir()) == ["a-split.psd", "a.psd"]
    old, new = PSDImage.open("a.psd"), PSDImage.open("a-split.psd")
    assert largest_difference(shown(old), shown(new)) <= 1
    leaf = name.rpartition(" / ")[2]
    (node,) = (node for node in old.descendants() if node.name.casefold() == leaf.casefold())
    (group,) = (node for node in new.descendants() if node.name.casefold() == leaf.casefold())
    assert isinstance(group, PsdGroup)
    assert (group.opacity, group.visible, group.blend_mode) == (node.opacity, node.visible, node.blend_mode)
    assert [child.name for child in group] == [f"{node.name} base", "Right half"]
    assert [other.name for other in new] == [other.name for other in old]
    others = stored(old)
    del others[node.name]
    assert others.items() <= stored(new).items()
    assert old._record.image_data.data == new._record.image_data.data


def test_a_layer_in_a_group_that_a_split_made_can_be_split_again(folder: Path, halves: Halves) -> None:
    document(Path("a.psd"))
    assert run("a.psd", "--layer", "element 1") == 0
    assert run("a-split.psd", "--layer", "Element 1 / right half", "-o", "deep/again.psd") == 0
    assert run("deep/again.psd", "--layer", "right half base") == 0
    psd = PSDImage.open("deep/again-split.psd")
    assert largest_difference(shown(PSDImage.open("a.psd")), shown(psd)) <= 1
    paths = [node.name for node in psd.descendants()]
    assert paths.index("Folder") < paths.index("Element 1") < paths.index("Right half") < paths.index("Right half base base")


def test_nothing_that_is_there_is_written_over(folder: Path, halves: Halves, capsys: Capture) -> None:
    document(Path("a.psd"))
    for _ in range(2):
        assert run("a.psd", "--layer", "faint", "-q") == 0
    assert capsys.readouterr().out.split() == ["a-split.psd", "a-split-2.psd"]
    assert run("a.psd", "--layer", "faint", "-o", "a-split.psd") == 2
    assert "a-split.psd is there already" in capsys.readouterr().err


def adjusting(psd: PSDImage) -> None:
    psd[2].tagged_blocks.set_data(Tag.INVERT)


def clipped(psd: PSDImage) -> None:
    psd[3].clipping = True


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("hidden", clipped, "'Hidden' has layers clipped to it"),
        ("element 4", clipped, "'Element 4' is clipped to the layer below it"),
        ("hidden", adjusting, "'Hidden' holds no pixels of its own"),
    ],
)
def test_a_layer_that_would_lose_something_is_refused(
    name: str, change: Any, words: str, folder: Path, halves: Halves, capsys: Capture
) -> None:
    psd = PSDImage.open(document(Path("a.psd")))
    change(psd)
    psd.save("a.psd")
    assert run("a.psd", "--layer", name) == 1
    assert words in capsys.readouterr().err
    assert os.listdir() == ["a.psd"]


def test_a_layer_with_nothing_more_in_it_writes_nothing_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, halves: Halves, capsys: Capture
) -> None:
    pixel = np.full((1, 1, 4), 255, np.uint8)
    PSD.export(LayerStack(4, 4, (Layer("Dot", pixel),)), Path("a.psd"), ExportOptions())
    assert run("a.psd", "--layer", "dot") == 1
    assert "halves finds nothing more in 'Dot'; nothing is written" in capsys.readouterr().err
    assert os.listdir() == ["a.psd"]


def test_a_dry_run_writes_nothing(folder: Path, halves: Halves, capsys: Capture) -> None:
    document(Path("a.psd"))
    assert run("a.psd", "--layer", "faint", "--dry-run") == 0
    assert capsys.readouterr().out == "Folder / Faint -> a-split.psd\n"
    assert run("a.psd", "--layer", "faint", "--dry-run", "--json", "-o", "there") == 0
    assert json.loads(capsys.readouterr().out) == {
        "input": "a.psd", "layer": "Folder / Faint", "status": "planned", "target": str(Path("there/a-split.psd"))
    }  # fmt: skip
    assert os.listdir() == ["a.psd"]


@pytest.mark.parametrize("formats", ["psd,png", "png", "psd"])
def test_a_result_is_made_anew_in_the_formats_that_it_had(
    formats: str, folder: Path, draw: DrawPicture, halves: Halves, capsys: Capture
) -> None:
    draw(Path("photo.png"))
    assert cli.main(["decompose", "photo.png", "--format", formats, "-q"]) == 0
    capsys.readouterr()
    for result, name, first in (
        ("photo-layers", "right half", "Right half base"),
        ("photo-split-layers", "Right half / Right half base", "Right half base base"),
    ):
        assert run(result, "--layer", name, "--json", "-q") == 0
        record = json.loads(capsys.readouterr().out)
        assert (record["status"], record["layers"][0]) == ("written", first)
    stack = read_stack(Path("photo-split-layers-2"))
    np.testing.assert_array_equal(flatten(stack)[..., :3], np.asarray(Image.open("photo.png")))
    assert max(path.count(" / ") for path, _ in named_paths(stack.layers)) == 2
    manifest = json.loads(Path("photo-split-layers-2/manifest.json").read_bytes())
    assert (manifest["input"]["path"], manifest["recomposition_error"]) == ("../photo.png", 0)
    assert [record["name"] for record in manifest["layers"]] == [layer.name for layer in stack.walk()]
    assert any("'Right half' was split into 2 by halves 1" in warning for warning in manifest["warnings"])
    assert sorted(os.listdir("photo-split-layers")) == sorted(
        ["manifest.json", "preview.png", *["photo-split.psd"] * ("psd" in formats), *["layers"] * ("png" in formats)]
    )


def test_a_folder_of_png_layers_comes_out_as_one(folder: Path, halves: Halves) -> None:
    source, stack = scene(5)
    PNG.export(stack, Path("art"), ExportOptions(full_canvas=True))
    assert run("art", "--layer", "element-2") == 0
    assert sorted(os.listdir("art-split-layers")) == ["layers", "preview.png"]
    assert largest_difference(flatten(read_stack(Path("art-split-layers/layers"))), source.pixels) <= 1


def test_a_result_with_hidden_layers_is_refused_with_the_way_out(folder: Path, draw: DrawPicture, halves: Halves, capsys: Capture) -> None:
    draw(Path("photo.png"))
    assert cli.main(["decompose", "photo.png", "--psd"]) == 0
    psd = PSDImage.open("photo-layers/photo.psd")
    psd[1].visible = False
    psd.save("photo-layers/photo.psd")
    assert run("photo-layers", "--layer", "background") == 1
    assert f"layerctl split {Path('photo-layers/photo.psd')} --layer NAME" in capsys.readouterr().err
