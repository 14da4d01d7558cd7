"""torch's modules: their state dict in a fnlamp layer, and the layer's in the module, predict the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, data, models, nn, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError
from fnlamp.models import weights

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

RNG = np.random.default_rng(0)
T = torch.nn


def random(module):
    """The module in evaluation, all of its numbers random, moments and biases too."""
    with torch.no_grad():
        for name, x in module.state_dict().items():
            if x.is_floating_point():
                x.copy_(torch.tensor(0.5 * RNG.standard_normal(x.shape)))
                if name.endswith("running_var"):
                    x.abs_().add_(0.5)
    return module.eval()


def arrays(module):
    return {name: x.numpy() for name, x in module.state_dict().items()}


def tensors(theirs):
    return {name: torch.tensor(x) for name, x in theirs.items()}


def check(layer, names, module, x, *, predict=lambda module, x: module(x), atol=1e-5):
    """Both directions, with other weights on the way back; `predict` is torch's prediction in fnlamp's axes."""
    spec = array_spec(x.shape, x.dtype)
    of = weights.of_layer(layer, spec, names) if isinstance(names, dict) else names
    apply = jax.jit(lambda params, state: layer.apply(params, state, jnp.asarray(x), Eval())[0])
    made = jax.eval_shape(lambda key: (lambda made: (made.params, made.state))(layer.init(key, spec)), jax.random.key(0))
    params, state = of.read(arrays(random(module)), made)
    with torch.no_grad():
        np.testing.assert_allclose(apply(params, state), predict(module, torch.tensor(x)), atol=atol)
    params = tree.map(lambda leaf: jnp.asarray(0.5 * RNG.standard_normal(leaf.shape), leaf.dtype), params)
    module.load_state_dict(tensors(of.write(params, state)), strict=True)
    with torch.no_grad():
        np.testing.assert_allclose(apply(params, state), predict(module, torch.tensor(x)), atol=atol)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def channels_last(module, x):
    """The prediction for rows whose channels are last, and so are those of the prediction if it has positions."""
    y = module(x.movedim(-1, 1))
    return y.movedim(1, -1) if y.ndim > 2 else y


def test_mlp():
    """Every second place of torch's `Sequential` has a linear layer, as that of `sequence`; `mlp` names its children."""
    module = T.Sequential(T.Linear(6, 5), T.ReLU(), T.Linear(5, 4), T.ReLU(), T.Linear(4, 3))
    check(nn.sequence(nn.linear(5), nn.relu, nn.linear(4), nn.relu, nn.linear(3)), {}, module, normal(7, 6))
    check(nn.mlp((5, 4), 3, norm=None), {f"linear_{i}": str(2 * i) for i in range(3)}, module, normal(7, 6))


@pytest.mark.slow
def test_mlp_with_batch_norm_and_slopes():
    module = T.Sequential(T.Linear(6, 5, bias=False), T.BatchNorm1d(5), T.PReLU(), T.Linear(5, 3), T.PReLU(3), T.LayerNorm(3))
    layer = nn.sequence(nn.linear(5, bias=False), nn.batch_norm(), nn.prelu(), nn.linear(3), nn.prelu(per_feature=True))
    check(layer >> nn.layer_norm(), {}, module, normal(7, 6))


def test_cnn():
    """The linear layer after `flatten` has its inputs in another order: torch's channels are first."""
    module = T.Sequential(
        T.Sequential(T.Conv2d(3, 6, (3, 2), padding=1), T.BatchNorm2d(6), T.ReLU(), T.MaxPool2d(2)),
        T.Conv2d(6, 8, 3, groups=2),
        T.GroupNorm(4, 8),
        T.Flatten(),
        T.BatchNorm1d(8 * 2 * 3),
        T.PReLU(8 * 2 * 3),
        T.Linear(8 * 2 * 3, 5),
        T.ReLU(),
        T.Linear(5, 2),
    )
    body = nn.sequence(nn.conv2d(6, (3, 2), padding=1), nn.batch_norm(), nn.relu, nn.max_pool2d(2))
    head = nn.sequence(nn.flatten, nn.batch_norm(), nn.prelu(per_feature=True), nn.linear(5), nn.relu, nn.linear(2))
    layer = nn.sequence(body, nn.conv2d(8, 3, groups=2), nn.group_norm(4), *(part for _, part in head.chain))
    check(layer, {}, module, normal(4, 9, 10, 3), predict=channels_last)


def test_convolutions_of_one_axis():
    module = T.Sequential(T.Conv1d(4, 6, 3), T.ReLU(), T.Flatten(), T.Linear(6 * 5, 2))
    layer = nn.sequence(nn.conv1d(6, 3), nn.relu, nn.flatten, nn.linear(2))
    check(layer, {}, module, normal(3, 7, 4), predict=channels_last)


@pytest.mark.slow
def test_depthwise_and_transposed():
    module = T.Sequential(
        T.Conv2d(3, 6, 3, groups=3),
        T.ConvTranspose2d(6, 4, (2, 3), stride=2, groups=2),
        T.ConvTranspose2d(4, 4, 3, padding=1, groups=4, bias=False),
        T.ConvTranspose2d(4, 8, 2, groups=4),
    )
    layer = nn.sequence(
        nn.depthwise_conv2d(3, multiplier=2),
        nn.conv_transpose2d(4, (2, 3), stride=2, groups=2),
        nn.conv_transpose2d(4, 3, padding=1, groups=4, bias=False),
        nn.conv_transpose2d(8, 2, groups=4),
    )
    check(layer, {}, module, normal(2, 5, 6, 3), predict=channels_last)


