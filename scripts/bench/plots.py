"""Bars, as SVG: one plot an image and figure, one group of bars a link."""

import html
import os

FIGURES = {"ready_s": "time to ready, s", "bytes": "fetched, MB", "requests": "requests"}
COLOURS = [
    "#9e9e9e", "#616161", "#90caf9", "#1e88e5", "#ffb74d", "#a5d6a7", "#43a047", "#bcaaa4",
    "#e57373", "#c62828", "#f48fb1", "#ad1457",
]  # fmt: skip
BAR, GAP, LEFT, TOP = 16, 26, 190, 44
WIDTH = 620


def save(directory, results, modes):
    """Writes all plots; gives their files."""
    os.makedirs(directory, exist_ok=True)
    colours = dict(zip(modes, COLOURS, strict=True))
    written = []
    for image in dict.fromkeys(result["image"] for result in results):
        for figure, label in FIGURES.items():
            path = os.path.join(directory, f"{image}-{figure.removesuffix('_s')}.svg")
            chosen = [result for result in results if result["image"] == image]
            with open(path, "w", encoding="utf-8") as file:
                file.write(plot(f"{image}: {label}", figure, chosen, colours))
            written.append(path)
    return written


def value(result, figure):
    """Median, least, most."""
    found = result[figure]
    if isinstance(found, dict):
        return found["median"], found["min"], found["max"]
    if figure == "bytes":
        found /= 1e6
    return found, found, found


def plot(title, figure, results, colours):
    """Horizontal bars with whiskers from least to most."""
    most = max(value(result, figure)[2] for result in results) or 1
    scale = WIDTH / most
    parts, y, link = [], TOP, None
    for result in results:
        if result["link"] != link:
            link = result["link"]
            parts.append(text(8, y + 18, link, "bold"))
            y += GAP
        middle, least, greatest = value(result, figure)
        colour = colours[result["mode"]]
        parts.append(text(LEFT - 8, y + 12, result["mode"], anchor="end"))
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{middle * scale:.1f}" height="{BAR - 3}" '
            f'fill="{colour}"/>'
        )
        centre = y + (BAR - 3) / 2
        parts.append(
            f'<line x1="{LEFT + least * scale:.1f}" x2="{LEFT + greatest * scale:.1f}" '
            f'y1="{centre}" y2="{centre}" stroke="black"/>'
        )
        parts.append(text(LEFT + greatest * scale + 6, y + 12, f"{middle:.4g}"))
        y += BAR
    width, height = LEFT + WIDTH + 80, y + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n'
        + text(8, 24, title, "bold", size=15)
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x, y, words, weight="normal", anchor="start", size=12):
    """A text element."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" font-size="{size}" '
        f'text-anchor="{anchor}">{html.escape(words)}</text>'
    )
