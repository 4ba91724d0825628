"""Tessera: train a vision model, register a verified version, serve it over gRPC.

This package is the shared kernel; importing it loads no tensor library.
"""

import os

# onnxruntime would keep a record below the home directory and send it to Microsoft. It asks for this when it is imported, which is later.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# gRPC would write a line of its own to stderr for every handshake that fails. It looks when it is imported, which is later too.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
