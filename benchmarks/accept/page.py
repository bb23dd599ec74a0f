"""The report: a page, the same as JSON, and a contact sheet of the raw layers of each picture and combination."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

from benchmarks.accept.checks import Check, Checks
from benchmarks.accept.running import PictureRun
from layerctl.preview import contact_sheet

TITLE = "Qwen-Image-Layered and Stable-Layers with layerctl"
PICTURES = "pictures"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1d21; background: #f4f4f2; max-width: 1500px; margin: 2em auto; padding: 0 1.5em }
table { border-collapse: collapse; background: #fff; margin: 0.5em 0 1.5em; width: 100% }
th, td { text-align: left; vertical-align: top; padding: 0.35em 0.7em; border: 1px solid #e2e2e0; overflow-wrap: break-word }
th { background: #f8f8f7 } td.status { white-space: nowrap; font-weight: 600 }
.passed { color: #1f7a4d } .failed { color: #b3261e } .not { color: #74767e }
.verdict { font-size: 1.4em; font-weight: 600 } .sheets td { width: 50% } img { width: 100%; height: auto }
"""
NUMBERS = {
    "blank_rate": ("blank layers", "{:.0%}"),
    "recomposition_levels": ("raw layers off, levels", "{:.2f}"),
    "refined_levels": ("refined off, levels", "{}"),
    "velocity_change": ("adapter's change of the velocity", "{:.2%}"),
    "fuse_error": ("lost by merging", "{:.2%}"),
    "seconds_an_evaluation": ("s an evaluation", "{:.3f}"),
    "seconds_a_picture": ("s a picture", "{:.1f}"),
    "peak_bytes": ("most allocated, bytes", "{:,}"),
}
"""Of the table that sets the combinations side by side: name in the checks, heading, form."""


@dataclass(slots=True)
class Report:
    """`facts`: environment, model and adapter. `sheets`: file names by picture, then by (base or tuned, preset)."""

    folder: Path
    checks: Checks
    facts: dict[str, str]
    combinations: list[str]
    sheets: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)

    def draw(self, picture: PictureRun, label: str, preset: str, layers: int) -> None:
        """The raw stack, at the model's size, with the picture itself."""
        stack = picture.proposal.stack
        notes = [f"{label} with the preset {preset}; {layers} raw layers of the model at {stack.width} × {stack.height}"]
        name = f"{picture.name}-{label}-{preset}.png"
        folder = self.folder / PICTURES
        folder.mkdir(exist_ok=True)
        contact_sheet(picture.source, stack, title=f"{picture.name}: {label}, {preset}", notes=notes).save(folder / name, compress_level=4)
        self.sheets.setdefault(picture.name, {})[label, preset] = f"{PICTURES}/{name}"

    def write(self) -> None:
        """Anew each time, so that a run that is stopped leaves what it found."""
        record = {
            "verdict": self.checks.verdict,
            "failed": [check.title for check in self.checks.with_status("failed")],
            "environment": self.facts,
            "checks": [asdict(check) for check in self.checks],
            "pictures": sorted(path for sheets in self.sheets.values() for path in sheets.values()),
        }
        (self.folder / "report.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (self.folder / "report.html").write_text("\n".join(self._page()) + "\n", encoding="utf-8")

    def _page(self) -> Iterable[str]:
        yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style></head><body>'
        yield f"<h1>{TITLE}</h1>"
        failed = self.checks.with_status("failed")
        yield f'<p class="verdict {"passed" if self.is_good else "failed"}">{escape(self.checks.verdict)}</p>'
        if failed:
            yield f"<ul>{''.join(f'<li>{escape(check.title)}: {escape(check.value)}</li>' for check in failed)}</ul>"
        yield f"<h2>Environment</h2><table>{''.join(_row([name, value]) for name, value in self.facts.items())}</table>"
        yield f"<h2>Side by side</h2><table>{''.join(self._side_by_side())}</table>"
        for place in self.checks.places():
            yield f"<h2>{escape(place)}</h2><table>{_row(['check', 'what must hold', 'measured', ''], 'th')}"
            yield from (_check_row(check) for check in self.checks.at(place).values())
            yield "</table>"
        for picture, sheets in self.sheets.items():
            yield f'<h2>{escape(picture)}</h2><table class="sheets">{"".join(_sheet_rows(picture, sheets))}</table>'
        for check in (check for check in failed if check.trace):
            yield f"<h2>{escape(check.title)}</h2><pre>{escape(check.trace or '')}</pre>"
        yield "</body></html>"

    @property
    def is_good(self) -> bool:
        return not self.checks.with_status("failed") and not self.checks.with_status("not reached")

    def _side_by_side(self) -> Iterable[str]:
        yield _row(["", *(heading for heading, _ in NUMBERS.values())], "th")
        for place in self.combinations:
            numbers = {name: value for check in self.checks.at(place).values() for name, value in check.numbers.items()}
            cells = [form.format(numbers[name]) if numbers.get(name) is not None else "" for name, (_, form) in NUMBERS.items()]
            yield _row([place, *cells])


def _row(cells: Iterable[str], tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _check_row(check: Check) -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in (check.name, check.claim, check.value))
    return f'<tr>{cells}<td class="status {check.status.partition(" ")[0]}">{check.status}</td></tr>'


def _sheet_rows(picture: str, sheets: dict[tuple[str, str], str]) -> Iterable[str]:
    labels, presets = (list(dict.fromkeys(pair[place] for pair in sheets)) for place in (0, 1))
    yield _row(labels, "th")
    for preset in presets:
        cells = []
        for label in labels:
            path = escape(sheets.get((label, preset), ""))
            alt = escape(f"{picture}: {label}, {preset}")
            cells.append(f'<td>{escape(preset)}<a href="{path}"><img src="{path}" alt="{alt}"></a></td>' if path else "<td></td>")
        yield f"<tr>{''.join(cells)}</tr>"
