"""Results: medians with least and most, as a table, JSON and CSV."""

import csv
import json
import os
import statistics

SPREAD = ("ready_s", "pull_s", "second_start_s")
MIDDLE = (
    "bytes", "requests", "connections", "round_trips_before_mount", "round_trips", "rss_bytes",
    "cpu_s",
)  # fmt: skip


def summary(image, link, mode, rounds):
    """One cell's rounds as one result."""
    result = {"image": image, "link": link, "mode": mode, "rounds": len(rounds)}
    for key in SPREAD:
        values = [one[key] for one in rounds]
        result[key] = {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
    for key in MIDDLE:
        values = [one[key] for one in rounds if one[key] is not None]
        middle = statistics.median(values) if values else None
        result[key] = round(middle, 3) if isinstance(middle, float) else middle
    return result


HEAD = [
    "image", "link", "mode", "n", "ready s", "pull s", "second s", "MB", "requests", "RTs mount",
    "RTs ready", "RSS MiB", "CPU s",
]  # fmt: skip


def row(result):
    """A result as words of a table."""

    def spread(value):
        return f"{value['median']:.2f} [{value['min']:.2f}-{value['max']:.2f}]"

    rss = result["rss_bytes"]
    return [
        result["image"],
        result["link"],
        result["mode"],
        str(result["rounds"]),
        *(spread(result[key]) for key in SPREAD),
        f"{result['bytes'] / 1e6:.1f}",
        f"{result['requests']:g}",
        f"{result['round_trips_before_mount']:g}",
        f"{result['round_trips']:g}",
        "-" if rss is None else f"{rss / 2**20:.0f}",
        f"{result['cpu_s']:.2f}",
    ]


def table(results):
    """All results, aligned."""
    rows = [HEAD] + [row(result) for result in results]
    widths = [max(len(one[at]) for one in rows) for at in range(len(HEAD))]
    lines = []
    for one in rows:
        words = [
            word.ljust(width) if at < 3 else word.rjust(width)
            for at, (word, width) in enumerate(zip(one, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    return "\n".join(lines)


def save_json(path, document):
    """Writes the document, whole or not at all."""
    with open(path + ".partial", "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
    os.rename(path + ".partial", path)


def save_csv(path, results):
    """One line a result, one column a figure."""
    names = ["image", "link", "mode", "rounds"]
    names += [f"{key}_{which}" for key in SPREAD for which in ("median", "min", "max")]
    names += MIDDLE
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for result in results:
            flat = {name: result.get(name) for name in names}
            for key in SPREAD:
                flat.update({f"{key}_{which}": value for which, value in result[key].items()})
            writer.writerow(flat)
