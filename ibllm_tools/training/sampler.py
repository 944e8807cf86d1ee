"""Epochs that see a part of the data."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ibllm_tools.errors import InvalidRequestError


class SubEpochSampler(Sampler[int]):
    """Every ``split_epoch``-th index of a permutation; after ``split_epoch`` epochs another permutation begins.

    Args:
        size: of the data set.
        split_epoch: into how many epochs a pass over the data is split.
        seed: of the permutations.
        replicas: processes that share an epoch. Under accelerate it stays 1, since accelerate deals the batches out.
        rank: which of them this is.

    Raises:
        InvalidRequestError: an epoch would be empty, or there is no such rank.
    """

    def __init__(self, size: int, split_epoch: int, *, seed: int = 0, replicas: int = 1, rank: int = 0) -> None:
        if not 0 <= rank < replicas:
            raise InvalidRequestError(f"rank {rank} of {replicas} replicas: expected 0 to {replicas - 1}")
        self.size, self.split_epoch, self.seed, self.replicas, self.rank = size, split_epoch, seed, replicas, rank
        self.epoch = 0
        if split_epoch < 1 or len(self) == 0:
            raise InvalidRequestError(
                f"{size} items cannot be split into {split_epoch} epochs on {replicas} replicas: lower split_epoch"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // (self.replicas * self.split_epoch)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch // self.split_epoch)
        order = torch.randperm(self.size, generator=generator)
        first = self.rank * self.split_epoch + self.epoch % self.split_epoch
        share = order[first :: self.replicas * self.split_epoch]
        yield from share[: len(self)].tolist()
