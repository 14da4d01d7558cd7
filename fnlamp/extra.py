"""Optional features are extras: packages imported on use, with a fault that says what to install."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Final

from fnlamp.fault import ExtraMissing, FaultError


def need(module: str, extra: str) -> Any:
    """Import a module of a package in an extra of fnlamp.  Fails: `ExtraMissing`.

    >>> need("json", "tables").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is installed, but one of its own dependencies is missing
        raise FaultError(ExtraMissing(_DISTRIBUTIONS.get(package, package), extra)) from error


def installed(package: str, extra: str) -> None:
    """Check that a package of an extra is there, without importing it, which may take seconds.  Fails: `ExtraMissing`."""
    if importlib.util.find_spec(package) is None:
        raise FaultError(ExtraMissing(_DISTRIBUTIONS.get(package, package), extra))


_DISTRIBUTIONS: Final = {"PIL": "pillow", "orbax": "orbax-checkpoint", "sklearn": "scikit-learn"}
"""The names to install of packages that are imported by another name."""
