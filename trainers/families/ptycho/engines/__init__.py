"""Iterative engines: graphs without weights, each one step that improves object, probe and positions from some frames of a scan.

Importing this package puts them into the family's registry.
"""

from trainers.families.ptycho.engines import architectures

__all__ = ["architectures"]
