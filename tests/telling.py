"""Shared by test files of tracking: programs that tell events, and a value of each kind."""

import math
from typing import Any

from fnlamp import track
from fnlamp.effect import Effect


def tracked(folder: Any, *events: track.Event, writers: tuple[track.Output, ...] = ()) -> Effect[track.Tracked[Any], Any]:
    """A program that tells the events, with a writer of lines and these."""
    told = Effect.asks(lambda runtime: [runtime.tell(event) for event in events] and None)
    return track.tracked(told, track.lines(folder), *writers)


VALUES = {
    "histogram": track.Histogram([0.0, 1.0, math.inf], [3, 4], 5),
    "indexed": track.Indexed([7, 2], [0.5, math.nan]),
    "text": track.Text('a\n"quoted" é'),
    "rows": track.Rows(("a", "b"), ((1, "nan"), (math.nan, None), (True, 2.5))),
    "alert": track.Alert("the loss is not a number", "error"),
}
