"""What a caller wishes besides the request itself; it travels as gRPC metadata, so every predicting method takes it."""

from typing import Literal

PRIORITY_KEY = "tessera-priority"
STICKY_KEY = "tessera-sticky-key"
RUNTIME_KEY = "tessera-runtime"

Priority = Literal["", "high", "normal", "low"]
Metadata = tuple[tuple[str, str], ...]


def metadata(runtime: str = "", priority: Priority = "", sticky_key: str = "") -> Metadata | None:
    """Return the metadata of a call; None if there are no wishes.

    Args:
        runtime: What shall compute, for example `torchserve`; empty: what the version prefers.
        priority: Who is computed first when requests wait: high, normal or low; empty is normal.
        sticky_key: Calls with an equal key are answered by the same version during a rollout.
    """
    wishes = ((RUNTIME_KEY, runtime), (PRIORITY_KEY, priority), (STICKY_KEY, sticky_key))
    return tuple((key, value) for key, value in wishes if value) or None
