"""Layers: pure functions over parameter trees, one family a file."""

from fnlamp.elsewhere import LAYERS as _LAYERS
from fnlamp.elsewhere import elsewhere as _elsewhere
from fnlamp.layer import table as table
from fnlamp.nn.activation import elu as elu
from fnlamp.nn.activation import gelu as gelu
from fnlamp.nn.activation import gelu_tanh as gelu_tanh
from fnlamp.nn.activation import hard_swish as hard_swish
from fnlamp.nn.activation import leaky_relu as leaky_relu
from fnlamp.nn.activation import log_softmax as log_softmax
from fnlamp.nn.activation import relu as relu
from fnlamp.nn.activation import sigmoid as sigmoid
from fnlamp.nn.activation import silu as silu
from fnlamp.nn.activation import softmax as softmax
from fnlamp.nn.activation import softplus as softplus
from fnlamp.nn.activation import tanh as tanh
from fnlamp.nn.attention import self_attention as self_attention
from fnlamp.nn.augment import augment as augment
from fnlamp.nn.combine import branch as branch
from fnlamp.nn.combine import parallel as parallel
from fnlamp.nn.combine import repeat as repeat
from fnlamp.nn.combine import residual as residual
from fnlamp.nn.combine import sequence as sequence
from fnlamp.nn.conv import conv2d as conv2d
from fnlamp.nn.conv import conv_pool as conv_pool
from fnlamp.nn.dropout import dropout as dropout
from fnlamp.nn.embedding import embedding as embedding
from fnlamp.nn.gather import gather_positions as gather_positions
from fnlamp.nn.initial import Initializer as Initializer
from fnlamp.nn.initial import by_fan_in as by_fan_in
from fnlamp.nn.initial import torch_bias as torch_bias
from fnlamp.nn.initial import torch_weight as torch_weight
from fnlamp.nn.linear import linear as linear
from fnlamp.nn.mlp import mlp as mlp
from fnlamp.nn.norm import batch_norm as batch_norm
from fnlamp.nn.norm import layer_norm as layer_norm
from fnlamp.nn.pool import avg_pool2d as avg_pool2d
from fnlamp.nn.pool import global_avg_pool as global_avg_pool
from fnlamp.nn.pool import max_pool2d as max_pool2d
from fnlamp.nn.recurrent import forget_one as forget_one
from fnlamp.nn.recurrent import lstm as lstm
from fnlamp.nn.shape import flatten as flatten
from fnlamp.nn.shape import fun as fun
from fnlamp.nn.shape import rescale as rescale
from fnlamp.nn.transformer import gpt as gpt
from fnlamp.nn.transformer import transformer_block as transformer_block

# Set, not written out: type checkers would take any name for one of the module.
globals()["__getattr__"] = _elsewhere(__name__, _LAYERS)
