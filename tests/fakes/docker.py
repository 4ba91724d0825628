"""Stands where the program `docker` does: containers of one service are entries of a JSON file, `$FAKE_DOCKER`.

It knows what scripts/rollout.sh asks for. A new container gets the image `new`, and is well unless the file says `"broken": true`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

FILE = Path(os.environ["FAKE_DOCKER"])
LABELS = {'index .Config.Labels "com.docker.compose.config-hash"': "settings", 'index .Config.Labels "com.docker.compose.image"': "image"}
FIELDS = LABELS | {".Config.Image": "name", ".State.Status": "status", ".State.Health.Status": "health", ".Name": "name"}


def up(state: dict[str, Any], wanted: int) -> int:
    """Add containers until there are as many as wanted; return 1 if one is not well, as `docker compose up --wait` does."""
    containers = state["containers"]
    while len(containers) < wanted:
        state["made"] += 1
        health = "unhealthy" if state["broken"] else "healthy"
        new = {"name": f"/new-{state['made']}", "image": "new", "settings": state["settings"], "status": "running", "health": health}
        containers[f"new-{state['made']}"] = new
    return int(any(container["health"] != "healthy" for container in containers.values()))


def main(arguments: list[str]) -> int:
    """Do what is asked, and write down that it was."""
    state = json.loads(FILE.read_text())
    code = 0
    match arguments:
        case ["compose", "ps", *_]:
            print("\n".join(state["containers"]))
        case ["compose", "config", "--hash", service]:
            print(service, state["settings"])
        case ["compose", "up", *options]:
            assert {"--detach", "--wait", "--no-deps", "--no-recreate"} <= set(options)
            code = up(state, int(options[options.index("--scale") + 1].partition("=")[2]))
        case ["inspect", "--format", field, container]:
            print(state["containers"][container][FIELDS[field.strip("{}")]])
        case ["image", "inspect", *_]:
            print("new")
        case ["stop", container]:
            others = [one for name, one in state["containers"].items() if name != container]
            state["least"] = min(state["least"], sum(one["health"] == "healthy" for one in others))
            state["stopped"].append(container)
        case ["rm", container]:
            assert container in state["stopped"]
            del state["containers"][container]
        case _:
            raise AssertionError(arguments)
    FILE.write_text(json.dumps(state))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
