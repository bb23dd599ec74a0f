from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerctl.errors import UsageError
from layerctl.manifest import MANIFEST_NAME, FidelityRecord, FileRecord, InputRecord, Manifest, QualityRecord, Setting, hash_file, to_json
from layerctl.plan import Refused, Target, plan

if TYPE_CHECKING:
    from tests.conftest import DrawPicture


def finish(target: Target, settings: dict[str, Setting] | None = None) -> Path:
    """Write a small result where the plan says."""
    target.folder.mkdir(parents=True)
    (target.folder / "photo.psd").write_text("layers")
    manifest = Manifest(
        input=InputRecord(os.path.relpath(target.source, target.folder), "", 1, 1),
        engine="",
        engine_version="",
        settings=settings or {},
        engine_settings={},
        layers=(),
        recomposition_error=0,
        fidelity=FidelityRecord(0.0, 0.0, 0.0, 0.0, 0.0),
        quality=QualityRecord(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ()),
        candidates=(),
        judge=None,
        repairs=(),
        warnings=(),
        copyright=None,
        versions={},
        files=(FileRecord("photo.psd", hash_file(target.folder / "photo.psd")),),
    )
    (target.folder / MANIFEST_NAME).write_bytes(to_json(manifest))
    return target.folder


def targets(*inputs: str, output: Path | None = None, overwrite: bool = False) -> list[Target]:
    entries = plan([Path(name) for name in inputs], output, overwrite=overwrite)
    found = [entry for entry in entries if isinstance(entry, Target)]
    assert len(found) == len(entries), entries
    return found


def places(*inputs: str, output: Path | None = None, overwrite: bool = False) -> list[str]:
    return [f"{target.action} {target.folder.as_posix()}" for target in targets(*inputs, output=output, overwrite=overwrite)]


def refusal(name: str) -> str:
    (entry,) = plan([Path(name)], None)
    assert isinstance(entry, Refused)
    return f"{entry.error.message} / {entry.error.hint}"


def test_a_result_goes_beside_its_input(folder: Path, draw: DrawPicture) -> None:
    draw(Path("pictures/photo.jpg"))
    assert places("pictures/photo.jpg") == ["write pictures/photo-layers"]


def test_an_output_folder_holds_the_results_of_files_side_by_side(folder: Path, draw: DrawPicture) -> None:
    draw(Path("a/1.jpg"))
    draw(Path("b/1.jpg"))
    assert places("a/1.jpg", "b/1.jpg", output=Path("out")) == ["write out/1-layers", "write out/1-layers-2"]


def test_an_output_folder_mirrors_the_folders_of_a_folder(folder: Path, draw: DrawPicture) -> None:
    draw(Path("pictures/1.jpg"))
    draw(Path("pictures/deep/er/1.jpg"))
    assert places("pictures", output=Path("out")) == ["write out/1-layers", "write out/deep/er/1-layers"]