@pytest.mark.broad
@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
def test_recurrent(kind):
    """Two layers, both directions: one module of torch."""
    module = {"lstm": T.LSTM, "gru": T.GRU, "rnn": T.RNN}[kind](4, 3, num_layers=2, bidirectional=True, batch_first=True)
    one = nn.bidirectional(getattr(nn, kind)(3))
    names = {f"{i}/{way}": f"*_l{i}{end}" for i in range(2) for way, end in (("forward", ""), ("backward", "_reverse"))}
    check(nn.sequence(one, one), names, module, normal(2, 6, 4), predict=lambda module, x: module(x)[0])


def test_a_recurrent_layer_inside_a_model():
    class Model(T.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn, self.out = T.Embedding(9, 4), T.LSTM(4, 3, batch_first=True), T.Linear(3, 2)

        def forward(self, x):
            return self.out(self.rnn(self.embed(x))[0][:, -1])

    layer = nn.sequence(embed=nn.embedding(9, 4), rnn=nn.lstm(3), last=nn.last_step, out=nn.linear(2))
    check(layer, {}, Model(), RNG.integers(0, 9, (3, 5)))


@pytest.mark.slow
def test_transformer_encoder():
    """torch's own encoder, by the names of its modules: query, key and value are one matrix in both."""
    module = T.TransformerEncoderLayer(8, 2, dim_feedforward=16, activation="gelu", batch_first=True)
    block = nn.transformer_block(nn.self_attention(2), nn.feed_forward(2, nn.gelu), pre_norm=False)
    names = {
        "attention/input": "self_attn.in_proj_*",
        "attention/output": "self_attn.out_proj",
        "attention_norm": "norm1",
        "feed_forward/up": "linear1",
        "feed_forward/out": "linear2",
        "feed_forward_norm": "norm2",
    }
    check(block, names, module, normal(3, 5, 8))


class Block(T.Module):
    """A bottleneck with the names of torchvision's."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = T.Conv2d(inputs, width, 1, bias=False), T.BatchNorm2d(width)
        self.conv2, self.bn2 = T.Conv2d(width, width, 3, stride, 1, bias=False), T.BatchNorm2d(width)
        self.conv3, self.bn3 = T.Conv2d(width, 4 * width, 1, bias=False), T.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            self.downsample = T.Sequential(T.Conv2d(inputs, 4 * width, 1, stride, bias=False), T.BatchNorm2d(4 * width))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


@pytest.mark.slow
def test_torchvision_resnet():
    class Network(T.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = T.Conv2d(3, 4, 7, 2, 3, bias=False), T.BatchNorm2d(4)
            self.layer1 = T.Sequential(Block(4, 4, 1), Block(16, 4, 1))
            self.layer2 = T.Sequential(Block(16, 6, 2))
            self.fc = T.Linear(24, 5)

        def forward(self, x):
            x = T.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
            return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))

    layer = models.resnet(5, blocks=(2, 1), widths=(4, 6), bottleneck=True)
    check(layer, weights.torchvision_resnet(), Network(), normal(2, 30, 33, 3), predict=channels_last, atol=1e-4)


def test_files_of_half_precision_with_a_compiled_model_in_them(tmp_path):
    """A checkpoint of `torch.save` and a safetensors file, of bfloat16, into fnlamp and back through a file: the same bits."""
    numpy, theirs = pytest.importorskip("safetensors.numpy"), pytest.importorskip("safetensors.torch")
    module = random(T.Sequential(T.Linear(4, 3), T.BatchNorm1d(3))).to(torch.bfloat16)
    wrapped = {f"_orig_mod.module.{name}": x for name, x in module.state_dict().items()}
    torch.save({"model": wrapped, "epoch": 3}, tmp_path / "checkpoint.pt")
    theirs.save_file(wrapped, tmp_path / "model.safetensors")
    layer, spec = nn.linear(3) >> nn.batch_norm(), array_spec((2, 4), jnp.float32)
    names, made = weights.of_layer(layer, spec), layer.init(jax.random.key(0), spec)
    of_torch = data.read_torch(tmp_path / "checkpoint.pt").run_or_raise()["model"]
    for arrays in (of_torch, data.read_safetensors(tmp_path / "model.safetensors").run_or_raise()):
        params, state = names.read(arrays, made)
        assert params["0"]["weight"].dtype == jnp.bfloat16 and state["1"]["mean"].dtype == jnp.float32
        numpy.save_file(names.write(params, state), tmp_path / "ours.safetensors")
        again = theirs.load_file(tmp_path / "ours.safetensors")
        assert again.keys() == module.state_dict().keys()
        for name, x in module.state_dict().items():
            assert torch.equal(again[name].to(x.dtype), x), name


def test_tensors_are_read_as_they_are():
    """A state dict without a file: tensors, of the numbers that NumPy has."""
    module, spec = random(T.Linear(4, 3)), array_spec((2, 4), jnp.float32)
    names, made = weights.of_layer(nn.linear(3), spec), nn.linear(3).init(jax.random.key(0), spec)
    params, _ = names.read(module.state_dict(), made)
    np.testing.assert_array_equal(params["weight"].T, module.weight.detach())
    with pytest.raises(FaultError, match=r"weight: .*float\(\)\.numpy\(\)"):
        names.read(module.to(torch.bfloat16).state_dict(), made)
