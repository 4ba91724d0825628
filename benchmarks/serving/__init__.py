"""What serving costs: our service beside the bare runtime, a bare gRPC server and TorchServe. See `python -m benchmarks.serving --help`."""
