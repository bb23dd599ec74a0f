from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage
from psd_tools.constants import Resource

from layerctl import results
from layerctl.composite import flatten, largest_difference
from layerctl.decompose import Parts, Result, decompose, decompose_file, load_parts
from layerctl.errors import OutputError
from layerctl.layers import Layer, LayerStack
from layerctl.manifest import from_json, hash_file
from layerctl.plan import Target
from layerctl.registry import DecomposeRequest, Progress, Proposal
from layerctl.settings import Settings
from layerctl.source import SourceImage, read_source

if TYPE_CHECKING:
    from tests.conftest import DrawPicture, Halves

SETTINGS = Settings(engine="halves", formats=("psd", "png"))


def quietly(what: str, share: float) -> None:
    assert what
    assert 0 <= share <= 1


@pytest.fixture
def photo(folder: Path, draw: DrawPicture, halves: Halves) -> Target:
    return Target(draw(Path("photo.png")), Path(), "photo")


def make(target: Target, settings: Settings = SETTINGS) -> Result:
    return decompose_file(target, load_parts(settings), settings, quietly)


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_result_holds_what_was_asked_for_and_nothing_stays_beside_it(photo: Target) -> None:
    result = make(photo)
    assert list(bytes_below(result.folder)) == [
        "layers/00-background.png",
        "layers/01-right-half.png",
        "manifest.json",
        "photo.psd",
        "preview.png",
    ]
    assert sorted(os.listdir()) == ["photo-layers", "photo.png"]
    assert result.exports == (Path("photo-layers/photo.psd"), Path("photo-layers/layers"))


def test_the_files_of_the_layers_flatten_to_the_picture(photo: Target) -> None:
    make(photo)
    manifest = from_json(Path("photo-layers/manifest.json").read_bytes())
    canvas = Image.new("RGBA", (manifest.input.width, manifest.input.height))
    for layer in manifest.layers:
        assert layer.file is not None
        canvas.alpha_composite(Image.open(Path("photo-layers", layer.file)).convert("RGBA"), layer.box[:2])
    assert np.array_equal(np.asarray(canvas.convert("RGB")), np.asarray(Image.open("photo.png")))


def test_the_manifest_tells_how_the_result_was_made(photo: Target) -> None:
    make(photo)
    manifest = from_json(Path("photo-layers/manifest.json").read_bytes())
    assert manifest.input.path == "../photo.png"
    assert manifest.input.sha256 == hashlib.sha256(Path("photo.png").read_bytes()).hexdigest()
    assert (manifest.engine, manifest.engine_version, manifest.engine_settings) == ("halves", "1", {"halves": 2})
    assert manifest.settings["formats"] == ["psd", "png"]
    assert [(layer.z, layer.name, layer.kind) for layer in manifest.layers] == [
        (0, "Background", "background"),
        (1, "Right half", "element"),
    ]
    assert (manifest.layers[1].box, manifest.layers[1].coverage) == ((12, 0, 24, 16), 0.5)
    assert manifest.recomposition_error == 0
    assert manifest.warnings[0] == "background guessed"
    assert "Background" in manifest.warnings[1], "the left half of the picture goes on below the right one"
    assert {file.path: file.sha256 for file in manifest.files} == {
        name: hash_file(Path("photo-layers", name)) for name in bytes_below(Path("photo-layers")) if name != "manifest.json"
    }


def test_the_same_picture_gives_the_same_bytes_wherever_it_is(photo: Target, tmp_path: Path) -> None:
    first = bytes_below(make(photo).folder)
    elsewhere = tmp_path / "another" / "place"
    elsewhere.mkdir(parents=True)
    (elsewhere / "photo.png").write_bytes(photo.source.read_bytes())
    second = bytes_below(make(Target(elsewhere / "photo.png", elsewhere, "photo")).folder)
    assert first == second


def test_a_manifest_holds_no_absolute_path(photo: Target) -> None:
    make(photo)
    assert str(Path.cwd()) not in Path("photo-layers/manifest.json").read_text(encoding="utf-8")


def test_a_layer_of_which_nothing_shows_is_left_out_with_a_warning(folder: Path, draw: DrawPicture) -> None:
    class Covered:
        name, version = "covered", "1"

        def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
            blank = Layer("Blank", np.zeros((4, 4, 4), np.uint8))
            return Proposal(LayerStack(source.width, source.height, (Layer("Background", source.pixels, kind="background"), blank)))

    found = decompose(read_source(draw(Path("photo.png"))), Covered(), DecomposeRequest(), quietly)
    assert [layer.name for layer in found.stack.walk()] == ["Background"]
    assert found.warnings == ("'Blank' is left out: nothing of it shows; --keep-faulty keeps it",)


