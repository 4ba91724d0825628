"""What every typed method does around its own work: read the deadline, and say who answered and where the time went."""

import math
import time
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry import trace

from services.inference.batches import Answer
from services.inference.served import ServedModel
from services.inference.spans import record
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.times import to_duration


@dataclass(frozen=True, slots=True)
class Phases:
    """The moments between the phases of a call, on the clock of `time.monotonic`.

    Args:
        started: Before decoding.
        decoded: After it, before the queue.
        computed: When the model's outputs were there.
        encoded: After postprocessing.
    """

    started: float
    decoded: float
    computed: float
    encoded: float


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Return when the caller's time is over, on the clock of `time.monotonic`; infinity if the call has no deadline."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining


def sign(answered_by: AnsweredBy, served: ServedModel, answer: Answer, phases: Phases) -> None:
    """Write down which version answered and where the time went; in the metrics and in the trace as well."""
    decode_s, encode_s = phases.decoded - phases.started, phases.encoded - phases.computed
    answered_by.model = served.model
    answered_by.version = served.version
    answered_by.digest = served.digest
    answered_by.batch_size = answer.batch_size
    answered_by.decode.CopyFrom(to_duration(decode_s))
    answered_by.queue.CopyFrom(to_duration(answer.queue_s))
    answered_by.compute.CopyFrom(to_duration(answer.compute_s))
    answered_by.encode.CopyFrom(to_duration(encode_s))
    served.metrics.decode.observe(decode_s)
    served.metrics.encode.observe(encode_s)
    span = trace.get_current_span()
    record("inference.decode", phases.started, phases.decoded, span)
    record("inference.encode", phases.computed, phases.encoded, span)
