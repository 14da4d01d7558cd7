"""Encoders and decoders against torch in float32 with the same weights: at most 1e-5 apart, values and gradients alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, models, nn, tree
from fnlamp.arrays import array_spec

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
SOURCE, TARGET, LENGTHS = RNG.integers(0, 11, (3, 7)), RNG.integers(0, 9, (3, 5)), np.array([4, 7, 1], np.int32)
SPEC = (array_spec((3, 7), jnp.int32), array_spec((3,), jnp.int32)), array_spec((3, 5), jnp.int32)
PADDING = torch.tensor(np.arange(7) >= LENGTHS[:, None])


class Weights:
    """Which of our parameters are in which of torch's, and how."""

    def __init__(self, params):
        self.ours, self.pairs = tree.paths(params), []

    def linear(self, path, module, norm=False):
        weight, bias = ("scale", "shift") if norm else ("weight", "bias")
        self.one(f"{path}/{weight}", module.weight)
        if module.bias is not None:
            self.one(f"{path}/{bias}", module.bias)

    def one(self, path, theirs, place=slice(None), turned=True):
        """Our parameter is a part of torch's."""
        ours = np.asarray(self.ours[path])
        with torch.no_grad():
            theirs[place] = torch.tensor((ours.T if turned else ours).copy())
        self.pairs.append((path, theirs, place, turned))

    def check(self, gradients):
        found = tree.paths(gradients)
        assert set(found) == {path for path, *_ in self.pairs}
        for path, theirs, place, turned in self.pairs:
            expected = theirs.grad[place].numpy()
            expected = expected.T if turned else expected
            near(found[path], expected, path)


def near(ours, theirs, what=""):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5 * max(np.abs(theirs).max(), 1e-3), err_msg=what)


def drawn(model):
    """Parameters far from their initial values."""
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), SPEC).params)
    return jax.tree.map(lambda p: jnp.asarray(0.3 * RNG.standard_normal(p.shape), jnp.float32), made)


def compare(model, params, weights, theirs):
    """Logits, and the gradients of all parameters, from one upstream gradient."""
    y, pull = jax.vjp(lambda p: model.apply(p, {}, ((SOURCE, LENGTHS), TARGET), Eval())[0], params)
    near(y, theirs.detach().numpy())
    upstream = RNG.standard_normal(y.shape).astype(np.float32)
    theirs.backward(torch.tensor(upstream))
    weights.check(pull(jnp.asarray(upstream))[0])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("pre_norm", [False, True], ids=["norms after", "norms before"])
