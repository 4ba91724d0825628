"""What a person does first: the demo, whole, on the profile that `make env` has written."""

import json
from pathlib import Path

from tests.compose.stack import Stack


def test_the_demo_trains_registers_and_asks_by_both_runtimes(stack: Stack, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    stack.tessera("demo", "--columns", "6", "--rows", "4", "--epochs", "40", "--json", str(figures))
    found = json.loads(figures.read_text())
    assert (found["version"], found["requests"], found["errors"]) == (1, 24, 0)
    assert found["top1"] >= 0.9
    assert [(name, row["requests"], row["errors"]) for name, row in found["runtimes"].items()] == [
        ("onnxruntime", 24, 0),
        ("torchserve", 24, 0),
    ]
    assert found["equal_answers"] == 24


def test_status_names_what_is_well(stack: Stack) -> None:
    said = stack.tessera("status")
    for service in ("registry", "trainer", "inference"):
        assert service in said
