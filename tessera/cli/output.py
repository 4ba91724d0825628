"""What commands print: results on stdout, everything else on stderr."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console

WIDTH_OF_PIPE = 200


def stdout() -> "Console":
    """Return the console for results; in a pipe it is wide, so that nothing is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_PIPE)


def stderr() -> "Console":
    """Return the console for everything that is not the result."""
    from rich.console import Console

    return Console(stderr=True)


def log_to_stderr() -> None:
    """Let warnings, and what is worse, go to stderr; before this is called logs go to stdout."""
    import structlog

    # The stream is looked up for each line: it may have been replaced and closed since.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def print_json(value: object) -> None:
    """Print one JSON document."""
    from tessera.cli.plain import plain

    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def print_json_line(value: object) -> None:
    """Print one JSON document on one line, for streams."""
    from tessera.cli.plain import plain

    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "nothing here yet") -> None:
    """Print rows under headings; `empty` goes to stderr if there are none."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    if table.row_count:
        stdout().print(table)
    else:
        note(empty)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names with values, one a line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in fields.items():
        table.add_row(Text(name, style="bold"), Text(str(value)))
    stdout().print(table)


def note(text: str) -> None:
    """Tell something that is not the result."""
    sys.stderr.write(f"{text}\n")


def time_text(timestamp: "Timestamp") -> str:
    """Return a time in the reader's zone; a dash if it is unset."""
    if not timestamp.seconds:
        return "-"
    return f"{timestamp.ToDatetime(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return metrics on one line."""
    return " ".join(f"{name}={value:.4g}" for name, value in sorted(metrics.items()))


def size_text(size_bytes: float) -> str:
    """Return a size with a unit that people read."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"


def duration_text(seconds: float) -> str:
    """Return a duration as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
