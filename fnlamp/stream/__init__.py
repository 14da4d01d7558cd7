"""Streams of batches: descriptions with an explicit position, which can be resumed at any batch."""

from fnlamp.stream.part import Part as Part
from fnlamp.stream.part import Parts as Parts
from fnlamp.stream.sink import fold as fold
from fnlamp.stream.sink import items as items
from fnlamp.stream.sink import to_list as to_list
from fnlamp.stream.source import from_arrays as from_arrays
from fnlamp.stream.source import from_function as from_function
from fnlamp.stream.source import from_items as from_items
from fnlamp.stream.source import from_iterable as from_iterable
from fnlamp.stream.source import from_iterator as from_iterator
from fnlamp.stream.source import full_batch as full_batch
from fnlamp.stream.source import minibatches as minibatches
from fnlamp.stream.source import staged as staged
from fnlamp.stream.step import Emit as Emit
from fnlamp.stream.step import End as End
from fnlamp.stream.step import Fail as Fail
from fnlamp.stream.step import Reread as Reread
from fnlamp.stream.step import Skip as Skip
from fnlamp.stream.step import Step as Step
from fnlamp.stream.stream import BatchStream as BatchStream
from fnlamp.stream.view import Order as Order
from fnlamp.stream.view import Recipe as Recipe
from fnlamp.stream.view import Segment as Segment
from fnlamp.stream.view import View as View
