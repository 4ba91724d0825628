"""Channel and server options that must fit each other, in one place."""

import json
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pkgutil import walk_packages

from tessera import api
from tessera.rpc.address import host_of, servers
from tessera.settings import is_loopback

_PING_EVERY_S = 30
_SHORTEST_PING_INTERVAL_S = 20
"""The server's default of 300 s would answer our clients' pings with GOAWAY ENHANCE_YOUR_CALM."""
_PING_TIMEOUT_S = 10
_LONGEST_RECONNECT_PAUSE_S = 3
"""gRPC's own is two minutes: a worker would not find a trainer that is back before its leases have passed."""
_CONNECTION_AGE_S = 3600
"""Long-lived connections are renewed now and then, so that clients find replicas that were added since."""
_CONNECTION_AGE_GRACE_S = 900
"""Time that calls get to end on a connection that is too old; streams that last longer are resumed by their callers."""

Options = list[tuple[str, int | str]]


def _common(max_message_bytes: int) -> Options:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", _PING_EVERY_S * 1000),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def server_options(max_message_bytes: int) -> Options:
    """Return the options of a server."""
    return [
        *_common(max_message_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", _SHORTEST_PING_INTERVAL_S * 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _SHORTEST_PING_INTERVAL_S * 1000),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_S * 1000),
        ("grpc.max_connection_age_grace_ms", _CONNECTION_AGE_GRACE_S * 1000),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared in silence
    ]


def proxy_option(host: str) -> tuple[str, int]:
    """Return the option that lets a channel go through the proxy that the environment names, or not.

    Never to loopback, nor to a plain name without a dot, as containers on one network have: no proxy knows what it stands for.
    """
    return ("grpc.enable_http_proxy", int(not is_loopback(host) and ("." in host or ":" in host)))


def channel_options(max_message_bytes: int, address: str) -> Options:
    """Return the options of a channel to an address, as `tessera.rpc.address.servers` reads it."""
    return [
        *_common(max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_PAUSE_S * 1000),
        ("grpc.use_local_subchannel_pool", 1),  # or a new channel would wait while an older one to the same address pauses after a failure
        ("grpc.service_config", service_config()),
        *_options_for(servers(address)),
    ]


def _options_for(named: Sequence[str]) -> Options:
    first, *others = named
    if not others:
        return [proxy_option(host_of(first))]
    # gRPC would take the whole list for one name: look for it in certificates, and ask a proxy for it.
    return [("grpc.default_authority", first), ("grpc.enable_http_proxy", 0)]


@cache
def service_config() -> str:
    """Return how clients balance and retry: round robin, and UNAVAILABLE only for methods that change nothing (`Get...`, `List...`)."""
    retried = [name for name in api_methods() if name["method"].startswith(("Get", "List"))]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": retried, "retryPolicy": policy}]})


@cache
def api_methods() -> tuple[dict[str, str], ...]:
    """Return service and name of every method of Tessera's API, from the generated descriptors."""
    modules = [module.name for module in walk_packages(api.__path__, f"{api.__name__}.") if module.name.endswith("_pb2")]
    services = [service for name in modules for service in import_module(name).DESCRIPTOR.services_by_name.values()]
    return tuple({"service": service.full_name, "method": method.name} for service in services for method in service.methods)
