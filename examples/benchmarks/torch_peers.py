"""The same models in PyTorch, in each of its modes, from fnlamp's initial parameters and over the same batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cases import GPT, HIDDEN, TOKENS, Case
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Pixels(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.to(torch.float32) * (1 / 255)


class Image(nn.Module):
    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, x: Any) -> Any:
        return x.view(-1, 1, 28, 28).contiguous(memory_format=self.format)


class Language(nn.Module):
    """`lstm`: embedding, LSTM, a linear layer at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.out = nn.Embedding(TOKENS, HIDDEN), nn.Linear(HIDDEN, TOKENS)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.out(self.lstm(self.tokens(x))[0]).flatten(0, 1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_0, self.norm_1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.input, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in self.input(self.norm_0(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.out(functional.gelu(self.up(self.norm_1(x)), approximate="tanh"))


class Transformer(nn.Module):
    """`gpt`, with the output weight tied to the embedding."""

    def __init__(self, vocabulary: int, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        h = self.tokens(x) + self.positions[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return functional.linear(self.norm(h), self.tokens.weight).flatten(0, 1)


def build(case: Case, channels_last: bool = False) -> nn.Module:
    """The model with its own parameters."""
    match case.name:
        case "logistic":
            return nn.Sequential(Pixels(), nn.Linear(784, 10))
        case "simple":
            return nn.Sequential(Pixels(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        case "wide":
            hidden = [nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
            return nn.Sequential(Pixels(), *hidden, nn.Linear(1024, 10))
        case "lamp":
            layers: list[nn.Module] = [Pixels()]
            for a, b in ((784, 64), (64, 32)):
                layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(0.2)]
            return nn.Sequential(*layers, nn.Linear(32, 10))
        case "cnn":
            convolutions = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
            linear = [nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)]
            model = nn.Sequential(Pixels(), Image(channels_last), *convolutions, *linear)
            return model.to(memory_format=torch.channels_last) if channels_last else model
        case "lstm":
            return Language()
        case "gpt":
            return Transformer(**GPT)
    raise ValueError(case.name)


def load(case: Case, model: nn.Module, params: Any) -> nn.Module:
    """fnlamp's parameters copied in; torch keeps a linear weight transposed, and counts channels first."""
    with torch.no_grad():
        if case.name == "gpt":
            _load_gpt(model, params)
        elif case.name == "lstm":
            copy(model.tokens.weight, params["tokens"]["weight"])
            copy(model.lstm.weight_ih_l0, np.asarray(params["lstm"]["input_weight"]).T)
            copy(model.lstm.weight_hh_l0, np.asarray(params["lstm"]["recurrent_weight"]).T)
            copy(model.lstm.bias_ih_l0, params["lstm"]["bias"])
            model.lstm.bias_hh_l0.zero_()
            model.lstm.bias_hh_l0.requires_grad_(False)  # fnlamp has one bias
            affine(model.out, params["out"])
        else:
            flat = params.get("mlp", params)
            modules = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.BatchNorm1d)]
            kinds = {nn.Linear: "linear", nn.Conv2d: "conv", nn.BatchNorm1d: "norm"}
            counts: dict[str, int] = {}
            for module in modules:
                kind = kinds[type(module)]
                affine(module, flat[f"{kind}_{counts.setdefault(kind, 0)}"])
                counts[kind] += 1
    return model


def copy(into: Any, array: Any) -> None:
    into.copy_(torch.from_numpy(np.array(array)))


def affine(module: Any, p: Any) -> None:
    if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
        copy(module.weight, p["scale"])
        copy(module.bias, p["shift"])
        return
    weight = np.asarray(p["weight"])
    if isinstance(module, nn.Conv2d):
        weight = weight.transpose(3, 2, 0, 1)
    elif weight.shape[0] == 800:  # after the flattening: fnlamp counts (row, column, channel), torch (channel, row, column)
        weight = weight.reshape(4, 4, 50, -1).transpose(3, 2, 0, 1).reshape(-1, 800)
    else:
        weight = weight.T
    copy(module.weight, weight)
    if "bias" in p:
        copy(module.bias, p["bias"])


def _load_gpt(model: Any, params: Any) -> None:
    copy(model.tokens.weight, params["tokens"]["weight"])
    copy(model.positions, params["positions"]["weight"])
    affine(model.norm, params["norm"])
    for i, block in enumerate(model.blocks):
        p = params[f"block_{i}"]
        affine(block.norm_0, p["attention_norm"])
        affine(block.input, p["attention"]["input"])
        affine(block.output, p["attention"]["output"])
        affine(block.norm_1, p["feed_forward_norm"])
        affine(block.up, p["feed_forward"]["up"])
        affine(block.out, p["feed_forward"]["out"])


def optimizer(case: Case, params: Any, fused: bool) -> Any:
    """torch's optimizer of the same rule."""
    if case.optimizer.name == "adamw":
        return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0, fused=fused)
    if case.name == "lamp":
        return torch.optim.SGD(params, lr=1e-2, weight_decay=1e-3, fused=fused)  # without momentum both decays are one
    return torch.optim.SGD(params, lr=1e-2, momentum=0.9, fused=fused)


def modes(case: Case) -> list[str]:
    """The modes to run."""
    last = ["torch channels-last"] if case.name == "cnn" else []
    graphs = ["torch CUDA graphs"] if DEVICE == "cuda" else []
    return ["torch eager", "torch fused", *last, "torch compile", *graphs]


def compiled(function: Any, mode: str) -> Any:
    """The function as a mode runs it; torch's `reduce-overhead` records it as CUDA graphs."""
    if mode not in ("torch compile", "torch CUDA graphs"):
        return function
    return torch.compile(function, mode="reduce-overhead" if mode == "torch CUDA graphs" else None)


def contestant(case: Case, mode: str, params: Any, x: Any, y: Any) -> Callable[[Any], tuple[float, float]]:
    """`epoch(rows) -> (seconds, mean loss)`: one pass over the batches whose row numbers are the rows of `rows`."""
    torch.manual_seed(0)
    model = load(case, build(case, mode == "torch channels-last"), params).to(DEVICE).train()
    rule = optimizer(case, [p for p in model.parameters() if p.requires_grad], mode != "torch eager")

    def of_batch(x: Any, y: Any) -> Any:
        return functional.cross_entropy(model(x), y.flatten())

    loss_of = compiled(of_batch, mode)
    features, targets = (torch.from_numpy(a).to(DEVICE) for a in (x, y.astype(np.int64)))

    def epoch(rows: Any) -> tuple[float, float]:
        started = time.perf_counter()
        total = torch.zeros((), device=DEVICE)
        for chosen in torch.from_numpy(rows.astype(np.int64)).to(DEVICE):
            rule.zero_grad(set_to_none=True)
            loss = loss_of(features[chosen], targets[chosen])
            loss.backward()
            rule.step()
            total += loss.detach()
        mean = float(total) / len(rows)
        return time.perf_counter() - started, mean

    return epoch
