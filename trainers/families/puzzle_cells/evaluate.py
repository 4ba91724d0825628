"""Metrics over all pieces, in eval mode. Never a running average of training: that is measured while the weights still move.

Array names carry their shape: n pieces, k cells.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.tasks import puzzle_cells as task
from trainers.architectures import Network
from trainers.families.puzzle_cells.data import Puzzle
from trainers.family import predict


def evaluate(network: Network, puzzle: Puzzle) -> dict[str, float]:
    """Return `top1` and `top5` (shares of the pieces, 0 to 1) and `loss` (mean cross entropy, nats) over all pieces of a puzzle."""
    logits_nk = predict(network, puzzle.images).astype(np.float64)
    truth_n = np.arange(len(logits_nk))
    own_n = logits_nk[truth_n, truth_n]
    # Ties count against the network: a constant output must not look right.
    better_n = (logits_nk >= own_n[:, None]).sum(axis=1) - 1
    shifted_nk = logits_nk - logits_nk.max(axis=1, keepdims=True)
    losses_n = np.log(np.exp(shifted_nk).sum(axis=1)) - shifted_nk[truth_n, truth_n]
    return {"top1": float((better_n == 0).mean()), "top5": float((better_n < 5).mean()), "loss": float(losses_n.mean())}


def robustness(network: Network, puzzle: Puzzle) -> dict[str, float]:
    """Return `top1_<disturbance>`, shares of 0 to 1, for pieces under disturbances that training does not show."""
    metrics = {}
    for name, images in puzzle.disturbed().items():
        metrics[f"top1_{name}"] = float((predict(network, images).argmax(axis=1) == np.arange(len(images))).mean())
    return metrics


def probabilities(network: Network, images: torch.Tensor) -> NDArray[np.float32]:
    """Return the probability of every cell for some pieces, pieces x cells, computed as a server does."""
    logits = predict(network, images)
    cells = logits.shape[1]
    return np.stack([task.postprocess(row, cells, 1)[1] for row in logits])
