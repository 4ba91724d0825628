"""Prints the family that `tests.fakes.child` pretends to train."""

import json

FAMILY = {
    "name": "fake",
    "description": "Trains nothing.",
    "task": "puzzle_cells",
    "architectures": [
        {
            "name": "tiny",
            "description": "One knob.",
            "model_config_schema": {
                "type": "object",
                "properties": {"width": {"type": "integer", "minimum": 1, "maximum": 64}},
                "additionalProperties": False,
            },
            "parameters": 7,
        }
    ],
    "hyperparameters_schema": {
        "type": "object",
        "properties": {
            "epochs": {"type": "integer", "minimum": 1},
            "epoch_s": {"type": "number", "minimum": 0},
            "hang_at": {"type": "integer"},
            "hold_at": {"type": "integer"},
            "die_at": {"type": "integer"},
            "kill_worker_at": {"type": "integer"},
            "raise_at": {"type": "integer"},
            "raise_when_exists": {"type": "string"},
            "permanent": {"type": "boolean"},
            "artifact": {"type": "string"},
            "faulty_attempts": {"type": "integer"},
        },
        "required": ["epochs"],
        "additionalProperties": False,
    },
    "inputs": [{"name": "picture", "description": "Any file.", "required": True}],
}

if __name__ == "__main__":
    print(json.dumps([FAMILY]))