def test_inputs_that_differ_in_their_suffix_keep_apart(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.jpg"))
    draw(Path("photo.png"))
    first, second = targets(".")
    assert (first.folder, second.folder) == (Path("photo-layers"), Path("photo-layers-2"))
    assert second.remark == "photo-layers is the result of photo.jpg"


def test_inputs_that_differ_in_case_only_keep_apart(folder: Path, draw: DrawPicture) -> None:
    draw(Path("Straße.png"))
    draw(Path("STRASSE.png"))
    assert places(".") == ["write STRASSE-layers", "write Straße-layers-2"]


def test_inputs_that_differ_in_unicode_form_only_keep_apart(folder: Path, draw: DrawPicture) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    draw(Path(composed))
    draw(Path(decomposed))
    assert sorted(target.number for target in targets(".")) == [1, 2]


def test_a_twin_on_the_disk_keeps_its_folder(folder: Path, draw: DrawPicture) -> None:
    draw(Path("Photo.png"))
    finish(targets("Photo.png")[0])
    draw(Path("photo.png"))
    assert places("photo.png") == ["write photo-layers-2"]


def test_results_are_found_again_whatever_the_order_of_the_inputs(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.jpg"))
    draw(Path("photo.png"))
    for target in targets("photo.png", "photo.jpg"):
        finish(target)
    assert places("photo.jpg", "photo.png") == ["skip photo-layers-2", "skip photo-layers"]
    assert places("photo.jpg") == ["skip photo-layers-2"]


def test_a_picture_that_is_named_twice_is_done_once(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    assert places("photo.png", ".", "../working/photo.png") == ["write photo-layers"]


def test_the_stem_of_a_very_long_name_is_cut_between_characters(folder: Path, draw: DrawPicture) -> None:
    draw(Path("é" * 120 + ".png"))
    (target,) = targets(".")
    assert target.stem == "é" * 90


def test_a_finished_result_is_skipped_and_the_remark_says_so(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    finish(targets("photo.png")[0])
    (target,) = targets("photo.png")
    assert (target.action, target.remark) == ("skip", "photo-layers is there already")


def test_the_remark_names_the_settings_that_an_existing_result_was_made_with_otherwise(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    finish(targets("photo.png")[0], settings={"layers": 4, "kind": "auto"})
    (entry,) = plan([Path("photo.png")], None, settings={"layers": 6, "kind": "auto"})
    assert isinstance(entry, Target)
    assert entry.remark == "photo-layers is there already, made with another setting of layers"


def test_the_remark_tells_of_a_picture_that_is_newer_than_its_result(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    result = finish(targets("photo.png")[0])
    os.utime(result / MANIFEST_NAME, (0, 0))
    assert targets("photo.png")[0].remark == "photo-layers is there already, older than the picture"


def test_a_result_with_a_missing_file_is_made_again(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    (finish(targets("photo.png")[0]) / "photo.psd").unlink()
    assert places("photo.png") == ["replace photo-layers"]


def test_overwriting_replaces_what_nobody_touched(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    result = finish(targets("photo.png")[0])
    (result / ".DS_Store").touch()
    assert places("photo.png", overwrite=True) == ["replace photo-layers"]


def test_overwriting_leaves_an_edited_file_and_says_which(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    (finish(targets("photo.png")[0]) / "photo.psd").write_text("edited layers")
    (target,) = targets("photo.png", overwrite=True)
    assert (target.action, target.number) == ("write", 2)
    assert target.remark == "photo-layers holds photo.psd, which was edited or added since"


@pytest.mark.parametrize("addition", ["notes.txt", "layers/99-mine.png", "sub/folder/deep.txt"])
def test_overwriting_leaves_a_folder_to_which_something_was_added(folder: Path, draw: DrawPicture, addition: str) -> None:
    draw(Path("photo.png"))
    added = finish(targets("photo.png")[0]) / addition
    added.parent.mkdir(parents=True, exist_ok=True)
    added.touch()
    assert places("photo.png", overwrite=True) == ["write photo-layers-2"]


def test_overwriting_leaves_a_result_whose_manifest_was_edited(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    manifest = finish(targets("photo.png")[0]) / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes().replace(b'"engine": ""', b'"engine": "mine"'))
    assert places("photo.png", overwrite=True) == ["write photo-layers-2"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_file_or_link_that_is_not_ours_is_never_taken(folder: Path, draw: DrawPicture, overwrite: bool) -> None:
    draw(Path("photo.png"))
    Path("photo-layers").mkdir()
    Path("photo-layers-2").touch()
    Path("photo-layers-3").symlink_to("nowhere")
    assert places("photo.png", overwrite=overwrite) == ["write photo-layers-4"]


def test_results_hidden_folders_and_other_files_are_no_inputs_of_a_folder(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    draw(Path(".hidden/x.png"))
    draw(finish(targets("photo.png")[0]) / "preview.png")
    Path("notes.txt").touch()
    assert places(".") == ["skip photo-layers"]


def test_a_result_that_is_named_as_an_input_is_refused(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    finish(targets("photo.png")[0])
    assert refusal("photo-layers") == "photo-layers is a result of layerctl, not an input / name the picture that it was made from"


def test_a_missing_file_is_refused_by_its_name(folder: Path) -> None:
    assert refusal("nothing.png").startswith("nothing.png: there is no such file or folder / ")


def test_a_folder_without_pictures_is_refused(folder: Path) -> None:
    Path("empty").mkdir()
    assert refusal("empty").startswith("empty: no pictures in this folder / it takes .avif, .bmp")


def test_a_pipe_is_refused_without_waiting_for_its_writer(folder: Path) -> None:
    os.mkfifo("pipe.png")
    assert refusal("pipe.png").startswith("pipe.png is neither a file nor a folder")


def test_an_output_folder_that_is_a_file_or_a_result_is_a_usage_error(folder: Path, draw: DrawPicture) -> None:
    draw(Path("photo.png"))
    finish(targets("photo.png")[0])
    with pytest.raises(UsageError, match=r"-o photo\.png is a file"):
        plan([Path("photo.png")], Path("photo.png"))
    with pytest.raises(UsageError, match="-o photo-layers is itself a result"):
        plan([Path("photo.png")], Path("photo-layers"))
