"""Rules between files that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerctl.registry import BUILT_IN

ROOT = Path(__file__).parent.parent
PACKAGES = {"layerctl": "layerctl", "layerctl_exporters": "exporters/layerctl_exporters", "layerctl_train": "train/layerctl_train"}
CLI = {("layerctl", "cli.py"), ("layerctl", "terminal.py"), ("layerctl", "commands"), ("train", "layerctl_train", "commands")}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / PACKAGES[package]).rglob("*.py"))
    assert found
    return found


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("package", "allowed"), [("layerctl", set()), ("layerctl_exporters", {"layerctl"}), ("layerctl_train", {"layerctl"})]
)
def test_packages_import_each_other_in_the_drawn_direction_only(package: str, allowed: set[str]) -> None:
    for path in modules(package):
        others = set(imported(path)) & set(PACKAGES) - {package}
        assert others <= allowed, f"{path} imports {others}"


def test_below_the_command_line_nothing_prints_exits_or_catches_everything() -> None:
    for path in [path for package in PACKAGES for path in modules(package)]:
        inside = path.relative_to(ROOT).parts
        if {inside[:2], inside[:3]} & CLI:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("print", "sys.exit", "exit") or inside[-1] == "__main__.py", where
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, where
                assert ast.unparse(node.type) != "Exception", where


def test_listing_engines_and_exporters_imports_none_of_them() -> None:
    code = (
        "import sys; from layerctl import registry; "
        "listed = [registry.names(seam) for seam in ('engines', 'exporters', 'judges')]; "
        "print([name for name in sys.modules if name in ('numpy', 'cv2', 'PIL', 'torch') or name.startswith('layerctl_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("place", [place for table in BUILT_IN.values() for place in table.values()])
def test_every_built_in_of_the_registry_has_its_module(place: str) -> None:
    module, _, attribute = place.partition(":")
    package, *rest = module.split(".")
    path = ROOT.joinpath(PACKAGES[package], *rest)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert attribute in source.read_text(encoding="utf-8")


def test_no_source_file_is_longer_than_500_lines() -> None:
    paths = [path for package in PACKAGES for path in modules(package)]
    assert [str(path) for path in paths if len(path.read_text(encoding="utf-8").splitlines()) > 500] == []
