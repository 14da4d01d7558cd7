"""Checkpoints: any tree of arrays and plain values in one file; it knows nothing of training."""

from fnlamp.checkpoint.file import Loaded as Loaded
from fnlamp.checkpoint.file import Saved as Saved
from fnlamp.checkpoint.file import read as read
from fnlamp.checkpoint.file import write as write
from fnlamp.checkpoint.folder import latest as latest
from fnlamp.checkpoint.folder import save as save
from fnlamp.checkpoint.folder import saves as saves
from fnlamp.checkpoint.keep import Keep as Keep
from fnlamp.checkpoint.keep import keep_all as keep_all
from fnlamp.checkpoint.keep import keep_any as keep_any
from fnlamp.checkpoint.keep import keep_best as keep_best
from fnlamp.checkpoint.keep import keep_every as keep_every
from fnlamp.checkpoint.keep import keep_last as keep_last
from fnlamp.checkpoint.partial import Partial as Partial
from fnlamp.checkpoint.partial import partial as partial
from fnlamp.checkpoint.record import Record as Record
from fnlamp.checkpoint.record import rebuilt as rebuilt
from fnlamp.checkpoint.records import append as append
from fnlamp.checkpoint.unread import Unread as Unread
from fnlamp.checkpoint.writer import Writer as Writer
from fnlamp.checkpoint.writer import writer as writer
