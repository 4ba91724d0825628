"""How far an attempt is: written by whoever computes, told to the database by whoever keeps the lease."""

from dataclasses import dataclass, field

from tessera.api.inference.v1.queued_pb2 import ReconstructionStatus


@dataclass
class Progress:
    """How far an attempt is.

    Args:
        rows: Of its inputs; of a reconstruction its frames, once for a network and once for every pass of an engine. 0 until they were
            opened.
        rows_done: Computed.
        reconstruction: How far a reconstruction is; empty for others.
    """

    rows: int = 0
    rows_done: int = 0
    reconstruction: ReconstructionStatus = field(default_factory=ReconstructionStatus)
