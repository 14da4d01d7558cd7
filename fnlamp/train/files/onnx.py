"""A trained model as an ONNX file, converted by jax2onnx and compared with the model by ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from os import PathLike
from typing import Any, Final

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, exporting, is_float, placed_on, spec_after
from fnlamp.checkpoint.replace import expanded, replaced
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import ExtraMissing, FaultError, FileUnwritable, NotExportable
from fnlamp.given import whole
from fnlamp.mode import Eval
from fnlamp.train.files.save import check_trained
from fnlamp.train.files.stablehlo import built, check_features, features_spec
from fnlamp.train.state import Kept, Trained

CLOSE: Final = 1e-4
"""The largest difference between both predictions, as a part of the largest number: far more than rounding, far less than an
operation converted wrongly."""


def export_onnx(
    trained: Trained | Kept, path: str | PathLike[str], *, batch_size: int | None = None, opset: int | None = None
) -> Effect[None, FileUnwritable | NotExportable | ExtraMissing]:
    """The program that writes a trained model's prediction in `Eval` to an ONNX file.

    The number of rows is any, the axis `batch`, unless `batch_size` fixes it. An input is named `features`, or by its path in
    a tree, such as `features/image`; an output likewise `prediction`. `opset` is the version of ONNX's operations; `None` is
    jax2onnx's default. The conversion is checked: ONNX Runtime predicts for random features, and the model for the same.
    Needs the extra `onnx`.
    Fails: `NotExportable` for an operation that jax2onnx does not convert, or converts wrongly; `FileUnwritable`,
    `ExtraMissing`.
    """
    name = expanded(path)
    check_trained("export_onnx", trained)
    check_features("export_onnx", trained)
    rows = None if batch_size is None else whole("batch_size", batch_size)
    version = {} if opset is None else {"opset": whole("opset", opset)}

    def work() -> None:
        with _quiet():
            convert = need("jax2onnx", "onnx").to_onnx
            runtime = need("onnxruntime", "onnx")
            model = built(lambda rows: _converted(trained, rows, convert, version), rows)
            for count in (1, 3) if rows is None else (rows,):
                _compare(trained, model, count, runtime)
        replaced(name, lambda file: file.write(model))

    return Effect.checked(work).named(f"export_onnx {name}")


def _converted(trained: Trained | Kept, rows: int | None, convert: Any, version: dict[str, int]) -> bytes:
    spec = features_spec(trained.features, rows)
    structure: Any = jax.tree.structure(spec)

    def prediction(x: Tree) -> Tree:
        return trained.model.forward(trained.params, trained.layer_state, x, Eval())[0]

    def of_leaves(*leaves: Any) -> list[Any]:
        return tree.leaves(prediction(structure.unflatten(leaves)))

    outputs = _named("prediction", spec_after(prediction, features_spec(trained.features, rows or 2)))
    names = {"input_names": _named("features", spec), "output_names": outputs}
    with exporting(), placed_on(None):
        made = convert(of_leaves, tree.leaves(spec), model_name="fnlamp", **names, **version)
    model: bytes = made.SerializeToString()
    return model


def _named(name: str, specs: Tree) -> list[str]:
    """The names of the leaves."""
    return [f"{name}/{path}" if path else name for path in tree.paths(specs)]


def _compare(trained: Trained | Kept, model: bytes, rows: int, runtime: Any) -> None:
    """Fails: `NotExportable`, if ONNX Runtime's predictions for random features are not the model's."""
    draw = np.random.default_rng(rows)

    def numbers(spec: Any) -> np.ndarray[Any, Any]:
        drawn = draw.normal(size=spec.shape) if is_float(spec) else draw.integers(0, 2, spec.shape)
        return np.asarray(drawn, spec.dtype)  # integers may be labels or tokens, which a model has at least two of

    x = tree.map(numbers, features_spec(trained.features, rows))
    try:
        session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
        found = session.run(None, dict(zip(_named("features", x), tree.leaves(x), strict=True)))
    except Exception as error:  # ONNX Runtime's own, of several types
        raise FaultError(NotExportable(f"one whose conversion ONNX Runtime cannot run ({str(error)[:200]})")) from error
    for path, expected, actual in zip(*zip(*tree.paths(trained.predict(x)).items(), strict=True), found, strict=True):
        wanted = np.asarray(expected, np.float64)
        least = CLOSE * (1 + np.abs(wanted[np.isfinite(wanted)]).max(initial=0))
        if wanted.shape != actual.shape or not np.allclose(actual, wanted, rtol=0, atol=least, equal_nan=True):
            what = f"the prediction {path}" if path else "the prediction"
            raise FaultError(NotExportable(f"one of which jax2onnx converts an operation wrongly: {what} differs"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Undo what the converter does to the caller's logging: it logs through the root, which adds a handler."""
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    noisy = logging.getLogger("onnx_ir")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        noisy.setLevel(level)
