"""Randomness that depends on nothing but the seed and the epoch."""

import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[int]]):
    """The batches of an epoch, as lists of indices, in an order that follows from the seed and the epoch.

    Args:
        examples: Number of examples.
        batch_size: Of a batch over all ranks; the last one of an epoch may be smaller.
        seed: Of the order.
        rank: Of this process, 0 to ranks - 1.
        ranks: Processes that share every batch.
    """

    def __init__(self, examples: int, batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._ranks = ranks
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 for the first; Lightning calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same for every rank."""
        return math.ceil(self._examples / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over this rank's share of every batch."""
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._examples)
        for start in range(0, self._examples, self._batch_size):
            batch = order[start : start + self._batch_size]
            # All ranks must take the same number of steps, so where a last batch is too small some get an example twice.
            share = batch[self._rank :: self._ranks] if len(batch) > self._rank else batch[:1]
            yield share.tolist()


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed all generators (torch on every device, numpy, random) for an epoch, each rank differently."""
    state = int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])
    torch.manual_seed(state)
    np.random.seed(state)
    random.seed(state)
