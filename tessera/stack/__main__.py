"""The supervisor in the background: `python -m tessera.stack --home DIR --port-base N`; `tessera up --detach` starts it."""

import argparse
import asyncio
import sys
from pathlib import Path

from tessera.errors import TesseraError
from tessera.stack.foreground import run_stack
from tessera.stack.home import Home
from tessera.stack.ports import Ports


def main() -> int:
    """Run until a signal comes; print why if it does not start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="directory of the stack")
    parser.add_argument("--port-base", type=int, required=True, help="base of its ports")
    arguments = parser.parse_args()
    try:
        asyncio.run(run_stack(Home(arguments.home), Ports(arguments.port_base)))
    except TesseraError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
