"""Interpreters of a fold over a stream, one a file: the same carry comes out of each."""

from fnlamp.train.execute.body import Body as Body
from fnlamp.train.execute.fused import Fused as Fused
from fnlamp.train.execute.sharded import Sharded as Sharded
from fnlamp.train.execute.stepwise import Stepwise as Stepwise
