"""The weights of a torch module in fnlamp, and back: both networks have the same outputs.

python examples/weights.py                    a torch module with random weights; torch has to be installed
python examples/weights.py --data FILE        a state dict of that module, of torch.save or safetensors; torch may be missing
python examples/weights.py --out FOLDER       keeps the files

The exit status is 1 if an output differs by more than 1e-5, or if the weights that are written back are not the same bits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

from fnlamp import Eval, data, nn
from fnlamp.arrays import array_spec
from fnlamp.effect import Effect, do
from fnlamp.layer import abstract_init
from fnlamp.models import weights

LAYER = nn.sequence(
    nn.conv2d(8, 3, padding=1),
    nn.batch_norm(),
    nn.relu,
    nn.max_pool2d(2),
    nn.conv2d(16, 3, padding=1),
    nn.relu,
    nn.flatten,
    nn.linear(10),
)
SPEC = array_spec((64, 8, 8, 3), np.float32)
Array = np.ndarray[Any, Any]


def module() -> Any:
    """The same network in torch, whose children have the same numbers; some steps have moved its running moments."""
    import torch

    torch.manual_seed(0)
    made = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 4 * 4, 10),
    )
    for _ in range(5):
        made(1 + 2 * torch.randn(32, 3, 8, 8))
    return made.eval()


def outputs(made: Any, x: Array) -> Array:
    """Those of the torch module; torch has the channels before height and width."""
    import torch

    with torch.no_grad():
        found: Array = made(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    return found


def saved(folder: Path) -> Path:
    """The file of the torch module's state dict."""
    import torch

    torch.save(module().state_dict(), folder / "module.pt")
    return folder / "module.pt"


def compared(arrays: dict[str, Array], written: dict[str, Array], ours: Array, x: Array) -> float:
    """The largest difference of outputs; a module that takes what was written has the same bits as one that takes the file."""
    import torch

    made, back = module(), module()
    for each, state in ((made, arrays), (back, written)):
        each.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=True)
    theirs = outputs(made, x)
    if not np.array_equal(theirs, outputs(back, x)):
        raise AssertionError("torch has other outputs with the weights that were written back")
    return float(np.abs(ours - theirs).max())


@do
def moved(path: Path, folder: Path, with_torch: bool) -> Generator[Effect[Any, Any], Any, bool]:
    """Read a file, compute with its weights, write them to another file, and compare; whether all is the same."""
    reader = data.read_safetensors if path.suffix == ".safetensors" else data.read_torch
    arrays = {name: np.asarray(array) for name, array in (yield from reader(path)).items()}
    names, like = weights.of_layer(LAYER, SPEC), abstract_init(LAYER, SPEC)
    params, state = yield from Effect.checked(lambda: names.read(arrays, like))
    x = np.random.default_rng(0).standard_normal(SPEC.shape).astype(np.float32)
    ours, _ = LAYER.apply(params, state, x, Eval())
    print(f"{path}: {len(arrays)} arrays; outputs {ours.shape}, from {float(ours.min()):.4f} to {float(ours.max()):.4f}")

    from safetensors.numpy import save_file

    back = folder / "back.safetensors"
    save_file(names.write(params, state), back)
    written = yield from data.read_safetensors(back)
    counter = "1.num_batches_tracked"  # fnlamp has none, and writes 0
    same = all(np.array_equal(arrays[name], written[name]) for name in arrays if name != counter)
    print(f"{back}: {'the same bits' if same else 'other bits'}")
    if not with_torch:
        return same
    difference = compared(arrays, written, np.asarray(ours), x)
    print(f"largest difference between the outputs of torch and of fnlamp: {difference:.1e}")
    return same and difference < 1e-5


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="a state dict of the module")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    chosen = parser.parse_args(arguments)
    missing = [name for name in ("safetensors", *(() if chosen.data else ("torch",))) if find_spec(name) is None]
    if missing:
        instead = "; without torch, --data FILE reads a state dict of the module" if "torch" in missing else ""
        sys.exit(f"not installed: {', '.join(missing)} (pip install {' '.join(missing)}){instead}")
    folder = chosen.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    path = chosen.data or saved(folder)
    match moved(path, folder, with_torch=find_spec("torch") is not None).run():
        case IOSuccess(Success(same)):
            return 0 if same else 1
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    raise SystemExit(main())
