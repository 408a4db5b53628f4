"""Bars as SVG, drawn by hand: no library, and a file that shows in every browser, light or dark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["svg"]

WIDTH, STEP, BAR, MARGIN, LETTER = 760, 30, 18, 16, 7.2

NAMESPACE = "http://www.w3.org/2000/svg"
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .unit { fill: #57606a }
  .bar { fill: #afb8c1 }
  .ours { fill: #0969da }
  .line { stroke: #57606a; stroke-dasharray: 4 3 }
  .ground { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .unit { fill: #9198a1 }
    .bar { fill: #6e7681 }
    .ours { fill: #4493f8 }
    .line { stroke: #9198a1 }
    .ground { fill: #0d1117 }
  }
"""


def svg(chart: Mapping[str, Any]) -> str:
    """The picture of a chart, given as `common.Chart` is in JSON: name, title, unit, bars, line."""
    bars = chart["bars"]
    left = MARGIN + LETTER * max(len(bar["label"]) for bar in bars) + 10
    top, room = 3 * MARGIN + 14, WIDTH - left - 80
    highest = max(*(bar["value"] for bar in bars), chart["line"] or 0, 1e-9)
    height = top + STEP * len(bars) + MARGIN
    about = ", ".join(f"{bar['label']} {_number(bar['value'])}" for bar in bars)
    parts = [
        f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {WIDTH} {height}" {_size(WIDTH, height)} role="img">',
        f"<title>{escape(chart['title'])} ({escape(chart['unit'])}): {escape(about)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" {_size(WIDTH, height)} rx="6"/>',
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 12}">{escape(chart["title"])}</text>',
        f'<text class="unit" x="{MARGIN}" y="{MARGIN + 32}">{escape(chart["unit"])}</text>',
    ]
    for number, bar in enumerate(bars):
        y, length = top + STEP * number, max(1.0, room * bar["value"] / highest)
        kind = "ours" if bar["ours"] else "bar"
        parts += [
            f'<text x="{left - 10:.0f}" y="{y + 14}" text-anchor="end">{escape(bar["label"])}</text>',
            f'<rect class="{kind}" x="{left:.0f}" y="{y}" {_size(length, BAR)} rx="2"/>',
            f'<text x="{left + length + 6:.1f}" y="{y + 14}">{_number(bar["value"])}</text>',
        ]
    if chart["line"]:
        x = left + room * chart["line"] / highest
        parts.append(
            f'<line class="line" x1="{x:.1f}" y1="{top - 6}" x2="{x:.1f}" y2="{height - MARGIN + 4}"/>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _size(width: float, height: float) -> str:
    return f'width="{width:.4g}" height="{height:.4g}"'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"
