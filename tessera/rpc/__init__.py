"""gRPC on both sides: servers with all their interceptors, channels, and domain errors on the wire."""
