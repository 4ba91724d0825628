"""Ask where a piece belongs, from Python.

    python clients/python/classify.py MODEL PIECE.png [ADDRESS]

Needs the `tessera` package alone. A server with TLS and tokens: TESSERA_TLS_CA and TESSERA_TOKEN_FILE name the files.
"""

import asyncio
import os
import sys
from pathlib import Path

from tessera.client import Client
from tessera.errors import TesseraError
from tessera.settings import ClientSettings


async def main(model: str, piece: str, address: str = "127.0.0.1:8001") -> None:
    """Print the five cells where the piece most likely belongs."""
    image = Path(piece).read_bytes()  # noqa: ASYNC240 - one small file, before anything else runs
    settings = ClientSettings(tls_ca=os.environ.get("TESSERA_TLS_CA"), token_file=os.environ.get("TESSERA_TOKEN_FILE"))
    async with Client(inference=address, settings=settings) as client:
        answer = await client.inference.classify_cell(image, model)
    print(f"{model} version {answer.answered_by.version}, grid {answer.columns} x {answer.rows}")
    for cell in answer.candidates:
        print(f"  column {cell.column:2d}  row {cell.row:2d}  {cell.probability:7.2%}")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except TesseraError as error:
        sys.exit(f"{error.code}: {error.message}")
