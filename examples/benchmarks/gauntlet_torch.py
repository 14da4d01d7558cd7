"""What the contestants in PyTorch share: the network, its data, and the state that the probe reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gauntlet_probe import CLASSES, DROP, FEATURES, HIDDEN, Probe
from torch import nn


class Network(nn.Module):
    """An MLP; it tells the probe the rows and the dropped activations of each training step.

    Dropout comes before the activation, where no activation is zero by itself; the function is the same.
    """

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.hidden, self.drop, self.out = nn.Linear(FEATURES, HIDDEN), nn.Dropout(DROP), nn.Linear(HIDDEN, CLASSES)
        self.probe = probe

    def forward(self, x: Any) -> Any:
        hidden = self.drop(self.hidden(x[:, 1:]))
        if self.training:
            self.probe.forward(x[:, 0])
            self.probe.dropped(hidden.detach())
        return self.out(torch.relu(hidden))


def params_of(network: Any) -> list[Any]:
    """The parameters."""
    return [p.detach() for p in network.parameters()]


def moments_of(optimizer: Any) -> list[Any]:
    """The optimizer's state: both moments and the number of steps of each parameter."""
    state = optimizer.state_dict()["state"]
    return [value for _, slots in sorted(state.items()) for _, value in sorted(slots.items())]


def tensors(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Features and labels."""
    return torch.from_numpy(x), torch.from_numpy(y)
