"""A model as a compiled program of tensor operations, which predicts without the model's code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, Final

import jax
from jax import export as jax_export

from fnlamp import tree
from fnlamp.arrays import Array, Tree, array_spec, describe, placed_on, to_device
from fnlamp.checkpoint import partial
from fnlamp.checkpoint.replace import expanded
from fnlamp.convert import as_arrays
from fnlamp.data.readers.file import decoding, read_all, reading
from fnlamp.effect import Effect, Outline, Runtime, Unknown
from fnlamp.elsewhere import TRAINED, Elsewhere
from fnlamp.extra import need
from fnlamp.fault import (
    DtypeMismatch,
    ExtraMissing,
    FaultError,
    FileCorrupt,
    FileFault,
    FileTooNew,
    ShapeMismatch,
    StateMismatch,
    WrongPlatform,
)
from fnlamp.train.arguments import device_of
from fnlamp.train.files.about import model_path
from fnlamp.train.files.load import contents_of

MARK: Final = b"\nfnlamp export 1 "
"""What follows the program in a file, before its SHA-256; readers of the format do not look behind the program."""

_PYTHON: Final = re.compile(rb"python_\w*callback")
"""The operations with which a program would call Python."""


@dataclass(frozen=True, eq=False)
class Exported(Elsewhere):
    """An exported model: `predict(x)`, and the `program`, a `jax.export.Exported` of `(features)` or `(parameters, features)`.

    `parameters` are those of a program without its own, by name. `chosen` is the device that predicts, or `None` for JAX's.
    """

    program: Any
    parameters: Mapping[str, Array] | None = None
    chosen: Any = None
    _elsewhere = TRAINED

    @property
    def features(self) -> Tree:
        """The spec of the features, batch axis first; a `batch` of any size is a symbolic dimension."""
        return _specs(self.program)[-1]

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that the program can be compiled for, such as `("cpu", "cuda")`."""
        return tuple(self.program.platforms)

    @cached_property
    def device(self) -> Any:
        """The device that predicts: the chosen one, or the first of the program's platforms.  Fails: `WrongPlatform`."""
        default = jax.config.jax_default_device  # type: ignore[attr-defined]
        usual = self.chosen or device_of(default) or jax.devices()[0]
        if _platform(usual) in self.platforms:
            return usual
        for platform in self.platforms:
            try:
                return jax.devices(platform)[0]
            except RuntimeError:  # this machine has none
                continue
        raise FaultError(WrongPlatform(self.platforms, (_platform(usual),)))

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.program.call)

    def predict(self, x: Any) -> Any:
        """The prediction for features `x`, all rows at once.

        A program of any batch size is compiled at the first call with each number of rows.
        Raises: `FaultError` for features of another shape or dtype than the program takes, and for a `WrongPlatform`.
        """
        features = as_arrays(x, "predict")
        with placed_on(self.device):
            given = tree.map(lambda leaf: to_device(leaf, self.device), features)
            _check(self.features, given)
            return self._compiled(given) if self.parameters is None else self._compiled(self.parameters, given)

    def __repr__(self) -> str:
        made = describe(jax.tree.unflatten(self.program.out_tree, self.program.out_avals))
        return f"<Exported: {describe(self.features)} -> {made}, for {' and '.join(self.platforms)}>"


def load_exported(
    path: str | PathLike[str], *, parameters: str | PathLike[str] | None = None
) -> Effect[Exported, FileFault | FileTooNew | StateMismatch | WrongPlatform | ExtraMissing]:
    """The program that reads what `export` wrote: an `Exported`, which predicts without the model's code.

    `parameters` is a file of `save_model` for a program that was exported without its parameters. `predict` runs on the
    runtime's device, if the program is for its platform. Needs the extra `export`.
    The file is a program of tensor operations, which XLA compiles in this process: load only those that you trust. No Python
    code is in it, and one that would call Python is refused.
    Fails: `FileMissing`, `FileCorrupt`, `ExtraMissing`; `WrongPlatform`; `StateMismatch` for parameters that do not fit.
    Raises: `ValueError` for parameters of a program that has its own.

    >>> load_exported("missing.stablehlo").run(Runtime(log=None))
    <IOResult: <Failure: missing.stablehlo: cannot be read (No such file or directory)>>
    """
    name = expanded(path)
    beside = None if parameters is None else expanded(model_path(parameters, "parameters"))

    def placed(made: Exported) -> Effect[Exported, Any]:
        def place(runtime: Runtime) -> Exported:
            found = Exported(made.program, made.parameters, device_of(runtime.device))
            weights = found.parameters
            with placed_on(found.device):
                moved = None if weights is None else {path: to_device(x, found.device) for path, x in weights.items()}
            return Exported(made.program, moved, found.device)

        return Effect.access(lambda runtime: Effect.checked(lambda: place(runtime)))

    def with_parameters(program: Any) -> Effect[Exported, Any]:
        if beside is None:
            return Effect.checked(lambda: Exported(program, _fitted(program, {}, name) if _takes_parameters(program) else None))
        if not _takes_parameters(program):
            raise ValueError(f"load_exported: {name} has its own parameters; leave parameters= out")
        return contents_of(beside).bind(
            lambda contents: Effect.checked(lambda: Exported(program, _fitted(program, contents[0], beside)))
        )

    def outline() -> Outline:
        return Outline((f"load the program {name}",), Unknown("the contents of the file are unknown until it is read"))

    found = reading(name, lambda: _program(name)).bind(with_parameters).bind(placed)
    return found.named(f"load_exported {name}").outlined(outline)


