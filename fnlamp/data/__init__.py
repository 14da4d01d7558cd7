"""Files in: programs that read arrays and tables, or fail with a typed fault. Loading never executes code."""

from fnlamp.data.csv import Table as Table
from fnlamp.data.csv import read_csv as read_csv
from fnlamp.data.dataset import Arrays as Arrays
from fnlamp.data.dataset import Dataset as Dataset
from fnlamp.data.dataset import Subset as Subset
from fnlamp.data.dataset import Transformed as Transformed
from fnlamp.data.dataset import from_arrays as from_arrays
from fnlamp.data.dataset import random_split as random_split
from fnlamp.data.dataset import subset as subset
from fnlamp.data.dataset import with_transform as with_transform
from fnlamp.data.idx import read_idx as read_idx
from fnlamp.data.transform import at as at
from fnlamp.data.transform import compose as compose
from fnlamp.data.transform import normalize as normalize
from fnlamp.data.transform import to_float as to_float
