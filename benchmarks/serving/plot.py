"""The figures as a picture: how many requests a second, and how long they take, by row."""

from pathlib import Path
from typing import Any

from benchmarks.serving.report import names

CLIENTS = (1, 8, 32)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG with the closed loops, requests a second on the left and p50 and p99 on the right."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    closed = {(row["name"], row["clients"]): row for row in rows if row["mode"] == "closed"}
    labels = names(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 0.6 * len(labels) + 1.5), sharey=True, layout="constrained")
    for index, clients in enumerate(CLIENTS):
        places = [place + (index - 1) * 0.27 for place in range(len(labels))]
        chosen = [closed[label, clients] for label in labels]
        colour = f"C{index}"
        left.barh(places, [row["rps"] for row in chosen], 0.25, color=colour, label=f"{clients} client{'s' * (clients > 1)}")
        right.barh(places, [row["p50_ms"] for row in chosen], 0.25, color=colour)
        right.scatter([row["p99_ms"] for row in chosen], places, color=colour, marker="|", s=60)
    left.set_yticks(range(len(labels)), labels)
    left.invert_yaxis()
    left.set_xlabel("requests a second")
    right.set_xlabel("milliseconds: p50 (bar), p99 (line)")
    right.set_xscale("log")
    left.legend()
    figure.savefig(path, dpi=110)
