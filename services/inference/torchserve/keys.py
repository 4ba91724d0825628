"""The keys that TorchServe asks for.

TorchServe writes them into key_file.json when it starts. There are three: one for each API, which expire, and one that never does and buys
new ones (`GET /token` of the management API).
"""

import json
import threading
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import structlog

log = structlog.get_logger()

Api = Literal["inference", "management"]
RENEW_BEFORE = timedelta(minutes=5)
TIMEOUT_S = 5.0


class Keys:
    """The keys of one TorchServe; may be used by several threads.

    Args:
        file: Its key_file.json.
        management_url: Where new keys are to be had (HTTP); empty: keys are only read.
    """

    def __init__(self, file: Path, management_url: str = "") -> None:
        self._file = file
        self._url = management_url.rstrip("/")
        self._lock = threading.Lock()
        self._keys: dict[Api, tuple[str, datetime]] = {}

    def metadata(self, api: Api) -> tuple[tuple[str, str], ...]:
        """Return the metadata that a call needs; the key is renewed when it is about to expire. Empty if no key can be read."""
        with self._lock:
            key, expires = self._keys.get(api) or self._read(api)
            if self._url and key and expires - datetime.now(UTC) < RENEW_BEFORE:
                self._renew(api)
                key, _ = self._read(api)
        return (("authorization", f"Bearer {key}"),) if key else ()

    def forget(self) -> None:
        """Read the keys again when they are needed next: TorchServe did not take one."""
        with self._lock:
            self._keys.clear()

    def _read(self, api: Api) -> tuple[str, datetime]:
        try:
            entry = json.loads(self._file.read_bytes())[api]
            self._keys[api] = (entry["key"], _time(entry["expiration time"]))
        except (OSError, ValueError, KeyError) as error:
            log.debug("TorchServe's keys cannot be read", file=str(self._file), reason=str(error))
            return "", datetime.max.replace(tzinfo=UTC)
        return self._keys[api]

    def _renew(self, api: Api) -> None:
        """Let TorchServe write a new key into its file."""
        try:
            master = json.loads(self._file.read_bytes())["API"]["key"]
            request = urllib.request.Request(f"{self._url}/token?type={api}", headers={"Authorization": f"Bearer {master}"})  # noqa: S310
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the address is a setting
                answer.read()
        except (OSError, ValueError, KeyError) as error:
            log.warning("TorchServe gives no new key", api=api, reason=str(error))


def _time(text: str) -> datetime:
    """Read a time of Java, which has nanoseconds: 2026-11-21T09:52:21.028268900Z."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6] or '0'}+00:00")