def serialized(exported: Exported) -> bytes:
    """The bytes of a file: the program as `jax.export` serializes it, and a checksum.  Fails: `ExtraMissing`."""
    need("flatbuffers", "export")
    raw = bytes(exported.program.serialize())
    return raw + MARK + hashlib.sha256(raw).hexdigest().encode()


def _program(path: str) -> Any:
    """The program in a file.  Fails: `FileMissing`, `FileCorrupt`, `ExtraMissing`."""
    need("flatbuffers", "export")
    content = read_all(path)
    raw, mark, digest = content[: -64 - len(MARK)], content[-64 - len(MARK) : -64], content[-64:]
    if mark != MARK:
        raise FaultError(FileCorrupt(path, "a whole file of train.export", f"{len(content):,} bytes without its end"))
    if (actual := hashlib.sha256(raw).hexdigest()) != digest.decode("ascii", "replace"):
        raise FaultError(
            FileCorrupt(path, f"bytes of the SHA-256 {digest[:16].decode('ascii', 'replace')}...", actual[:16] + "...")
        )
    with decoding(path, "a program that this version of JAX can read"):
        program = jax_export.deserialize(bytearray(raw))
        several = len(_specs(program))
    if several not in (1, 2):
        raise FaultError(FileCorrupt(path, "a program of features, or of parameters and features", f"{several} arguments"))
    if _PYTHON.search(program.mlir_module_serialized):
        raise FaultError(FileCorrupt(path, "a program of tensor operations", "one that calls Python"))
    return program


def _specs(program: Any) -> tuple[Tree, ...]:
    """The specs of the program's arguments."""
    arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    specs: tuple[Tree, ...] = tree.map(lambda aval: array_spec(aval.shape, aval.dtype), arguments)
    return specs


def _takes_parameters(program: Any) -> bool:
    return len(_specs(program)) == 2


def _fitted(program: Any, arrays: Tree, path: str) -> dict[str, Any]:
    """The parameters that the program takes, by name.  Fails: `StateMismatch`."""
    found = partial(_specs(program)[0], tree.paths(arrays))
    left = found.missing, found.extra, found.differing
    if any(left):
        hint = "" if tree.leaves(arrays) else "the program was exported without parameters; give parameters=, a model file"
        raise FaultError(StateMismatch(*left, hint=hint, where=path))
    weights: dict[str, Any] = found.tree
    return weights


def _check(wanted: Tree, given: Tree) -> None:
    """Fails: `ShapeMismatch`, `DtypeMismatch`."""
    specs, arrays = tree.leaves(wanted), tree.leaves(given)
    same = jax.tree.structure(wanted) == jax.tree.structure(given)  # type: ignore[operator]
    rows = {array.shape[:1] for spec, array in zip(specs, arrays, strict=False) if spec.shape}
    if not same or len(rows) > 1 or not all(_fits(*pair) for pair in zip(specs, arrays, strict=True)):
        raise FaultError(ShapeMismatch(describe(wanted), describe(given), where="predict"))
    if any(spec.dtype != array.dtype for spec, array in zip(specs, arrays, strict=True)):
        raise FaultError(DtypeMismatch(describe(wanted), describe(given), "convert the features", where="predict"))


def _fits(spec: Any, array: Array) -> bool:
    if len(spec.shape) != len(array.shape):
        return False
    sizes = zip(spec.shape, array.shape, strict=True)
    return all(n > 0 if jax_export.is_symbolic_dim(size) else n == size for size, n in sizes)


def _platform(device: Any) -> str:
    """The platform of a device by the name that `jax.export` uses."""
    if device.platform != "gpu":
        return str(device.platform)
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"
