"""One HTML file about a run or several: tables, curves and pictures, without a server or a request."""

from fnlamp.experiment.report.run import ReportRun as ReportRun
from fnlamp.experiment.report.write import report as report
