"""The embedded stack: registry, trainer, worker, inference and Redis as local processes, everything under one home directory."""
