"""How much each setting matters to a metric, by Optuna, which the extra `sweep` installs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fnlamp.extra import installed, need

FEWEST = 4
"""Runs below which nothing can be said."""


def importance(points: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """The share of the metric's variance that each setting explains, largest first; they add up to 1.

    By functional ANOVA over a random forest; settings that do not differ, and runs whose metric is not finite, are left out.
    Hutter, Hoos & Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance", equation 6.
    Fails: `ExtraMissing` without the extra `sweep`.
    """
    optuna = need("optuna", "sweep")
    installed("sklearn", "sweep")
    paths = dict.fromkeys(path for point in points for path in point)
    columns = {path: [point.get(path) for point in points] for path in paths}
    kinds = {path: _distribution(optuna, column) for path, column in columns.items() if len({*map(repr, column)}) > 1}
    rows = [n for n, value in enumerate(values) if math.isfinite(value)]
    if len(rows) < FEWEST or not kinds or len({values[n] for n in rows}) == 1:
        return {}
    study, said = None, optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study()
            for n in rows:
                params = {path: _stored(kind, columns[path][n]) for path, kind in kinds.items()}
                study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=float(values[n])))
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(said)
    return {str(path): float(share) for path, share in found.items()}


def _distribution(optuna: Any, column: Sequence[Any]) -> Any:
    """What Optuna calls the range of a setting."""
    if all(type(value) in (int, float) and math.isfinite(value) for value in column):
        low, high = float(min(column)), float(max(column))
        return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low >= 100)
    return optuna.distributions.CategoricalDistribution(sorted({*map(repr, column)}))


def _stored(kind: Any, value: Any) -> Any:
    return float(value) if hasattr(kind, "low") else repr(value)
