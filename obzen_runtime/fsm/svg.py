"""A layout as SVG: well-formed XML without any program from outside, equal for equal graphs.

The colours are neutral, on a page of their own, and turn dark with the reader's preference.
"""

import re
from html import escape

from obzen_runtime.fsm.graph import Graph
from obzen_runtime.fsm.layout import LINE, MARGIN, Box, Label, Layout, Line, Loop, layout_of

__all__ = ["graph_svg"]

STYLE = """
.oz-page{fill:#ffffff}
.oz-box{fill:#f6f7f9;stroke:#5b6470;stroke-width:1.3}
.oz-inner{fill:none;stroke:#5b6470;stroke-width:1}
.oz-dashed{stroke-dasharray:5 4}
.oz-marked{fill:#fff1c9;stroke:#b47a00;stroke-width:2.2}
.oz-dot,.oz-head{fill:#5b6470}
.oz-line{fill:none;stroke:#5b6470;stroke-width:1.3}
text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;text-anchor:middle}
.oz-name{font-size:12px;fill:#14181f}
.oz-small{font-size:11px;fill:#434b57}
.oz-title{font-size:14px;font-weight:bold;fill:#14181f;text-anchor:start}
@media (prefers-color-scheme:dark){
.oz-page{fill:#14171c}
.oz-box{fill:#20252d;stroke:#98a2b0}
.oz-inner,.oz-line{stroke:#98a2b0}
.oz-marked{fill:#4a3a0c;stroke:#e5b53a}
.oz-dot,.oz-head{fill:#98a2b0}
.oz-name,.oz-title{fill:#eef1f5}
.oz-small{fill:#bcc4cf}
}
"""

ARROW = (
    '<defs><marker id="oz-arrow" viewBox="0 0 10 10" refX="9.5" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="oz-head" d="M0 0.8 L10 5 L0 9.2 z"/></marker></defs>'
)

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def graph_svg(graph: Graph) -> str:
    """The graph as an SVG document, drawn from left to right."""
    layout = layout_of(graph)
    name = _text(layout.title or "graph")
    size = f'width="{_n(layout.width)}" height="{_n(layout.height)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_n(layout.width)} {_n(layout.height)}" role="img">',
        f"<title>{name}</title>",
        f"<style>{STYLE}</style>",
        ARROW,
        f'<rect class="oz-page" {size}/>',
        *_heading(layout),
        *(_line(line) for line in layout.lines),
        *(_loop(loop) for loop in layout.loops),
        *(part for box in layout.boxes for part in _box(box)),
        *(part for label in layout.labels for part in _label(label)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _heading(layout: Layout) -> list[str]:
    return [f'<text class="oz-title" x="{_n(MARGIN)}" y="{_n(MARGIN + 10)}">{_text(layout.title)}</text>'] if layout.title else []


def _box(box: Box) -> list[str]:
    node = box.node
    if node.shape == "dot":
        radius = box.width / 2
        return [f'<circle class="oz-dot" cx="{_n(box.x + radius)}" cy="{_n(box.y + radius)}" r="{_n(radius)}"/>']
    corner = box.height / 2 if node.shape == "pill" else 6
    looks = " ".join(["oz-box", *(["oz-dashed"] if node.shape == "dashed" else []), *(["oz-marked"] if node.marked else [])])
    parts = [_rect(box, looks, 0.0, min(corner, 20.0))]
    if node.shape == "double":
        parts.append(_rect(box, "oz-inner", 3.0, 4.0))
    lines = node.shown()
    top = box.y + box.height / 2 - LINE * len(lines) / 2 + LINE / 2 + 4
    for number, line in enumerate(lines):
        looks = "oz-name" if not number else "oz-small"
        parts.append(f'<text class="{looks}" x="{_n(box.x + box.width / 2)}" y="{_n(top + LINE * number)}">{_text(line)}</text>')
    return parts


def _rect(box: Box, looks: str, inset: float, corner: float) -> str:
    return (
        f'<rect class="{looks}" x="{_n(box.x + inset)}" y="{_n(box.y + inset)}" width="{_n(box.width - 2 * inset)}" '
        f'height="{_n(box.height - 2 * inset)}" rx="{_n(corner)}"/>'
    )


def _line(line: Line) -> str:
    (begin, x, y), *rest = line.pieces
    path = [f"M{_n(begin)} {_n(y)} H{_n(x)}"]
    for left, right, height in rest:
        middle = _n((x + left) / 2)
        path.append(f"C{middle} {_n(y)} {middle} {_n(height)} {_n(left)} {_n(height)}" + ("" if left == right else f" H{_n(right)}"))
        x, y = right, height
    return f'<path class="oz-line" d="{" ".join(path)}" marker-end="url(#oz-arrow)"/>'


def _loop(loop: Loop) -> str:
    right, left, top = _n(loop.x + loop.reach), _n(loop.x - loop.reach), _n(loop.y - loop.height * 1.2)
    return f'<path class="oz-line" d="M{right} {_n(loop.y)} C{right} {top} {left} {top} {left} {_n(loop.y)}" marker-end="url(#oz-arrow)"/>'


def _label(label: Label) -> list[str]:
    top = label.y - LINE * (len(label.lines) - 1)
    return [
        f'<text class="oz-small" x="{_n(label.x)}" y="{_n(top + LINE * number)}">{_text(line)}</text>'
        for number, line in enumerate(label.lines)
    ]


def _text(text: str) -> str:
    return escape(FORBIDDEN.sub("\ufffd", text), quote=False)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
