"""A trained model as a program of tensor operations (StableHLO), in a file that needs no code of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Final

import jax
from jax import export as jax_export

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, describe, exporting, placed_on, spec_of
from fnlamp.checkpoint.replace import expanded, replaced
from fnlamp.effect import Effect
from fnlamp.fault import ExtraMissing, FaultError, FileUnwritable, NotExportable
from fnlamp.given import flag, several, whole
from fnlamp.mode import Eval
from fnlamp.train.files.exported import Exported, serialized
from fnlamp.train.files.save import check_trained
from fnlamp.train.state import Kept, Trained

PLATFORMS: Final = ("cpu", "cuda", "rocm", "tpu")


def export(
    trained: Trained | Kept,
    path: str | PathLike[str] | None = None,
    *,
    batch_size: int | None = None,
    with_parameters: bool = True,
    platforms: Sequence[str] | None = None,
) -> Effect[Exported, FileUnwritable | NotExportable | ExtraMissing]:
    """The program that exports a trained model: its prediction in `Eval` as StableHLO, written to `path`, if one is given.

    `load_exported` predicts from the file without the model's code, and so does `jax.export.deserialize`. The number of rows is
    symbolic, so that one program serves any, unless `batch_size` fixes it. Parameters are constants in the program; without
    them (`with_parameters=False`) they are its first argument, a dict by their names in a model file. `platforms` are of "cpu",
    "cuda", "rocm" and "tpu"; `None` is this machine's. A file needs the extra `export`. Layers are exported in operations that
    XLA has on every platform, so predictions equal those of `trained.predict` up to rounding.
    Fails: `NotExportable`, such as for a layer that needs the number of rows; `FileUnwritable`, `ExtraMissing`.

    >>> from fnlamp import train
    >>> x = np.ones((4, 2), np.float32)
    >>> training = train.epochs(
    ...     model=train.supervised(nn.linear(1), loss.mse()),
    ...     optimizer=optim.sgdw(0.1),
    ...     train_batches=lambda context: stream.full_batch(x, x[:, :1]),
    ...     epochs=2,
    ... )
    >>> exported = training.bind(export).run_or_raise(Runtime(log=None))
    >>> exported
    <Exported: float32[batch, 2] -> float32[batch, 1], for cpu>
    >>> exported.predict(x[:3]).shape
    (3, 1)
    """
    name = None if path is None else expanded(path)
    check_trained("export", trained)
    check_features("export", trained)
    rows = None if batch_size is None else whole("batch_size", batch_size)
    inside = flag("with_parameters", with_parameters)
    targets = None if platforms is None else several("platforms", platforms)
    if targets is not None and (not targets or set(targets) - set(PLATFORMS)):
        raise ValueError(f"platforms are some of {', '.join(PLATFORMS)}, got {targets}")

    def work() -> Exported:
        exported = exported_program(trained, rows, inside, targets)
        if name is not None:
            content = serialized(exported)
            replaced(name, lambda file: file.write(content))
        return exported

    return Effect.checked(work).named("export" if name is None else f"export {name}")


def check_features(name: str, trained: Trained | Kept) -> None:
    """Raises: `ValueError` for a model that does not know its features."""
    if trained.features is None:
        raise ValueError(f"{name}: trained.features is the spec of the model's features, got None")


def exported_program(trained: Trained | Kept, rows: int | None, inside: bool, platforms: tuple[str, ...] | None) -> Exported:
    """The program of a model.  Fails: `NotExportable`."""
    weights = {"params": trained.params, "state": trained.layer_state}
    by_name, structure = tree.paths(weights), jax.tree.structure(weights)

    def of_parameters(named: dict[str, Any], x: Tree) -> Tree:
        given: Any = jax.tree.unflatten(structure, [named[path] for path in by_name])
        return trained.model.forward(given["params"], given["state"], x, Eval())[0]

    def build(rows: int | None) -> Any:
        spec = features_spec(trained.features, rows)
        with exporting(), placed_on(None):
            if inside:
                program: Any = jax.jit(lambda x: of_parameters(by_name, x))
                return jax_export.export(program, platforms=platforms)(spec)
            return jax_export.export(jax.jit(of_parameters), platforms=platforms)(spec_of(by_name), spec)

    check_plain("features", trained.features)
    program = built(build, rows)
    check_plain("a prediction", jax.tree.unflatten(program.out_tree, program.out_avals))
    return Exported(program, None if inside else by_name)


def built(build: Callable[[int | None], Any], rows: int | None) -> Any:
    """What `build` makes for that number of rows, `None` for any.  Fails: `NotExportable`."""
    try:
        return build(rows)
    except FaultError:
        raise
    except Exception as error:  # whatever stops a model that predicts from being exported: any layer can do so in any way
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if rows is None and _succeeds(lambda: build(2)):
            hint = "export it for a fixed number of rows: batch_size="
            raise FaultError(NotExportable(f"one that depends on the number of rows ({reason})", hint)) from error
        raise FaultError(NotExportable(reason)) from error


def _succeeds(build: Callable[[], Any]) -> bool:
    try:
        build()
    except Exception:  # as above
        return False
    return True


def features_spec(features: Tree, rows: int | None) -> Tree:
    """The spec of features with that number of rows, or with a symbolic one."""
    batch: Any = jax_export.symbolic_shape("batch")[0] if rows is None else rows
    return tree.map(lambda leaf: array_spec((batch, *leaf.shape[1:]) if leaf.shape else (), leaf.dtype), features)


def check_plain(what: str, made: Tree) -> None:
    """Fails: `NotExportable` for a tree of anything but dicts, tuples and lists, which no file could name."""
    if type(made) is dict:
        made = tuple(made.values())
    if type(made) in (tuple, list):
        for each in made:
            check_plain(what, each)
    elif made is not None and not hasattr(made, "shape"):
        hint = "return dicts, tuples and lists of arrays"
        raise FaultError(NotExportable(f"{what} in a {type(made).__name__}: {describe(made)}", hint))
