"""The gRPC face of the registry, by concern: from requests to `core.Registry` and back, nothing else."""
