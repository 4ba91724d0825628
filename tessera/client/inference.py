"""The inference service: typed tasks, any model in plain tensors, and what a server serves."""

from typing import TYPE_CHECKING

import grpc

from tessera.api.common.v1.common_pb2 import Tensor
from tessera.api.inference.v1 import puzzle_pb2, serving_pb2
from tessera.api.inference.v1.puzzle_pb2_grpc import PuzzleServiceStub
from tessera.api.inference.v1.serving_pb2_grpc import ServingServiceStub
from tessera.client.calls import call, selector
from tessera.client.tensor_calls import TensorCalls
from tessera.client.wishes import Priority, metadata

if TYPE_CHECKING:
    from tessera.api.inference.v1.puzzle_pb2_grpc import PuzzleServiceAsyncStub
    from tessera.api.inference.v1.serving_pb2_grpc import ServingServiceAsyncStub


class InferenceClient(TensorCalls):
    """Calls to an inference server: typed ones, and `infer` for any model in plain tensors.

    Every method raises the `tessera.errors.TesseraError` that matches the status, as `RegistryClient` does; `ResourceExhaustedError` means
    that the server sheds load and says in `retry_after_s` when to come back.

    Args:
        channel: From `tessera.rpc.channel.open_channel`; the caller closes it.
        timeout_s: Deadline of one call, retries included; the server drops what it cannot answer in time.

    Example:
        answer = await inference.classify_cell(Path("piece.png").read_bytes(), "puzzle")
        print(answer.candidates[0].column, answer.candidates[0].row)
        answer = await inference.infer("puzzle", {"image": images})  # float32, (n, 3, 64, 64)
        print(answer.outputs["logits"].argmax(axis=1))
    """

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float = 10.0) -> None:
        super().__init__(channel, timeout_s)
        self.puzzle_stub: PuzzleServiceAsyncStub = PuzzleServiceStub(channel)
        self.serving_stub: ServingServiceAsyncStub = ServingServiceStub(channel)

    async def classify_cell(
        self,
        piece: bytes | Tensor,
        model: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        top_k: int = 5,
        include_probabilities: bool = False,
        runtime: str = "",
        priority: Priority = "",
        sticky_key: str = "",
    ) -> puzzle_pb2.ClassifyCellResponse:
        """Return the cells where a piece most likely belongs, best first.

        Args:
            piece: An image file (PNG, JPEG, WebP; at most 10 MB and 16 million pixels), or the network's input: FP32, [64, 64, 3], 0 to 1.
            model: Its name.
            version: An exact version; or
            alias: an alias. The alias `champion` if neither is given.
            top_k: How many cells, 1 to their number.
            include_probabilities: Answer the probability of every cell too.
            runtime: What shall compute, for example `torchserve`; what the version prefers if empty.
            priority: `high`, `normal` or `low`: who is computed first when requests wait.
            sticky_key: Calls with an equal key are answered by the same version during a rollout; at most 256 characters.

        Raises:
            FailedPreconditionError: The version has no graph for `runtime`.
            InvalidArgumentError: Not an image, too large, a tensor of another shape or type, NaN.
            NotFoundError: No such model, version or alias.
            ResourceExhaustedError: The queue is full.
            DeadlineExceededError: It took longer than `timeout_s`.
        """
        request = puzzle_pb2.ClassifyCellRequest(
            model=selector(model, version, alias), top_k=top_k, include_probabilities=include_probabilities
        )
        if isinstance(piece, bytes):
            request.image = piece
        else:
            request.tensor.CopyFrom(piece)
        wishes = metadata(runtime, priority, sticky_key)
        return await call(self.puzzle_stub.ClassifyCell, request, timeout_s=self.timeout_s, repeatable=True, metadata=wishes)

    async def list_served(self, model: str = "") -> serving_pb2.ListServedResponse:
        """Return every version that the server holds or is loading, with its state; only of one model if named."""
        request = serving_pb2.ListServedRequest(model=model)
        return await call(self.serving_stub.ListServed, request, timeout_s=self.timeout_s)
