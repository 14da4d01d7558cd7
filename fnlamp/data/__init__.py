"""Files in: programs that read arrays and tables, or fail with a typed fault. Loading never executes code."""

from fnlamp.data.csv import Table as Table
from fnlamp.data.csv import read_csv as read_csv
from fnlamp.data.idx import read_idx as read_idx
