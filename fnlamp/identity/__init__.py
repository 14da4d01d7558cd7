"""The identity of a function, as a value that can be compared."""

from fnlamp.identity.differences import MISSING as MISSING
from fnlamp.identity.differences import Pair as Pair
from fnlamp.identity.differences import differences as differences
from fnlamp.identity.digest import digest as digest
from fnlamp.identity.numbers import Same as Same
from fnlamp.identity.walk import draws as draws
from fnlamp.identity.walk import identity as identity
