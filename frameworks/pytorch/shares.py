"""One process in the place of all devices of a case: what the alignment's reference is."""

import torch
from torch import nn
from torch.func import functional_call


class Shares(nn.Module):
    """A network on the shares of several devices, [D B, ...] one behind the other, each by itself.

    Parameters are one for all. Each device has its own running statistics, as its own batch has: the
    network's buffers become [D, channels].
    """

    def __init__(self, network: nn.Module, devices: int) -> None:
        super().__init__()
        self.network, self._devices = network, devices
        for module in network.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                if name.startswith("running_"):
                    module.register_buffer(name, buffer.repeat(devices, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Each share through the network; embeddings [D B, E] in the order of the shares."""
        statistics = {name: all_ for name, all_ in self.network.named_buffers() if ".running_" in name}
        parts = []
        for device, share in enumerate(images.chunk(self._devices)):
            own = {name: all_[device] for name, all_ in statistics.items()}
            parts.append(functional_call(self.network, own, (share,)))
        return torch.cat(parts)
