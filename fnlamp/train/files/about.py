"""What a model file says of its model besides the arrays: plain text and numbers, in both formats."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import jax
import jax.numpy as jnp

import fnlamp
from fnlamp import tree
from fnlamp.arrays import Spec, Tree, array_spec
from fnlamp.checkpoint import Record
from fnlamp.checkpoint.structure import restructured, structured
from fnlamp.fault import FaultError, FileCorrupt
from fnlamp.given import path_of
from fnlamp.summary import table
from fnlamp.train.after import epoch_of
from fnlamp.train.precision import float32
from fnlamp.train.state import Kept, Trained
from fnlamp.train.supervised import Supervised

SAFETENSORS, NPZ = ".safetensors", ".npz"


def model_path(path: Any, argument: str = "path") -> str:
    """The path of a model file as text.  Raises: `TypeError`, `ValueError` for one that ends in neither suffix."""
    name = path_of(path, argument)
    if not name.endswith((SAFETENSORS, NPZ)):
        raise ValueError(f"{argument} ends in {SAFETENSORS} or {NPZ}, the format of the file, got {name!r}")
    return name


def about(trained: Trained | Kept) -> dict[str, Any]:
    """The description of a trained model: its layers, loss and epoch, and the features that it takes."""
    layer, features = trained.model.layer, trained.features
    return {
        "fnlamp": fnlamp.__version__,
        "model": described(trained.model),
        "loss": str(trained.model.loss),
        "parameters": tree.count(trained.params),
        "epoch": epoch_of(trained),
        "features": None if features is None else tree.map(_written, features),
        "summary": None if features is None else table(layer, features),
    }


_JSON: Final = ("epoch", "features")
"""What is read again; the rest is for people."""


def described(model: Supervised) -> str:
    """The model's layers in one line, and the dtype that it computes in, if that is another than float32."""
    compute = model.precision.compute
    return f"{model.layer}" + ("" if compute == float32.compute else f", computed in {compute}")


def as_text(about: Mapping[str, Any]) -> dict[str, str]:
    """The description as texts, which is all that metadata of safetensors can hold.

    >>> as_text({"model": "linear(2)", "epoch": 3, "features": "float32[batch, 4]"})
    {'model': 'linear(2)', 'epoch': '3', 'features': '"float32[batch, 4]"'}
    """

    def no_array(x: Any, path: tuple[str, ...]) -> NoReturn:
        raise TypeError(f"a description without arrays, got one at {path}")

    return {key: json.dumps(structured(value, no_array)) if key in _JSON else str(value) for key, value in about.items()}


def from_text(path: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The description in the metadata of a safetensors file, empty for a file of another library.  Fails: `FileCorrupt`."""
    if "fnlamp" not in texts:
        return {}
    found: dict[str, Any] = dict(texts)
    try:
        return found | {key: restructured(json.loads(texts[key]), []) for key in _JSON if key in texts}
    except Exception as error:  # a damaged description can break any line
        raise FaultError(FileCorrupt(path, "metadata that save_model writes", f"{type(error).__name__}: {error}")) from error


def epoch_in(path: str, about: Mapping[str, Any]) -> int:
    """The epoch after which the model was saved; 0 if the file does not say.  Fails: `FileCorrupt`."""
    epoch = about.get("epoch", 0)
    if type(epoch) is not int or epoch < 0:
        raise FaultError(FileCorrupt(path, "an epoch", repr(epoch)))
    return epoch


def features_in(path: str, about: Mapping[str, Any]) -> Tree:
    """The spec of the features, with a batch of one row.  Fails: `FileCorrupt` for a file that does not say."""
    features = about.get("features")
    nodes = jax.tree.leaves(features, is_leaf=lambda x: isinstance(x, Record))
    if not nodes or any(isinstance(node, Record) for node in nodes):
        actual = "a file that does not say; give features=, such as features=x[:1]"
        raise FaultError(FileCorrupt(path, "the shapes and dtypes of the features", actual))
    return tree.map(lambda text: _parsed(path, text), features)


def _written(spec: Spec) -> str:
    """The spec of an array as text: `float32[batch, 784]`; `float32[]` for a number."""
    return f"{spec.dtype}[{', '.join(['batch', *map(str, spec.shape[1:])] if spec.shape else [])}]"


def _parsed(path: str, text: Any) -> Spec:
    found = re.fullmatch(r"(\w+)\[(?:(batch)((?:, \d+)*))?\]", str(text))
    try:
        if found is None or str(jnp.dtype(found[1])) != found[1]:
            raise TypeError
        shape = (1, *map(int, found[3].split(", ")[1:])) if found[2] else ()
        return array_spec(shape, jnp.dtype(found[1]))
    except (TypeError, ValueError) as error:
        raise FaultError(FileCorrupt(path, "a spec such as float32[batch, 784]", repr(text))) from error
