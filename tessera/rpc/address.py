"""Where a service is: one server, or several that are asked in turn."""

from ipaddress import ip_address

from tessera.errors import InvalidArgumentError

_SEVERAL = {"ipv4:": 4, "ipv6:": 6}
"""gRPC's notation of a list, which it dials as it is, with the version of the IP addresses in it."""


def servers(address: str) -> list[str]:
    """Return `host:port` of every server that an address names, in its order.

    Args:
        address: `host:port`, or `ipv4:IP:PORT,IP:PORT` (`ipv6:[IP]:PORT,[IP]:PORT`) for several servers.

    Raises:
        InvalidArgumentError: It reads otherwise.
    """
    scheme = address[:5]
    if version := _SEVERAL.get(scheme):
        found = address.removeprefix(scheme).split(",")
        if not all(_has_port(server) and _version(host_of(server)) == version for server in found):
            example = "[IP]:PORT" if version == 6 else "IP:PORT"
            raise InvalidArgumentError(f"the address must read {scheme}{example},{example}, not {address!r}", field="address")
        return found
    if "," in address:
        raise InvalidArgumentError(f"the address of several servers must read ipv4:IP:PORT,IP:PORT, not {address!r}", field="address")
    if not _has_port(address):
        raise InvalidArgumentError(f"the address must read host:port, not {address!r}", field="address")
    return [address]


def host_of(server: str) -> str:
    """Return the host of `host:port`."""
    return server.rpartition(":")[0]


def _has_port(server: str) -> bool:
    host, _, port = server.rpartition(":")
    return bool(host) and port.isdigit()


def _version(host: str) -> int | None:
    try:
        return ip_address(host.strip("[]")).version
    except ValueError:
        return None
