"""An asyncio gRPC server on gRPC's C core (docs/adr/0018)."""
