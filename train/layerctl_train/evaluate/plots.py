"""Drawings in SVG for the report: no script, no font of their own, colours that colour-blind people tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from layerctl.terminal import inert

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#7a6a00", "#56b4e9")
"""After Okabe and Ito, the yellow darkened for white paper."""
INK, GREY, LINE = "#1c1d21", "#55575f", "#d9dade"
WIDTH, LANE, LEFT, RIGHT, AXIS = 560, 58, 14, 14, 34
DOTS = 240
"""Of a lane, at most; of more, evenly by rank."""
SQUARE_SIDE, ROOM = 380, 60
NAME_LENGTH = 34
GOLDEN = 0.6180339887


def distribution(title: str, lanes: Sequence[tuple[str, Sequence[float]]], form: Callable[[float], str]) -> str:
    """A lane for each name: every picture a dot, a box from the lower to the upper quartile, a line at the median.

    `form` writes a median. Values are finite; a lane without any says so.
    """
    values = [value for _, each in lanes for value in each]
    low, high, ticks = _axis(values)
    height = len(lanes) * LANE + AXIS

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [_tick(x(tick), len(lanes) * LANE, tick) for tick in ticks]
    for place, (name, found) in enumerate(lanes):
        parts.append(_lane(name, sorted(found), place, x, form))
    return _svg(title, WIDTH, height, parts)


def scatter(title: str, first: str, other: str, points: Sequence[tuple[str, float, float]], better: str) -> str:
    """A dot for each picture (name, value of `first`, value of `other`), `first` upwards, with the line of equal values.

    `better`: "higher" or "lower", which decides on which side of the line `first` is better.
    """
    low, high, ticks = _axis([value for point in points for value in point[1:]])
    side = SQUARE_SIDE

    def at(value: float) -> float:
        return (value - low) / (high - low) * side

    parts = []
    for tick in ticks:
        x, y = ROOM + at(tick), 10 + side - at(tick)
        parts.append(f'<path d="M{x:.1f} 10V{10 + side}M{ROOM} {y:.1f}H{ROOM + side}" stroke="{LINE}"/>')
        parts.append(_text(x, side + 28, _round(tick), GREY, "middle") + _text(ROOM - 8, y + 4, _round(tick), GREY, "end"))
    parts.append(f'<path d="M{ROOM} {10 + side}L{ROOM + side} 10" stroke="{INK}" stroke-dasharray="5 4"/>')
    above, below = (first, other) if better == "higher" else (other, first)
    parts.append(_text(ROOM + 10, 30, f"{_short(above, 22)} better", INK, "start", bold=True))
    parts.append(_text(ROOM + side - 10, side - 4, f"{_short(below, 22)} better", INK, "end", bold=True))
    for name, a, b in points:
        colour = COLOURS[0] if (a > b) == (better == "higher") and a != b else COLOURS[1] if a != b else GREY
        where = f'cx="{ROOM + at(b):.1f}" cy="{10 + side - at(a):.1f}"'
        parts.append(f'<circle {where} r="4" fill="{colour}" fill-opacity=".6"><title>{_safe(name)}</title></circle>')
    parts.append(_text(ROOM + side / 2, side + 52, _short(other), INK, "middle"))
    parts.append(f'<g transform="translate(13 {10 + side / 2}) rotate(-90)">{_text(0, 0, _short(first), INK, "middle")}</g>')
    return _svg(title, ROOM + side + 14, side + 62, parts)


def _lane(name: str, values: list[float], place: int, x: Callable[[float], float], form: Callable[[float], str]) -> str:
    top, colour = place * LANE, COLOURS[place % len(COLOURS)]
    label = _text(LEFT, top + 15, _short(name), INK, "start", bold=True)
    if not values:
        return label + _text(LEFT, top + 38, "no picture has this number", GREY, "start")
    quarter, middle, last_quarter = (_quantile(values, share) for share in (0.25, 0.5, 0.75))
    step = max(1.0, (len(values) - 1) / (DOTS - 1))
    chosen = [values[min(len(values) - 1, round(number * step))] for number in range(min(DOTS, len(values)))]
    middle_y = top + 37
    dots = "".join(
        f'<circle cx="{x(value):.1f}" cy="{middle_y - 11 + 22 * (number * GOLDEN % 1):.1f}" r="2.6"/>'
        for number, value in enumerate(chosen)
    )
    box = f'<rect x="{x(quarter):.1f}" y="{middle_y - 13}" width="{max(1.0, x(last_quarter) - x(quarter)):.1f}" height="26" rx="2"/>'
    median = f'<path d="M{x(middle):.1f} {middle_y - 15}v30" stroke="{INK}" stroke-width="2.5"/>'
    said = _text(WIDTH - RIGHT, top + 15, f"mean {form(sum(values) / len(values))}, median {form(middle)}, n = {len(values)}", GREY, "end")
    shapes = f'<g fill="{colour}" fill-opacity=".16" stroke="{colour}">{box}</g><g fill="{colour}" fill-opacity=".55">{dots}</g>{median}'
    return label + said + shapes


def _tick(x: float, bottom: int, value: float) -> str:
    return f'<path d="M{x:.1f} 22V{bottom + 4}" stroke="{LINE}"/>{_text(x, bottom + 20, _round(value), GREY, "middle")}'


def _round(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _text(x: float, y: float, text: str, colour: str, anchor: str, *, bold: bool = False) -> str:
    # The rim of paper keeps words legible on dots and lines.
    weight = ' font-weight="600" stroke="#fff" stroke-width="4" stroke-linejoin="round" paint-order="stroke"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{weight}>{_safe(text)}</text>'


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'{head} role="img" aria-label="{_safe(title)}" fill="none" font-size="13">{"".join(parts)}</svg>'


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The ends, a little beyond all values, and three to seven round numbers between them."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    spread = high - low or abs(high) * 0.1 or 0.1
    low, high = low - 0.04 * spread, high + 0.04 * spread
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return low, high, [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, with lines between them."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    return values[below] + (place - below) * (values[min(below + 1, len(values) - 1)] - values[below])


def _short(name: str, length: int = NAME_LENGTH) -> str:
    """Names of one kind differ at their ends: the middle is left out."""
    return name if len(name) <= length else f"{name[: length // 2]}…{name[length // 2 + 1 - length :]}"


def _safe(text: str) -> str:
    return escape(inert(text))
