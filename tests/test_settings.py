"""Settings: defaults, then the user's file, then the project's, then variables, then flags."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

import layerctl.settings
from layerctl.errors import ConfigError, UsageError
from layerctl.settings import PROTECTED, Settings, resolve_settings


class Place:
    """A home and a working folder of their own."""

    def __init__(self, root: Path) -> None:
        self.config = root / "config" / "layerctl" / "config.toml"
        self.config.parent.mkdir(parents=True)
        self.folder = root / "work"
        self.folder.mkdir()
        self.environ = {"XDG_CONFIG_HOME": str(root / "config")}

    def user(self, text: str) -> None:
        self.config.write_text(text, encoding="utf-8")

    def project(self, text: str) -> None:
        (self.folder / "layerctl.toml").write_text(text, encoding="utf-8")

    def settings(self, *, trust_project: bool = False, **flags: Any) -> Settings:
        return resolve_settings(flags, folder=self.folder, environ=self.environ, trust_project=trust_project)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_any_file_the_defaults_hold(place: Place) -> None:
    assert place.settings() == Settings()
    assert (Settings().layers, Settings().formats, Settings().engine) == (None, ("png",), "auto")


def test_each_place_goes_before_the_one_before_it(place: Place) -> None:
    place.user("layers = 3\nmax_pixels = 1000\nkind = 'photo'\nmasks = true")
    assert place.settings().layers == 3
    place.project("layers = 4\nmax_pixels = 2000\nkind = 'design'")
    assert place.settings().layers == 4
    place.environ |= {"LAYERCTL_LAYERS": "5", "LAYERCTL_MAX_PIXELS": "3000"}
    assert place.settings().layers == 5
    resolved = place.settings(layers=6)
    assert (resolved.layers, resolved.max_pixels, resolved.kind, resolved.masks) == (6, 3000, "design", True)


def test_a_flag_that_was_not_typed_changes_nothing(place: Place) -> None:
    place.user("layers = 3\nmasks = true")
    assert place.settings(layers=None, masks=None) == place.settings()
    assert place.settings(masks=False).masks is False


def test_auto_takes_back_a_number_from_a_file(place: Place) -> None:
    place.user("layers = 3")
    assert place.settings(layers="auto").layers is None


@pytest.mark.parametrize("layers", [1, 21, 0, -4, "1", "1000"])
def test_a_number_of_layers_out_of_range_is_a_usage_error_that_names_the_range(place: Place, layers: object) -> None:
    with pytest.raises(UsageError, match=r"--layers is .*: not within 2 to 20"):
        place.settings(layers=layers)


@pytest.mark.parametrize("layers", [2, 20, "2", "20"])
def test_both_ends_of_the_range_are_allowed(place: Place, layers: object) -> None:
    assert place.settings(layers=layers).layers == int(str(layers))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers = true", "not a whole number"),
        ("layers = 4.5", "not a whole number"),
        ("layers = 'many'", "not a whole number"),
        ("max_pixels = 0", "less than 1"),
        ("kind = 'painting'", "not one of auto, design, photo"),
        ("masks = 'perhaps'", "neither yes nor no"),
        ("masks = 1", "neither yes nor no"),
        ("formats = []", "not a list of names"),
        ("formats = ['psd', '']", "not a name"),
        ("formats = 7", "not a list of names"),
        ("[layers]\nn = 4", "not a whole number"),
    ],
)
def test_a_bad_value_in_a_file_names_the_file_the_value_and_what_to_write(place: Place, text: str, words: str) -> None:
    place.user(text)
    with pytest.raises(ConfigError, match=words) as caught:
        place.settings()
    assert str(place.config) in caught.value.message
    assert caught.value.hint


def test_an_unknown_key_names_itself_its_file_and_what_was_meant(place: Place) -> None:
    place.project("max-pixel = 100")
    with pytest.raises(ConfigError) as caught:
        place.settings()
    assert caught.value.message == f"max-pixel in {place.folder / 'layerctl.toml'} is no setting"
    assert caught.value.hint == "did you mean max_pixels?"


def test_an_unknown_key_that_resembles_nothing_lists_all_settings(place: Place) -> None:
    place.user("zzz = 1")
    with pytest.raises(ConfigError) as caught:
        place.settings()
    assert all(entry.name in str(caught.value.hint) for entry in fields(Settings))


def test_an_unknown_variable_is_an_error_and_other_programs_variables_are_not(place: Place) -> None:
    place.environ["OTHER_LAYERS"] = "1"
    place.settings()
    place.environ["LAYERCTL_LAYER"] = "4"
    with pytest.raises(ConfigError, match="the variable LAYERCTL_LAYER is no setting") as caught:
        place.settings()
    assert caught.value.hint == "did you mean layers?"


def test_an_empty_variable_counts_as_unset(place: Place) -> None:
    place.environ["LAYERCTL_LAYERS"] = ""
    assert place.settings().layers is None


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("yes", True), ("TRUE", True), ("on", True), ("0", False), ("no", False), ("off", False)]
)
def test_variables_say_yes_and_no_in_words(place: Place, text: str, value: bool) -> None:
    place.environ["LAYERCTL_QUIET"] = text
    assert place.settings().quiet is value


def test_formats_are_a_list_or_names_with_commas_each_once(place: Place) -> None:
    place.user("formats = ['psd', 'png']")
    assert place.settings().formats == ("psd", "png")
    assert place.settings(formats="png, psd,png").formats == ("png", "psd")
    assert place.settings(formats=("psd",)).formats == ("psd",)


ELSEWHERE: dict[str, Any] = {"judge_url": "http://elsewhere", "judge_extra": '{"top_p": 1}', "judge_prices": "elsewhere=1,2"}
ELSEWHERE |= {"max_judge_calls": 7, "max_judge_cost": 7}


@pytest.mark.parametrize("key", sorted(PROTECTED))
def test_a_project_file_may_not_choose_code_endpoints_keys_or_costs(place: Place, key: str) -> None:
    value = ELSEWHERE.get(key, "elsewhere")
    place.project(f"{key} = {value!r}")
    with pytest.raises(ConfigError, match=r"decides what code runs|decides where pictures and keys go") as caught:
        place.settings()
    assert "--trust-project" in str(caught.value.hint)
    chosen = (value,) if key in ("adapters", "judge_prices") else value
    assert getattr(place.settings(trust_project=True), key) == chosen
    (place.folder / "layerctl.toml").unlink()
    place.user(f"{key} = {value!r}")
    assert getattr(place.settings(), key) == chosen


def test_a_flag_does_not_hide_what_a_project_file_tried(place: Place) -> None:
    place.project("engine = 'elsewhere'")
    with pytest.raises(ConfigError):
        place.settings(engine="classic")


def test_a_project_file_may_name_built_in_formats_and_no_plugin(place: Place) -> None:
    place.project("formats = ['psd', 'png']")
    assert place.settings().formats == ("psd", "png")
    place.project("formats = ['psd', 'sketchy']")
    with pytest.raises(ConfigError, match="the plugin 'sketchy' in formats"):
        place.settings()
    assert place.settings(trust_project=True).formats == ("psd", "sketchy")


def test_the_project_file_is_looked_for_in_the_working_folder_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.project("layers = 7")
    below = place.folder / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert resolve_settings({}, environ=place.environ).layers is None
    monkeypatch.chdir(place.folder)
    assert resolve_settings({}, environ=place.environ).layers == 7


def test_without_xdg_the_user_file_is_under_config_in_the_home(tmp_path: Path) -> None:
    file = tmp_path / ".config" / "layerctl" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("layers = 9")
    for environ in ({"HOME": str(tmp_path)}, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "relative/path"}):
        assert resolve_settings({}, folder=tmp_path, environ=environ).layers == 9


def test_a_file_that_is_no_toml_says_which_and_where(place: Place) -> None:
    place.user("layers = \nmasks = true")
    with pytest.raises(ConfigError, match=r"is not valid TOML: .*line 1"):
        place.settings()
    place.config.write_bytes(b"layers = '\xff\xfe'")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        place.settings()


def test_a_byte_order_mark_is_no_obstacle(place: Place) -> None:
    place.config.write_bytes(b"\xef\xbb\xbflayers = 4\r\n")
    assert place.settings().layers == 4


def test_a_settings_file_that_is_a_folder_says_so(place: Place) -> None:
    place.config.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        place.settings()


def test_every_field_has_a_docstring_and_settings_do_not_change() -> None:
    tree = ast.parse(Path(layerctl.settings.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    for entry, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(entry, ast.AnnAssign):
            assert isinstance(following, ast.Expr), f"{ast.unparse(entry)} has no docstring"
            assert isinstance(following.value, ast.Constant)
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        settings.layers = 4  # type: ignore[misc]


JUDGE_VARIABLES = {
    "judge_url": "https://elsewhere/v1", "judge_condition": "prompt", "judge_orders": "3", "judge_anchors": "no", "judge_seed": "1",
    "judge_repeat": "1",
    "judge_blend": "0.25", "judge_weights": "2,1,1,1,0", "judge_min_spread": "1.5", "judge_min_agreement": "-0.5", "judge_chance": "0.2",
    "judge_side": "256", "judge_grid_side": "1024", "judge_temperature": "0.7", "judge_max_tokens": "99", "judge_extra": '{"top_p": 0.9}',
    "judge_concurrency": "2", "judge_requests_per_minute": "60", "judge_tokens_per_minute": "1000", "judge_timeout": "1.5",
    "judge_retries": "0", "judge_prices": "name=0.10,0.40", "max_judge_calls": "0", "max_judge_cost": "0.5",
}  # fmt: skip


@pytest.mark.parametrize("name", [entry.name for entry in fields(Settings)])
def test_every_field_can_be_set_from_a_variable(place: Place, name: str) -> None:
    numbers = {"layers": "4", "max_pixels": "5", "steps": "7", "cfg": "2.5", "size": "1024", "seed": "1", "best_of": "4"}
    numbers |= {"min_quality": "0.5", "recurse": "2"}
    words = {
        "kind": "photo",
        "engine": "other",
        "formats": "psd",
        "sampler": "heun",
        "precision": "int8",
        "offload": "group",
        "device": "mps",
    }
    value = (numbers | words | JUDGE_VARIABLES).get(name, "yes")
    place.environ[f"LAYERCTL_{name.upper()}"] = value
    changed = [entry.name for entry in fields(Settings) if getattr(place.settings(), entry.name) != getattr(Settings(), entry.name)]
    assert changed == [name]


def test_settings_and_errors_load_the_standard_library_only() -> None:
    code = """
import sys
before = set(sys.modules)
import layerctl.settings, layerctl.errors
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "layerctl" in loaded
    assert set(loaded) - {"layerctl"} <= sys.stdlib_module_names
