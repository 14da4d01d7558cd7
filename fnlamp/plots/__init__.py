"""Plots of images, of schedules, of the search for a learning rate, and of runs."""

from fnlamp.plots.curves import bands as bands
from fnlamp.plots.curves import compare as compare
from fnlamp.plots.draw import PlotFault as PlotFault
from fnlamp.plots.images import show_images as show_images
from fnlamp.plots.rates import rate_range as rate_range
from fnlamp.plots.rates import schedule as schedule
from fnlamp.plots.table import parallel_coordinates as parallel_coordinates
from fnlamp.plots.table import scatter as scatter
