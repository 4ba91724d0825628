import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretStr

from tessera import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_json_object_with_time_level_and_service(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("shop")
    structlog.get_logger().info("sold", apples=3)
    logging.getLogger("library").warning("careful: %s", "hot")
    sold, careful = lines(capsys)
    assert (sold["event"], sold["apples"], sold["level"], sold["service"]) == ("sold", 3, "info", "shop")
    assert sold["timestamp"].endswith("Z")
    assert (careful["event"], careful["level"], careful["service"]) == ("careful: hot", "warning", "shop")


def test_a_line_inside_a_trace_carries_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("shop")
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("work") as span:
        structlog.get_logger().info("inside")
    structlog.get_logger().info("outside")
    inside, outside = lines(capsys)
    assert inside["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert inside["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in outside


def test_levels_below_the_least_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("shop", "WARNING")
    structlog.get_logger().info("chatter")
    structlog.get_logger().warning("matters")
    assert [line["event"] for line in lines(capsys)] == ["matters"]


@pytest.mark.parametrize("style", ["json", "text"])
def test_secrets_do_not_reach_the_log(capsys: pytest.CaptureFixture[str], style: Any) -> None:
    logs.setup("shop", format=style)
    secret = "sword" + "fish"  # in two, for a stack trace shows the source
    url = f"postgresql+psycopg://shop:{secret}@db/shop"

    def connect(password: str) -> None:
        raise ConnectionError(f"cannot connect to {url}")

    log = structlog.get_logger()
    log.info(f"connecting to {url}", url=url, nested={"urls": [url]}, token=SecretStr(secret))
    try:
        connect(secret)
    except ConnectionError:
        log.exception("failed")
    text = capsys.readouterr().err
    assert secret not in text
    assert "shop:***@db/shop" in text


def test_an_exception_keeps_its_stack_on_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("shop")
    try:
        raise KeyError("apple")
    except KeyError:
        structlog.get_logger().exception("failed")
    (line,) = lines(capsys)
    assert "Traceback" in line["exception"]
    assert "KeyError: 'apple'" in line["exception"]


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("shop", format="text")
    structlog.get_logger().info("sold", apples=3)
    text = capsys.readouterr().err
    assert "sold" in text
    assert "apples=3" in text
    assert "\x1b" not in text
