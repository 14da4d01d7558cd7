"""The configs of a classifier of MNIST: loop sizes, device, model and optimizer are computed, over a grid of kernel sizes."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from fnlamp import Layer, fault, nn, optim
from fnlamp.config import computed, group, options, resolve


@group
class Device:
    use_cuda: bool = True
    cuda_device: int = 0
    device: str = computed(lambda use_cuda, cuda_device: f"cuda:{cuda_device}" if use_cuda else "cpu")


@group
class Loader:
    rows: int = 60_000
    batch_size: int = 64
    test_batch_size: int = 1000
    train_batches: int = computed(lambda rows, batch_size: -(-rows // batch_size))


@group
class TrainingLoop:
    epochs: int = 10
    loop_step: int = computed(lambda train_batches: train_batches)
    loop_count: int = computed(lambda epochs, loop_step: epochs * loop_step)
    is_save_models: bool = False


def net(conv1_kernel: int, conv2_kernel: int) -> Layer:
    return nn.sequence(
        nn.conv2d(20, conv1_kernel),
        nn.relu,
        nn.max_pool2d(2),
        nn.conv2d(50, conv2_kernel),
        nn.relu,
        nn.max_pool2d(2),
        nn.flatten,
        nn.linear(500),
        nn.relu,
        nn.linear(10),
    )


@group
class Configs(TrainingLoop, Loader, Device):
    conv1_kernel: int = 5
    conv2_kernel: int = 5
    size: int = computed(lambda conv1_kernel, conv2_kernel: (28 - conv1_kernel - 2 * conv2_kernel + 3) // 4)
    model: Layer = computed(net)
    learning_rate: float = 0.01
    optimizer: optim.Optimizer = options(
        {
            "sgd": computed(lambda learning_rate: optim.sgdw(learning_rate)),
            "adam": computed(lambda learning_rate: optim.adamw(learning_rate)),
        },
        default="sgd",
    )


def parameters(model: Layer) -> int:
    images = jax.ShapeDtypeStruct((64, 28, 28, 1), jnp.float32)
    shapes = jax.eval_shape(lambda key: model.init(key, images).params, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_the_sizes_of_the_loop_are_computed():
    resolved = resolve(Configs).unwrap()
    config = resolved.config
    assert (config.loop_step, config.loop_count, config.device) == (938, 9_380, "cuda:0")
    assert resolve(Configs, "use_cuda=false").unwrap().config.device == "cpu"
    assert config.optimizer.name == "sgdw" and resolved.settings["optimizer"].option == "sgd"
    assert resolved.order.index("loop_step") < resolved.order.index("loop_count")


def test_a_grid_of_kernels_is_four_configs_that_say_what_differs():
    sizes, counts = [], []
    for one, other in itertools.product([3, 5], [3, 5]):
        resolved = resolve(Configs, {"conv1_kernel": one, "conv2_kernel": other}).unwrap()
        assert resolved.hyperparameters == {"conv1_kernel": one, "conv2_kernel": other}
        sizes.append(resolved.config.size)
        counts.append(parameters(resolved.config.model))
    assert sizes == [5, 4, 5, 4]
    assert counts == [639_760, 430_760, 640_080, 431_080]


def test_an_undeclared_field_fails_with_the_near_names():
    @group
    class Undeclared(Configs):
        moment: float = 0.9
        rule: optim.Optimizer = computed(lambda learning_rate, momentum: optim.sgdw(learning_rate, momentum=momentum))

    told = resolve(Undeclared).failure()
    assert isinstance(told, fault.UnknownNeed) and told.name == "momentum" and told.near[0] == "moment"
    with pytest.raises(TypeError, match="train_log_interval"):
        Configs(train_log_interval=10)  # type: ignore[call-arg]
