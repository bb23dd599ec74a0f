"""What a result says of its own quality, and what is done about it, from the command line to the manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from psd_tools import PSDImage

from layerctl import cli, registry
from layerctl.composite import flatten
from layerctl.layered_files import read_stack
from layerctl.layers import Layer, LayerStack
from layerctl.registry import DecomposeRequest, Progress, Proposal
from layerctl.source import SourceImage
from layerctl.split import recursed
from layerctl.testing import scene
from layerctl.testing.faults import plant

SOURCE, TRUE = scene(8, width=240, height=180)


def faulty(fault: str) -> LayerStack:
    stack = plant(fault, SOURCE, TRUE, seed=2, severity=0.7)
    assert stack is not None
    return stack


PROPOSALS = (faulty("ghost"), TRUE, faulty("blank"))


@dataclass(frozen=True)
class Drawn:
    """An engine that knows the picture: a ghost in its first proposal, the true layers in its second, a blank layer in its third.

    Of any other picture it makes two halves.
    """

    name: str = "drawn"
    version: str = "1"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        if (source.width, source.height) == (SOURCE.width, SOURCE.height) and not source.has_alpha:
            return Proposal(PROPOSALS[request.candidate % 3])
        middle = source.width // 2
        halves = []
        for left, part in ((0, source.pixels[:, :middle]), (middle, source.pixels[:, middle:])):
            halves.append(Layer(f"half at {left}", np.ascontiguousarray(part), left=left))
        return Proposal(LayerStack(source.width, source.height, tuple(halves)))


ENGINE = Drawn()


@pytest.fixture
def picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.BUILT_IN["engines"], "drawn", f"{__name__}:ENGINE")
    Image.fromarray(SOURCE.pixels).convert("RGB").save("picture.png")
    return Path("picture.png")


def run(*arguments: str | Path) -> int:
    return cli.main(["decompose", *map(str, arguments), "--engine", "drawn", "--quiet"])


def manifest(folder: str = "picture-layers") -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())
    return fields


def test_every_result_holds_its_quality_and_names_its_faults(picture: Path) -> None:
    assert run(picture) == 0
    quality = manifest()["quality"]
    assert 0 < quality["overall"] < 1
    assert quality["background"] < 0.8
    assert [fault["kind"] for fault in quality["faults"]] == ["ghost"]
    assert quality["faults"][0]["message"] in manifest()["warnings"]
    assert manifest()["candidates"] == []


def test_the_best_of_several_is_kept_and_all_scores_are_in_the_manifest(picture: Path) -> None:
    assert run(picture, "--best-of", "2") == 0
    first, second = manifest()["candidates"]
    assert (first["chosen"], second["chosen"]) == (False, True)
    assert second["score"] > first["score"]
    assert manifest()["quality"]["faults"] == []
    assert manifest()["settings"]["best_of"] == 2


def test_below_the_asked_quality_the_result_is_written_and_the_exit_code_is_6(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(picture, "--min-quality", "0.99", "--json") == 6
    record = json.loads(capsys.readouterr().out)
    assert (record["status"], record["is_good"]) == ("written", False)
    assert Path("picture-layers/preview.png").is_file()
    assert "is below the 0.99 that was asked for" in manifest()["warnings"][-1]
    assert run(picture, "--min-quality", "0.99") == 6, "a result that is there already is no better"
    assert run(picture, "--min-quality", "0.1") == 0


@pytest.mark.parametrize(("flags", "layers"), [((), 4), (("--keep-faulty",), 5)])
def test_what_was_left_out_is_told_and_recorded(
    flags: tuple[str, ...], layers: int, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.PROPOSALS", (faulty("composite_copy"),) * 3)
    assert run(picture, *flags) == 0
    assert len(manifest()["layers"]) <= layers
    repairs = manifest()["repairs"]
    assert [repair["fault"] for repair in repairs] == ([] if flags else ["composite copy"])
    assert any("--keep-faulty keeps it" in warning for warning in manifest()["warnings"]) == (not flags)


def test_recursion_makes_groups_and_the_file_still_shows_the_picture(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerctl.decompose.holds_several", lambda stack, layer: layer.name == "Element 3")
    monkeypatch.setattr("layerctl.decompose.recursed", partial(recursed, worth=0.0))
    assert run(picture, "--psd", "--recurse", "1", "--best-of", "2") == 0
    psd = PSDImage.open("picture-layers/picture.psd")
    groups = [node for node in psd if node.is_group()]
    assert [group.name for group in groups] == ["Element 3"]
    assert len(list(groups[0].descendants())) == 2  # type: ignore[attr-defined]
    shown = flatten(read_stack(Path("picture-layers/picture.psd")))
    assert np.abs(shown[..., :3].astype(int) - SOURCE.pixels[..., :3]).max() <= 1
    assert [layer["group"] for layer in manifest()["layers"]].count("Element 3") == 2


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--target", "1,2,3", "is not four numbers"),
        ("--target", "0,0,999,10", "leaves the picture"),
        ("--mask", "none.png", "cannot be read"),
        ("--best-of", "0", "--best-of is '0'"),
        ("--min-quality", "7", "--min-quality is '7'"),
        ("--recurse", "9", "--recurse is '9'"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_in_words(
    flag: str, value: str, said: str, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ((), ("--dry-run",)):
        assert run(picture, flag, value, *mode) == 2
        assert said in capsys.readouterr().err
    assert not Path("picture-layers").exists()


def test_a_changed_mask_makes_the_result_anew(picture: Path) -> None:
    mask = np.zeros((180, 240), np.uint8)
    mask[20:60, 30:90] = 255
    Image.fromarray(mask).save("mask.png")
    assert run(picture, "--mask", "mask.png") == 0
    first = manifest()["settings"]["target_masks"]
    mask[20:80, 30:90] = 255
    Image.fromarray(mask).save("mask.png")
    assert run(picture, "--mask", "mask.png", "--overwrite") == 0
    assert manifest()["settings"]["target_masks"] != first
    assert first[0].startswith("mask.png sha256 ")
