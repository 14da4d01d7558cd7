"""Parameter surgery: pure functions that freeze, split, replace, rename, count, cast, adapt and fold parameters."""

from fnlamp.surgery.adapt import freeze as freeze
from fnlamp.surgery.adapt import lora as lora
from fnlamp.surgery.adapt import merge_lora as merge_lora
from fnlamp.surgery.fold import fold_batch_norm as fold_batch_norm
from fnlamp.surgery.paths import put as put
from fnlamp.surgery.paths import rename as rename
from fnlamp.surgery.tagged import cast as cast
from fnlamp.surgery.tagged import count as count
from fnlamp.surgery.tagged import join as join
from fnlamp.surgery.tagged import split as split
