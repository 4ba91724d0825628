"""A bare grpc.aio server, the most that Python's gRPC can carry here: `python -m benchmarks.serving.echo PORT`.

It parses nothing and computes nothing: it takes the request of `ModelInfer` and gives an answer of the size that ours has.
"""

import asyncio
import sys

import grpc
import numpy as np

from benchmarks.serving.network import COLUMNS, ROWS
from tessera.api.openinference.v2.open_inference_pb2 import ModelInferResponse

ITEM_BYTES = 3 * 64 * 64 * 4


def answer(items: int) -> bytes:
    """Return zeros as an answer to this many pieces."""
    zeros = np.zeros((items, COLUMNS * ROWS), np.float32)
    response = ModelInferResponse(raw_output_contents=[zeros.tobytes()])
    response.outputs.add(name="logits", datatype="FP32", shape=zeros.shape)
    return response.SerializeToString()


async def main(port: int) -> None:
    """Serve until killed."""
    answers = [answer(items) for items in range(33)]

    async def echo(data: bytes, context: object) -> bytes:
        return answers[len(data) // ITEM_BYTES]

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
