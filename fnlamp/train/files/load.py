"""Read a trained model from a file into a model that the caller describes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import jax
from returns.result import Result, Success

from fnlamp import checkpoint
from fnlamp.arrays import Spec, Tree, placed_on, spec_of, to_device
from fnlamp.checkpoint import Partial, partial
from fnlamp.checkpoint.file import NOTHING
from fnlamp.checkpoint.replace import expanded
from fnlamp.convert import as_array
from fnlamp.data.readers.file import LIMIT, read_all, reading
from fnlamp.data.readers.safetensors import arrays_in, metadata_in
from fnlamp.effect import Effect, Outline, Runtime, Unknown
from fnlamp.fault import ExtraMissing, FaultError, FileFault, FileTooNew, PlanFault, StateMismatch, located
from fnlamp.given import flag, instance, text, whole
from fnlamp.mode import name_key, seed_key
from fnlamp.stream.view import check_seed
from fnlamp.train.arguments import check_model, device_of
from fnlamp.train.files.about import NPZ, described, epoch_in, features_in, from_text, model_path
from fnlamp.train.files.safetensors import verify_safetensors
from fnlamp.train.state import Kept
from fnlamp.train.supervised import Supervised


def load_model(
    path: str | PathLike[str],
    model: Supervised,
    *,
    features: Tree = None,
    strict: bool = True,
    rename: Mapping[str, str] = NOTHING,
    seed: int = 0,
) -> Effect[Kept, FileFault | FileTooNew | StateMismatch | PlanFault | ExtraMissing]:
    """The program that reads a model file: a `Kept` that predicts as before, and from which `epochs(initial=...)` starts.

    `model` is what the file is a model of; nothing in the file is executed. It is described for the features that the file
    names; for a safetensors file of another library give them as `features`: arrays or specs, batch axis first.
    `rename` maps paths in the file, or the start of paths up to a `/`, to those of the model, such as `{"": "params"}`.
    With `strict=False` what fits by path, shape and dtype is loaded, the rest is initialised from `seed`, and the log lists it.
    The extra `safetensors` reads that format.
    Fails: `StateMismatch`, which lists every array that is missing, has no place, or differs; `ShapeMismatch` or
    `DtypeMismatch` for features that the model cannot take; `FileMissing`, `FileCorrupt`, `FileTooNew`, `ExtraMissing`.
    Raises: `ValueError` for a `rename` that matches nothing.

    >>> model = supervised(nn.linear(1), loss.mse())
    >>> load_model("missing.npz", model).run(Runtime(log=None))
    <IOResult: <Failure: missing.npz: cannot be read (No such file or directory)>>
    """
    name = expanded(model_path(path))
    check_model(model)
    strict, seed = flag("strict", strict), check_seed(whole("seed", seed, None))
    given = None if features is None else _specs(features)
    for old, new in instance("rename", rename, Mapping, "a dict from paths in the file to paths of the model").items():
        text("rename: a path in the file", old), text("rename: a path of the model", new)

    def fitted(contents: tuple[Tree, Mapping[str, Any]]) -> Effect[Kept, Any]:
        arrays, about = contents

        def fit(runtime: Runtime) -> Result[Kept, Any]:
            spec = features_in(name, about) if given is None else given
            with placed_on(device_of(runtime.device)):
                found = _loaded(name, model, spec, arrays, rename, strict, seed)
                weights = jax.tree.map(lambda x: to_device(x, share=True), found.tree)
            _report(name, model, found, about, runtime.say)
            return Success(Kept(model, weights["params"], weights["state"], epoch_in(name, about), spec))

        return Effect.call(fit)

    def outline() -> Outline:
        return Outline((f"load the model {name}",), Unknown("the contents of the file are unknown until it is read"))

    return contents_of(name).bind(fitted).named(f"load_model {name}").outlined(outline)


def _specs(features: Tree) -> Tree:
    """The specs of features given as specs or as arrays."""

    def one(x: Any) -> Any:
        return x if isinstance(x, Spec) else spec_of(as_array(x, "features"))

    return jax.tree.map(one, features, is_leaf=lambda x: isinstance(x, list))


def contents_of(path: str) -> Effect[tuple[Tree, Mapping[str, Any]], FileFault | FileTooNew | ExtraMissing]:
    """The program that reads the arrays and the description in a model file of either format."""
    if path.endswith(NPZ):
        return checkpoint.read(path).map(lambda file: (file.tree, file.note))
    return _safetensors(path)


def _safetensors(path: str) -> Effect[tuple[Tree, Mapping[str, Any]], FileFault | ExtraMissing]:
    """The arrays by their names, and the description."""

    def load() -> tuple[Tree, Mapping[str, Any]]:
        # A model may be larger than a reader's limit, if its file is.
        limit = max(LIMIT, os.path.getsize(path)) if os.path.isfile(path) else LIMIT
        raw = read_all(path, limit)
        arrays, metadata = arrays_in(path, raw, limit), metadata_in(path, raw)
        if "fnlamp" in metadata:
            verify_safetensors(path, raw)
        return arrays, from_text(path, metadata)

    return reading(path, load)


def _loaded(
    path: str, model: Supervised, spec: Tree, arrays: Tree, rename: Mapping[str, str], strict: bool, seed: int
) -> Partial:
    """The model's arrays, those that the file lacks initialised.  Fails: `StateMismatch`."""
    with located("model"):
        made = model.describe(spec)
    found = partial({"params": made.params, "state": made.state}, arrays, rename=rename)
    left = found.missing, found.extra, found.differing
    renaming = "rename={old path: new path} moves arrays"
    if strict and any(left):
        hint = f"{renaming}, and strict=False loads those that fit"
        raise FaultError(StateMismatch(*left, hint=hint, where=path))
    if not found.loaded and any(left):
        raise FaultError(StateMismatch(*left, hint=f"no array fits; {renaming}", where=path))
    if not found.missing and not found.differing:
        return found
    params, state = model.init(name_key(seed_key(seed), "init"), spec)
    return partial({"params": params, "state": state}, arrays, rename=rename)


def _report(path: str, model: Supervised, found: Partial, about: Mapping[str, Any], say: Callable[[str], object]) -> None:
    """Log what was not loaded, and a model of another description."""
    for what, paths in {
        "not in the file, initialised": found.missing,
        "of another shape or dtype, initialised": found.differing,
        "without a place in the model, not loaded": found.extra,
    }.items():
        if paths:
            say(f"load_model: {what}: {', '.join(paths)}")
    if about.get("model", described(model)) != described(model):
        say(f"load_model: {path} was saved from the model {about['model']}, and is loaded into {described(model)}")
