"""Sweeps: one program over a space of configs, whose lanes are runs."""

from fnlamp.sweep.axis import Axis as Axis
from fnlamp.sweep.axis import choice as choice
from fnlamp.sweep.axis import integers as integers
from fnlamp.sweep.axis import log_uniform as log_uniform
from fnlamp.sweep.axis import uniform as uniform
from fnlamp.sweep.result import Best as Best
from fnlamp.sweep.result import Lane as Lane
from fnlamp.sweep.result import Sweep as Sweep
from fnlamp.sweep.rungs import Rungs as Rungs
from fnlamp.sweep.rungs import halving as halving
from fnlamp.sweep.rungs import median_stopping as median_stopping
from fnlamp.sweep.space import Space as Space
from fnlamp.sweep.space import grid as grid
from fnlamp.sweep.space import halton as halton
from fnlamp.sweep.space import listed as listed
from fnlamp.sweep.space import sample as sample
from fnlamp.sweep.space import sobol as sobol
from fnlamp.sweep.study import Study as Study
from fnlamp.sweep.study import optuna as optuna
from fnlamp.sweep.sweep import SweepFault as SweepFault
from fnlamp.sweep.sweep import sweep as sweep
