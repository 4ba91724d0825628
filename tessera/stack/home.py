"""Where a stack keeps what it owns."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tessera.errors import FailedPreconditionError


def default_home() -> Path:
    """Return $TESSERA_HOME, or ~/.tessera."""
    return Path(os.environ.get("TESSERA_HOME") or Path.home() / ".tessera").expanduser().absolute()


@dataclass(frozen=True)
class Home:
    """The directory of one stack; two stacks have two."""

    path: Path

    @property
    def state_file(self) -> Path:
        """What the running supervisor tells about itself."""
        return self.path / "stack.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the running supervisor for as long as it lives."""
        return self.path / "stack.lock"

    @property
    def logs(self) -> Path:
        """One file for each process."""
        return self.path / "logs"

    def log_file(self, name: str) -> Path:
        """Return the log of one process."""
        return self.logs / f"{name}.log"

    def database_url(self, name: str) -> str:
        """Return the URL of a service's SQLite database."""
        return f"sqlite:///{self.path / name}.db"

    @property
    def blobs(self) -> Path:
        """The registry's blobs."""
        return self.path / "blobs"

    @property
    def redis(self) -> Path:
        """Redis' append-only file."""
        return self.path / "redis"

    @property
    def redis_settings(self) -> Path:
        """Redis' configuration, with its password."""
        return self.path / "redis.conf"

    @property
    def worker(self) -> Path:
        """Job directories with checkpoints."""
        return self.path / "worker"

    @property
    def cache(self) -> Path:
        """Versions downloaded by the inference service."""
        return self.path / "cache"

    @property
    def demo(self) -> Path:
        """What `tessera demo` leaves for people to look at."""
        return self.path / "demo"

    def make(self) -> None:
        """Create the directories, readable by the owner alone; those that are there already become so.

        Raises:
            FailedPreconditionError: They cannot be made, or belong to somebody else, or the home is a place that all share, such as /tmp.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & stat.S_ISVTX:
                raise FailedPreconditionError(f"{self.path} is shared by all users; choose a directory below it with --home")
            for directory in (self.path, self.logs, self.blobs, self.redis, self.worker, self.cache):
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o700)
        except OSError as error:
            raise FailedPreconditionError(f"{self.path} cannot be the home of a stack: {error.strerror}; choose another --home") from error