def test_the_transformer_is_torchs(pre_norm):
    width, heads, layers = 8, 2, 2
    model = models.transformer(11, 9, layers=layers, width=width, heads=heads, pre_norm=pre_norm)
    params = drawn(model)
    theirs = torch.nn.Transformer(width, heads, layers, layers, 4 * width, dropout=0.0, batch_first=True, norm_first=pre_norm)
    embeddings, out = [torch.nn.Embedding(n, width) for n in (11, 9)], torch.nn.Linear(width, 9)
    w = Weights(params)
    for side, stack, table in (("encoder", theirs.encoder, embeddings[0]), ("decoder", theirs.decoder, embeddings[1])):
        w.one(f"{side}/tokens/weight", table.weight, turned=False)
        for i, block in enumerate(stack.layers):
            at = f"{side}/block_{i}"
            for kind in ("weight", "bias"):
                w.one(f"{at}/attention/input/{kind}", getattr(block.self_attn, f"in_proj_{kind}"))
            w.linear(f"{at}/attention/output", block.self_attn.out_proj)
            w.linear(f"{at}/feed_forward/up", block.linear1)
            w.linear(f"{at}/feed_forward/out", block.linear2)
            names = ["attention_norm", *(["cross_norm"] if side == "decoder" else []), "feed_forward_norm"]
            for number, name in enumerate(names, 1):
                w.linear(f"{at}/{name}", getattr(block, f"norm{number}"), norm=True)
            if side == "decoder":
                for kind in ("weight", "bias"):
                    joint = getattr(block.multihead_attn, f"in_proj_{kind}")
                    w.one(f"{at}/cross/query/{kind}", joint, slice(0, width))
                    w.one(f"{at}/cross/memory/{kind}", joint, slice(width, None))
                w.linear(f"{at}/cross/output", block.multihead_attn.out_proj)
        if pre_norm:
            w.linear(f"{side}/norm", stack.norm, norm=True)
        else:
            stack.norm = None  # the paper has no norm after the last block; torch adds one
    w.linear("decoder/out", out)

    def vectors(table, tokens):
        time, even = np.arange(tokens.shape[1])[:, None], np.arange(0, width, 2)
        angles = time / 10_000 ** (even / width)  # section 3.5
        sines = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(time), width)
        return table(torch.tensor(tokens)) * np.sqrt(width) + torch.tensor(sines, dtype=torch.float32)

    y = theirs(
        vectors(embeddings[0], SOURCE),
        vectors(embeddings[1], TARGET),
        tgt_mask=torch.triu(torch.ones(5, 5, dtype=torch.bool), 1),
        src_key_padding_mask=PADDING,
        memory_key_padding_mask=PADDING,
    )
    compare(model, params, w, out(y))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_recurrent_model_is_a_module_of_torch(kind):
    hidden, layers = 6, 2
    cell = {"lstm": nn.lstm_cell, "gru": nn.gru_cell}[kind](hidden)
    model = models.recurrent_seq2seq(11, 9, cell=cell, layers=layers, width=4)
    params = drawn(model)
    make = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
    stacks = {side: make(4, hidden, layers, batch_first=True) for side in ("encoder", "decoder")}
    embeddings = {side: torch.nn.Embedding(n, 4) for side, n in (("encoder", 11), ("decoder", 9))}
    query, memory, output = (torch.nn.Linear(hidden, n) for n in (hidden, 2 * hidden, hidden))
    combined, out = torch.nn.Linear(2 * hidden, hidden, bias=False), torch.nn.Linear(hidden, 9)
    w = Weights(params)
    for side, stack in stacks.items():
        w.one(f"{side}/tokens/weight", embeddings[side].weight, turned=False)
        for i in range(layers):
            at = f"{side}/cells/cell_{i}"
            w.one(f"{at}/input_weight", getattr(stack, f"weight_ih_l{i}"))
            w.one(f"{at}/recurrent_weight", getattr(stack, f"weight_hh_l{i}"))
            w.one(f"{at}/bias", getattr(stack, f"bias_ih_l{i}"))
            with torch.no_grad():
                getattr(stack, f"bias_hh_l{i}").zero_()  # torch has two biases for our one
            if kind == "gru":  # but for the new state of a gru, which has both
                w.one(f"{at}/recurrent_bias", getattr(stack, f"bias_hh_l{i}"), slice(2 * hidden, None))
    for name, module in (("query", query), ("memory", memory), ("output", output)):
        w.linear(f"decoder/attention/seen/{name}", module)
    w.linear("decoder/combined", combined)
    w.linear("decoder/out", out)

    packed = torch.nn.utils.rnn.pack_padded_sequence(
        embeddings["encoder"](torch.tensor(SOURCE)), torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    ys, carry = stacks["encoder"](packed)
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, batch_first=True, total_length=7)
    h, _ = stacks["decoder"](embeddings["decoder"](torch.tensor(TARGET)), carry)
    k, v = memory(ys).chunk(2, dim=-1)
    scores = query(h) @ k.transpose(1, 2) / np.sqrt(hidden)
    weights = torch.softmax(scores.masked_fill(PADDING[:, None], -torch.inf), dim=-1)
    context = output(weights @ v)
    compare(model, params, w, out(torch.tanh(combined(torch.cat([context, h], dim=-1)))))
