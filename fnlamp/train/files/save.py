"""Write a trained model to a file: its arrays by name, and what they are of."""

from __future__ import annotations

from os import PathLike
from typing import Any

from fnlamp import checkpoint, tree
from fnlamp.checkpoint.replace import expanded, replaced
from fnlamp.effect import Effect
from fnlamp.fault import FileUnwritable, NotStorable
from fnlamp.given import shown
from fnlamp.train.arguments import check_start
from fnlamp.train.files.about import NPZ, about, as_text, model_path
from fnlamp.train.files.safetensors import write_safetensors
from fnlamp.train.state import Kept, Trained


def save_model(trained: Trained | Kept, path: str | PathLike[str]) -> Effect[None, FileUnwritable | NotStorable]:
    """The program that writes a trained model to a file, atomically: the arrays that predict, and a description.

    The suffix chooses the format: `.safetensors`, or `.npz` in the format of `fnlamp.checkpoint`, which `numpy.load` reads.
    Arrays are named as in the tree: `params/0/weight`, `state/1/mean`. The description has fnlamp's version, the layers, the
    loss, the epoch, a table, and the features' shapes and dtypes. Neither format holds code.
    Fails: `FileUnwritable`; `NotStorable` for a dtype that the format lacks.  Raises: `ValueError` for another suffix.

    >>> import pathlib, tempfile
    >>> from fnlamp import train
    >>> x = np.ones((4, 2), np.float32)
    >>> model = train.supervised(nn.linear(1), loss.mse())
    >>> training = train.epochs(
    ...     model=model,
    ...     optimizer=optim.sgdw(0.1),
    ...     train_batches=lambda context: stream.full_batch(x, x[:, :1]),
    ...     epochs=2,
    ... )
    >>> path = pathlib.Path(tempfile.mkdtemp(), "line.npz")
    >>> trained = training.tap(lambda trained: save_model(trained, path)).run_or_raise(Runtime(log=None))
    >>> np.array_equal(train.load_model(path, model).run_or_raise().predict(x), trained.predict(x))
    True
    """
    name = expanded(model_path(path))
    check_trained("save_model", trained)
    arrays = {"params": trained.params, "state": trained.layer_state}
    if len(tree.paths(arrays)) < len(tree.leaves(arrays)):
        raise ValueError("save_model: two arrays have the same path; give one of the layers a name without /")

    def write() -> None:
        replaced(name, lambda file: write_safetensors(file, arrays, as_text(about(trained))))

    if name.endswith(NPZ):
        program = Effect.checked(lambda: about(trained)).bind(lambda note: checkpoint.write(name, arrays, note=note))
        return program.map(lambda saved: None).named(f"save_model {name}")
    return Effect.checked(write).named(f"save_model {name}")


def check_trained(name: str, trained: Any) -> None:
    """Raises: `TypeError` for anything but a trained model."""
    check_start(f"{name}: trained", trained)
    if not isinstance(trained, Trained | Kept):
        hint = f"write training.bind(lambda trained: train.{name}(trained, ...))"
        raise TypeError(f"{name}: trained is what epochs gave, got {shown(trained)}; {hint}")
