"""Experiments: programs whose runs are recorded in folders, and what their folders say afterwards."""

from fnlamp.experiment.experiment import ExperimentFault as ExperimentFault
from fnlamp.experiment.experiment import Run as Run
from fnlamp.experiment.experiment import experiment as experiment
from fnlamp.experiment.folder import RunRecord as RunRecord
from fnlamp.experiment.place import Place as Place
from fnlamp.experiment.report import ReportRun as ReportRun
from fnlamp.experiment.report import report as report
from fnlamp.experiment.runs import Runs as Runs
from fnlamp.experiment.runs import RunsFault as RunsFault
from fnlamp.experiment.runs import runs as runs
