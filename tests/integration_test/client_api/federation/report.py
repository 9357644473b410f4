# Copyright (c) 2026, NVIDIA CORPORATION.  All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The report of a chaos run: one HTML page that needs nothing else, with a table of cases and plots as inline SVG."""

import html
import json
import sys
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --paper: #ffffff; --line: #d1d9e0;
  --good: #1a7f37; --bad: #cf222e; --series-1: #0969da; --series-2: #8250df; --series-3: #bc4c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --paper: #0d1117; --line: #3d444d;
  --good: #3fb950; --bad: #f85149; --series-1: #4493f8; --series-2: #ab7df8; --series-3: #db6d28; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.evidence { font: 12px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; min-width: 20rem; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; } .dim { color: var(--dim); }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font: 12px system-ui, sans-serif; }
.wide { overflow-x: auto; }
"""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 220, 60, 24, 12
BAR = 18


def write_report(path: Path, outcomes: List[dict], soak: dict) -> None:
    """Writes the page.

    Args:
        path: of the page.
        outcomes: records of chaos.Outcome; may be empty.
        soak: the record of a soak; may be empty.
    """
    body = [_summary(outcomes)] + ([_cases(outcomes), _durations(outcomes)] if outcomes else [])
    body += [_soak(soak)] if soak else []
    page = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Chaos report</title><style>{STYLE}'
    page += '</style><meta name="viewport" content="width=device-width"></head>\n<body>\n<h1>Chaos report</h1>\n'
    path.write_text(page + "\n".join(body) + "\n</body></html>\n")


def _summary(outcomes: List[dict]) -> str:
    failed = [outcome for outcome in outcomes if outcome["problems"]]
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    verdict = f'<span class="bad">{len(failed)} not as expected</span>' if failed else '<span class="good">all</span>'
    return f"<p>{len(outcomes)} cases in {seconds:.0f} s, as expected: {verdict}.</p>"


def _cases(outcomes: List[dict]) -> str:
    names = ("part", "phase", "fault", "mode", "expected", "observed")
    head = "".join(f"<th>{name}</th>" for name in (*names, "seconds", "what the admin finds"))
    rows = []
    for outcome in outcomes:
        cells = [f"<td>{html.escape(outcome[name])}</td>" for name in names[:-1]]
        mark = "bad" if outcome["problems"] else "good"
        cells.append(f'<td class="{mark}">{html.escape(outcome["observed"])}</td>')
        cells.append(f'<td class="number">{outcome["seconds"]:.1f}</td>')
        text = "".join(f'<div class="bad">{html.escape(problem)}</div>' for problem in outcome["problems"])
        cells.append(f'<td class="evidence">{text}{html.escape(outcome["evidence"])}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<h2>Cases</h2><div class="wide"><table><tr>{head}</tr>\n' + "\n".join(rows) + "</table></div>"


def _durations(outcomes: List[dict]) -> str:
    """A bar for each case."""
    longest = max(outcome["seconds"] for outcome in outcomes)
    left = 320
    bars = []
    for number, outcome in enumerate(outcomes):
        name = " ".join(outcome[key] for key in ("part", "phase", "fault", "mode"))
        y, width = number * BAR, (WIDTH - left - 60) * outcome["seconds"] / longest
        bars.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>')
        bars.append(f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="{BAR - 6}" fill="var(--series-1)"/>')
        bars.append(f'<text x="{left + width + 6:.1f}" y="{y + 13}">{outcome["seconds"]:.1f}</text>')
    height = BAR * len(outcomes)
    return f'<h2>Seconds</h2><svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(bars)}</svg>'


def _soak(soak: dict) -> str:
    facts = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in soak.items()
        if name != "samples"
    )
    plots = [
        f"<h3>{html.escape(title)}</h3>" + line_plot(_series(soak["samples"], key), unit)
        for key, title, unit in (
            ("rss", "Resident memory", "MB"),
            ("threads", "Threads", ""),
            ("descriptors", "Descriptors", ""),
        )
    ]
    return f"<h2>Soak</h2><table>{facts}</table>" + "".join(plots)


def _series(samples: List[dict], key: str) -> Dict[str, List[Tuple[float, float]]]:
    series: Dict[str, List[Tuple[float, float]]] = {}
    for sample in samples:
        series.setdefault(sample["process"], []).append((sample["round"], sample[key]))
    return series


def line_plot(series: Dict[str, Sequence[Tuple[float, float]]], unit: str) -> str:
    """An SVG with a line for each series of (round, value); the axis begins at zero."""
    points = [point for line in series.values() for point in line]
    if not points:
        return '<p class="dim">nothing was measured</p>'
    last, highest = max(x for x, _ in points) or 1, max(y for _, y in points) or 1
    right, base = WIDTH - 170, HEIGHT - BOTTOM

    def place(x: float, y: float) -> str:
        return f"{LEFT + (right - LEFT) * x / last:.1f},{base - (base - TOP) * y / highest:.1f}"

    parts = []
    for share in (0, 0.5, 1):
        y = base - (base - TOP) * share
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{highest * share:.0f} {unit}</text>')
    parts.append(f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end">round {last:.0f}</text>')
    for number, (name, line) in enumerate(sorted(series.items())):
        colour, dash = f"var(--series-{number % 3 + 1})", ("none", "6 3", "2 3")[number // 3 % 3]
        path = " ".join(place(x, y) for x, y in line)
        style = f'fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{path}" {style}/>')
        y = TOP + 16 * number
        parts.append(f'<line x1="{right + 12}" y1="{y}" x2="{right + 32}" y2="{y}" {style}/>')
        parts.append(f'<text x="{right + 38}" y="{y + 4}">{html.escape(name)}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def main(folder: str) -> None:
    """Writes report.html from the records in a folder."""
    records = Path(folder, "outcomes.jsonl")
    outcomes = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    soak = Path(folder, "soak.json")
    write_report(Path(folder, "report.html"), outcomes, json.loads(soak.read_text()) if soak.exists() else {})


if __name__ == "__main__":
    main(*sys.argv[1:])
