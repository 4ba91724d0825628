"""Tessera: train a vision model, register a verified version, serve it over gRPC.

This package is the shared kernel; importing it loads no tensor library.
"""
