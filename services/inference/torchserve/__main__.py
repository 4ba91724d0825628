"""TorchServe in the foreground, as in a container of its own: `python -m services.inference.torchserve`."""

from services.inference.torchserve.foreground import ForegroundTorchServe
from services.inference.torchserve.settings import ForegroundSettings
from tessera.lifecycle import launch
from tessera.lifecycle import run as live


async def run(settings: ForegroundSettings) -> None:
    """Keep TorchServe running until SIGTERM."""
    await live(settings, components=[ForegroundTorchServe(settings)])


def main() -> None:
    """Run TorchServe with the settings of the environment and the command line."""
    launch(ForegroundSettings, "torchserve", run)


if __name__ == "__main__":
    main()
