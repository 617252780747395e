"""What was measured, for people: a table, and bars held against their yardsticks."""

import statistics
from html import escape

from benchmarks.harness import Answer, CaseAnswer

__all__ = ["svg", "table"]

_COLUMNS = ("case", "min", "median", "max", "yardstick", "ratio", "spread", "target", "")


def table(answer: Answer) -> str:
    """The answer as text."""
    unit = answer.unit if answer.figure else f"{answer.unit}/s"
    rows = [_COLUMNS, *(_row(case) for case in answer.cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(_set(text, width, left=column in (0, 4, 8)) for column, (text, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    facts = answer.machine
    where = f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}, {facts['python']}, {answer.at}"
    kind = "cost over yardstick" if answer.cost else "share of the yardstick's speed"
    note = f"{unit}; medians of {answer.rounds}; ratio: {kind}, median of pairs" if any(case.ratios for case in answer.cases) else unit
    return "\n".join([f"{answer.question}: {answer.asks}", *(f"  {line.rstrip()}" for line in lines), f"  {note}", f"  {where}"])


def _row(case: CaseAnswer) -> tuple[str, ...]:
    yardstick = f"{case.yardstick} {_number(statistics.median(case.yardstick_values))}" if case.yardstick_values else ""
    spread = f"{min(case.ratios):.3g}..{max(case.ratios):.3g}" if case.ratios else ""
    return (
        case.case,
        _number(min(case.values)),
        _number(statistics.median(case.values)),
        _number(max(case.values)),
        yardstick,
        f"{case.ratio:.3g}" if case.ratio is not None else "",
        spread,
        case.target,
        "" if case.met is None else "met" if case.met else "MISSED",
    )


def _set(text: str, width: int, *, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_BAR, _GAP, _LEFT, _WIDTH, _TOP = 18, 10, 190, 420, 48


def svg(answer: Answer) -> str:
    """The answer as a drawing: per case the median as a bar, least and most as a line; the yardstick's below it."""
    bars: list[tuple[str, list[float], bool, str]] = []
    for case in answer.cases:
        ratio = f", {case.ratio:.3g}" if case.ratio is not None else ""
        verdict = f" ({case.target}{'' if case.met else ': missed'})" if case.target else ""
        bars.append((case.case, case.values, True, f"{ratio}{verdict}"))
        if case.yardstick_values:
            bars.append((case.yardstick, case.yardstick_values, False, ""))
    longest = max(max(values) for _, values, _, _ in bars) or 1.0
    height = _TOP + len(bars) * (_BAR + _GAP) + 10
    unit = answer.unit if answer.figure else f"{answer.unit}/s"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 230} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(answer.question)} · {escape(unit)}</text>',
        f'<text x="10" y="37" fill="#555">{escape(answer.asks)}</text>',
    ]
    for number, (label, values, ours, note) in enumerate(bars):
        y = _TOP + number * (_BAR + _GAP)
        middle = y + _BAR / 2
        median = statistics.median(values)
        low, high = (_LEFT + _WIDTH * max(0.0, each) / longest for each in (min(values), max(values)))
        length = _WIDTH * max(0.0, median) / longest
        parts += [
            f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{"#2b6cb0" if ours else "#cbd5e0"}"/>',
            f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#1a202c"/>',
            f'<text x="{_LEFT + _WIDTH + 8}" y="{middle + 4}">{escape(_number(median) + note)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
