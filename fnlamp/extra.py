"""Optional packages: imported where they are used, with a fault that says what to install."""

from __future__ import annotations

import importlib
from typing import Any, Final

from fnlamp.fault import ExtraMissing, FaultError


def need(module: str, extra: str) -> Any:
    """The module, of a package that comes with an extra of fnlamp.  Fails: `ExtraMissing`.

    >>> need("json", "tables").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, and something that it needs itself is not
        raise FaultError(ExtraMissing(_DISTRIBUTIONS.get(package, package), extra)) from error


_DISTRIBUTIONS: Final = {"PIL": "pillow", "sklearn": "scikit-learn"}
"""What those packages are called to whom installs them, where it is not what they are called to import."""
