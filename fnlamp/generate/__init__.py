"""Generation: texts that a language model continues, with a cache, as programs."""

from fnlamp.generate.beam import Beam as Beam
from fnlamp.generate.beam import beam as beam
from fnlamp.generate.generate import GenerateFault as GenerateFault
from fnlamp.generate.generate import generate as generate
from fnlamp.generate.result import Generated as Generated
from fnlamp.generate.result import Piece as Piece
from fnlamp.generate.result import Reason as Reason
from fnlamp.generate.rules import Past as Past
from fnlamp.generate.rules import Rule as Rule
from fnlamp.generate.rules import Sampling as Sampling
from fnlamp.generate.rules import below as below
from fnlamp.generate.rules import greedy as greedy
from fnlamp.generate.rules import min_p as min_p
from fnlamp.generate.rules import repetition_penalty as repetition_penalty
from fnlamp.generate.rules import sampled as sampled
from fnlamp.generate.rules import temperature as temperature
from fnlamp.generate.rules import top_k as top_k
from fnlamp.generate.rules import top_p as top_p
