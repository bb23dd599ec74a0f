"""Curves over training steps in SVG, for the report: what was measured, pale, and its smoothed course, strong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from layerctl.terminal import inert
from layerctl_train.evaluate.plots import COLOURS, GREY, INK, LINE

F64 = npt.NDArray[np.float64]
Scale = Callable[[F64], F64]
Series = Sequence[tuple[int, float]]
"""Steps, rising, and finite values."""

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 26, 42
LEGEND_LINE = 20
BUCKETS = 240
"""Across the width; of more steps each bucket shows its least, mean and largest value."""
SMOOTHED_FROM, WINDOWS = 20, 20
"""Steps from which the smoothed course is drawn, and how many windows of a moving mean cover the run."""
GAP = 3
"""Times the usual distance of two steps, from which a line is broken."""
DASHES = ("", "7 4", "2 3")
"""Where colours come again."""
LOGARITHMIC_FROM = 100
"""Times the least value that the largest is, of values above 0."""
DIGIT = 7.2


def curves(title: str, unit: str, lines: Mapping[str, Series], *, logarithmic: bool = False) -> str:
    """One drawing with a line for each name, each of at least one value.

    `logarithmic`: by powers of ten, where all values are above 0 and the largest is far from the least.
    """
    found = [value for series in lines.values() for _, value in series]
    steps = [step for series in lines.values() for step, _ in series]
    first, last = min(steps), max(steps)
    if first == last:
        last += 1
    is_log = logarithmic and min(found) > 0 and max(found) > LOGARITHMIC_FROM * min(found)
    low, high, ticks = _powers(found) if is_log else _axis(found)
    legend, height = _legend(list(lines))
    top, bottom = TOP + height, TOP + height + HEIGHT - TOP - BOTTOM

    def x(step: F64) -> F64:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: F64) -> F64:
        return bottom - ((np.log10(value) if is_log else value) - low) / (high - low) * (bottom - top)

    parts = [legend, _text(2, top - 10, unit, GREY, "start")]
    for tick in ticks:
        at = float(y(np.array(10.0**tick if is_log else tick)))
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="{LINE}"/>')
        parts.append(_text(LEFT - 8, at + 4, _round(10.0**tick if is_log else tick), GREY, "end"))
    for tick in (tick for tick in _axis([first, last])[2] if tick == round(tick) and first <= tick <= last):
        at = float(x(np.array(tick)))
        parts.append(f'<path d="M{at:.1f} {bottom}v5" stroke="{GREY}"/>{_text(at, bottom + 20, _round(tick), GREY, "middle")}')
    parts.append(f'<path d="M{LEFT} {bottom}H{WIDTH - RIGHT}" stroke="{GREY}"/>{_text(WIDTH - RIGHT, bottom + 36, "step", GREY, "end")}')
    drawn = [_line(series, place, x, y) for place, series in enumerate(lines.values())]
    parts += [raw for raw, _ in drawn] + [course for _, course in drawn]
    total = TOP + height + HEIGHT - TOP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}"'
    return f'{head} role="img" aria-label="{_safe(title)}" fill="none" font-size="13">{"".join(parts)}</svg>'


def smoothed(values: F64) -> F64:
    """A moving mean, centred, over a twentieth of the values; at both ends over those of them that there are."""
    half = len(values) // WINDOWS // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    starts, ends = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: F64 = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _line(series: Series, place: int, x: Scale, y: Scale) -> tuple[str, str]:
    """What was measured, and its course; of a few steps just the first, strong."""
    steps, found = (np.array(each, np.float64) for each in zip(*series, strict=True))
    dash = DASHES[place // len(COLOURS) % len(DASHES)]
    colour = COLOURS[place % len(COLOURS)]
    style = f'stroke="{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")
    if len(found) < SMOOTHED_FROM:
        dots = "".join(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3"/>' for across, up in zip(x(steps), y(found), strict=True))
        return f'<path d="{_path(steps, x(steps), y(found))}" {style} stroke-width="2"/><g fill="{colour}">{dots}</g>', ""
    raw, course = (steps, found), (steps, smoothed(found))
    if len(found) > BUCKETS:
        starts, middles = _buckets(steps)
        ends = np.stack([np.minimum.reduceat(found, starts), np.maximum.reduceat(found, starts)], axis=1)
        raw, course = (np.repeat(middles, 2), ends.ravel()), (middles, _means(course[1], starts))
    pale, strong = (_path(each[0], x(each[0]), y(each[1])) for each in (raw, course))
    return f'<path d="{pale}" {style} stroke-opacity=".3"/>', f'<path d="{strong}" {style} stroke-width="2.2" stroke-linejoin="round"/>'


def _path(steps: F64, x: F64, y: F64) -> str:
    """Through all points, with a gap where steps are missing; a point alone is a short stroke."""
    apart = np.diff(steps)
    usual = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    breaks = np.concatenate([[0], np.flatnonzero(apart > GAP * usual) + 1, [len(steps)]])
    parts = []
    for start, end in pairwise(breaks):
        points = [f"{across:.1f} {up:.1f}" for across, up in zip(x[start:end], y[start:end], strict=True)]
        parts.append(f"M{'L'.join(points)}" + ("h.1" if len(points) == 1 else ""))
    return "".join(parts)


def _buckets(steps: F64) -> tuple[npt.NDArray[np.intp], F64]:
    """Of each bucket that holds some: the place of its first step, and the mean of its steps."""
    at = np.minimum((steps - steps[0]) / (steps[-1] - steps[0]) * BUCKETS, BUCKETS - 1).astype(int)
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    return starts, _means(steps, starts)


def _means(values: F64, starts: npt.NDArray[np.intp]) -> F64:
    means: F64 = np.add.reduceat(values, starts) / np.diff(starts, append=len(values))
    return means


def _legend(names: Sequence[str]) -> tuple[str, int]:
    """Names with their colours, in as many lines as they need, and how high that is; nothing for a name alone."""
    if len(names) < 2:
        return "", 0
    parts, x, line = [], float(LEFT), 0
    for place, name in enumerate(names):
        width = 30 + DIGIT * len(name)
        if x + width > WIDTH - RIGHT and x > LEFT:
            x, line = float(LEFT), line + 1
        dash = DASHES[place // len(COLOURS) % len(DASHES)]
        drawn = f' stroke-dasharray="{dash}"' if dash else ""
        y = 10 + line * LEGEND_LINE
        parts.append(f'<path d="M{x:.1f} {y}h18" stroke="{COLOURS[place % len(COLOURS)]}" stroke-width="2.5"{drawn}/>')
        parts.append(_text(x + 24, y + 4, name, INK, "start"))
        x += width + 14
    return "".join(parts), (line + 1) * LEGEND_LINE


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The ends, a little beyond all values, and four to seven round numbers between them."""
    low, high = min(values), max(values)
    spread = high - low or abs(high) * 0.1 or 1.0
    low, high = low - 0.05 * spread, high + 0.05 * spread
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return low, high, [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _powers(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The same in powers of ten, at most about six of them marked."""
    low, high = math.log10(min(values)), math.log10(max(values))
    each = max(1, math.ceil((high - low) / 6))
    return (
        low - 0.05 * (high - low),
        high + 0.05 * (high - low),
        [float(power) for power in range(math.ceil(low), math.floor(high) + 1, each)],
    )


def _round(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(inert(text))
