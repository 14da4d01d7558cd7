"""Conversion of data of any form to arrays with rows by position; anything else is refused by the name of its type."""

from fnlamp.convert.array import as_array as as_array
from fnlamp.convert.array import as_arrays as as_arrays
from fnlamp.convert.array import as_batch as as_batch
from fnlamp.convert.array import is_ready as is_ready
from fnlamp.convert.array import rows_by_position as rows_by_position
from fnlamp.convert.foreign import is_arraylike as is_arraylike
