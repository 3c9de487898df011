"""This process among the data-parallel workers of a fine-tuning."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Worker:
    """One of `world_size` processes that train the same model."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def current(cls, use_gpu: bool | None) -> "Worker":
        """This process: alone, unless `torch.distributed` is initialised.

        Args:
            use_gpu: None takes a GPU if there is one: torch's current device.

        Raises:
            ValueError: a GPU is asked for and there is none.
        """
        has_gpu = torch.cuda.is_available()
        if use_gpu and not has_gpu:
            raise ValueError("use_gpu is true, but torch finds no GPU on this machine; set it to false or null")
        device = torch.device("cuda", torch.cuda.current_device()) if has_gpu and use_gpu is not False else "cpu"
        if not torch.distributed.is_initialized():
            return cls(0, 1, torch.device(device))
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), torch.device(device))

    def replicate(self, model: nn.Module) -> nn.Module:
        """The module to train: its gradients are means over all workers.

        `static_graph` lets parameters go unused, as some encoders' poolers are.
        """
        if self.world_size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=True,
        )

    def sum(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The sum over all workers, element by element; every worker gets it."""
        total = np.asarray(values, dtype=np.float64)
        if self.world_size > 1:
            tensor = torch.from_numpy(total).to(self.device)  # NCCL sums on GPUs only
            torch.distributed.all_reduce(tensor)
            total = tensor.cpu().numpy()
        return total
