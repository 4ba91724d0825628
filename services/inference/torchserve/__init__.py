"""TorchServe beside the inference service: its configuration, its process, its gRPC API, and what its answers really mean."""