@pytest.mark.parametrize("size", [(12, 8), (7, 5), (24, 16), (31, 47), (1, 1)])
def test_an_engine_may_work_at_any_size(size: tuple[int, int], photo: Target) -> None:
    class Small:
        name, version = "small", "1"

        def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
            small = np.asarray(Image.fromarray(source.pixels).resize(size))
            right = np.ascontiguousarray(small[:, size[0] // 2 :])
            layers = (Layer("Background", small, kind="background"), Layer("Right half", right, left=size[0] // 2))
            return Proposal(LayerStack(*size, layers))

    source = read_source(photo.source)
    found = decompose(source, Small(), DecomposeRequest(), quietly)
    assert (found.stack.width, found.stack.height) == (source.width, source.height)
    assert largest_difference(flatten(found.stack), source.pixels) <= 1
    background, right = found.stack.walk()
    assert background.box == (0, 0, 24, 16)
    # Interpolation reaches a pixel of the engine's picture further.
    assert right.left == pytest.approx(24 * (size[0] // 2) / size[0], abs=1 + 24 / size[0])


def test_stripping_leaves_the_rights_in_the_files_and_takes_the_place_out(photo: Target) -> None:
    exif = Image.Exif()
    exif[0x8298] = b"(c) Ann"
    exif[0x8825] = {1: "N", 2: (59.0, 19.0, 46.25)}
    Image.open(photo.source).copy().save(photo.source, exif=exif)
    for settings, has_place in ((SETTINGS, True), (replace(SETTINGS, strip_metadata=True), False)):
        folder = make(photo, settings).folder
        about = read_source(folder / "layers" / "00-background.png").metadata
        assert (about.copyright, about.location is not None) == ("(c) Ann", has_place)
        psd = PSDImage.open(folder / "photo.psd").image_resources
        exif.load(psd.get_data(Resource.EXIF_DATA_1))
        assert (exif.get(0x8298), bool(exif.get_ifd(0x8825))) == ("(c) Ann", has_place)
        assert b"(c) Ann" in psd.get_data(Resource.XMP_METADATA)


def test_the_layers_carry_the_profile_and_the_resolution_of_the_picture(halves: Halves) -> None:
    source = SourceImage(np.full((4, 8, 4), 255, np.uint8), icc=b"profile", dpi=(300.0, 299.5))
    stack = decompose(source, halves, DecomposeRequest(), quietly).stack
    assert (stack.icc, stack.dpi) == (b"profile", (300.0, 299.5))


def test_an_untouched_result_is_replaced_whole(photo: Target) -> None:
    make(photo)
    make(replace(photo, action="replace"), replace(SETTINGS, formats=("psd",)))
    assert list(bytes_below(Path("photo-layers"))) == ["manifest.json", "photo.psd", "preview.png"]
    assert sorted(os.listdir()) == ["photo-layers", "photo.png"]


def test_an_edit_made_while_the_new_result_was_computed_is_kept(photo: Target) -> None:
    make(photo)
    edited = Path("photo-layers/photo.psd")
    edited.write_bytes(b"hours of work")
    result = make(replace(photo, action="replace"))
    assert result.folder == Path("photo-layers-2")
    assert edited.read_bytes() == b"hours of work"
    assert sorted(os.listdir()) == ["photo-layers", "photo-layers-2", "photo.png"]


def test_a_folder_that_appeared_after_the_plan_is_left_alone(photo: Target) -> None:
    Path("photo-layers").mkdir()
    assert make(photo).folder == Path("photo-layers-2")
    assert os.listdir("photo-layers") == []


def test_the_manifest_of_a_result_in_another_output_folder_leads_back_to_the_picture(photo: Target) -> None:
    result = make(replace(photo, parent=Path("out/deep")))
    manifest = from_json((result.folder / "manifest.json").read_bytes())
    assert (result.folder / manifest.input.path).resolve() == photo.source.resolve()


def test_a_failure_in_the_middle_leaves_nothing_behind(photo: Target) -> None:
    class FullDisk:
        name, suffix, is_folder = "full", ".full", False

        def suffix_for(self, stack: LayerStack, options: object) -> str:
            return self.suffix

        def export(self, stack: LayerStack, path: Path, options: object) -> tuple[str, ...]:
            path.write_bytes(b"half of i")
            raise OSError(28, "No space left on device")

    parts = Parts(load_parts(SETTINGS).engine, (FullDisk(),))
    with pytest.raises(OSError, match="No space left"):
        decompose_file(photo, parts, SETTINGS, quietly)
    assert os.listdir() == ["photo.png"]


def test_a_swap_that_fails_puts_the_old_result_back(photo: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    make(photo)
    before = bytes_below(Path("photo-layers"))

    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "touched_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(replace(photo, action="replace"))
    assert bytes_below(Path("photo-layers")) == before
    assert sorted(os.listdir()) == ["photo-layers", "photo.png"]


def test_an_output_folder_below_a_file_is_an_error_that_names_it(photo: Target) -> None:
    with pytest.raises(OutputError, match=r"cannot write into photo\.png/out"):
        make(replace(photo, parent=Path("photo.png/out")))
