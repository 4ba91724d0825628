"""Ask with Triton's own client: raw tensors over the Open Inference Protocol.

    pip install numpy 'tritonclient[grpc]'
    python clients/triton/infer.py MODEL IMAGE.npy [ADDRESS]

IMAGE.npy holds FP32 pieces of shape (n, 3, 64, 64), 0 to 1. A server with TLS and tokens: TESSERA_TLS_CA and TESSERA_TOKEN_FILE name the
files. Not in one environment with the `tessera` package: the two want different protobufs.
"""

import os
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton


def main(model: str, image: str, address: str = "127.0.0.1:8001") -> None:
    """Print the most likely cell of every piece."""
    pieces = np.load(image)
    tensor = triton.InferInput("image", list(pieces.shape), "FP32")
    tensor.set_data_from_numpy(pieces)
    ca, token_file = os.environ.get("TESSERA_TLS_CA"), os.environ.get("TESSERA_TOKEN_FILE")
    headers = {"authorization": f"Bearer {Path(token_file).read_text().strip()}"} if token_file else None
    with triton.InferenceServerClient(address, ssl=ca is not None, root_certificates=ca) as client:
        result = client.infer(model, [tensor], headers=headers, client_timeout=10)
    answer = result.get_response()
    logits = result.as_numpy("logits")
    print(f"{answer.model_name} version {answer.model_version}, {logits.shape[1]} cells")
    for cell in logits.argmax(axis=1):
        print(f"  cell {cell}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except triton.InferenceServerException as error:
        sys.exit(f"{error.status()}: {error.message()}")
