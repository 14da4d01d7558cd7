"""Data in whatever form it is given, made arrays whose rows are taken by position; or refused by the name of its type."""

from fnlamp.convert.array import as_array as as_array
from fnlamp.convert.array import as_arrays as as_arrays
from fnlamp.convert.array import as_batch as as_batch
from fnlamp.convert.array import is_ready as is_ready
from fnlamp.convert.array import rows_by_position as rows_by_position
from fnlamp.convert.foreign import is_arraylike as is_arraylike
