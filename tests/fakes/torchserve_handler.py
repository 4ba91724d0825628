"""A handler for TorchServe that does what the request says, to see what TorchServe makes of it."""

import os
import time
from pathlib import Path
from typing import Any

from ts.utils.util import PredictionException


class TellingHandler:
    """Obeys: raise, refuse, die, wait FILE, tell."""

    def initialize(self, context: Any) -> None:
        pass

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[bytes]:
        return [self._obey(bytes(request["tensors"]).decode()) for request in requests]

    def _obey(self, told: str) -> bytes:
        order, _, argument = told.partition(" ")
        match order:
            case "raise":
                raise ValueError("of the handler")
            case "refuse":
                raise PredictionException("as the handler says it")
            case "die":
                os._exit(3)
            case "wait":
                Path(argument + ".begun").touch()
                while not Path(argument).exists():
                    time.sleep(0.01)
        return b"told"
