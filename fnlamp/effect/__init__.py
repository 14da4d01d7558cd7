"""Programs as values: built lazily, composed with typed errors, run at the edge."""

from fnlamp.effect.do import Do as Do
from fnlamp.effect.do import collect as collect
from fnlamp.effect.do import do as do
from fnlamp.effect.do import iterate as iterate
from fnlamp.effect.effect import Effect as Effect
from fnlamp.effect.effect import ask as ask
from fnlamp.effect.effect import sleep as sleep
from fnlamp.effect.explain import UNKNOWN as UNKNOWN
from fnlamp.effect.explain import Explanation as Explanation
from fnlamp.effect.explain import Outline as Outline
from fnlamp.effect.explain import Standing as Standing
from fnlamp.effect.explain import Unknown as Unknown
from fnlamp.effect.failed import FailureError as FailureError
from fnlamp.effect.node import Defect as Defect
from fnlamp.effect.node import Exit as Exit
from fnlamp.effect.resource import Resource as Resource
from fnlamp.effect.resource import bracket as bracket
from fnlamp.effect.runtime import CancelToken as CancelToken
from fnlamp.effect.runtime import Clock as Clock
from fnlamp.effect.runtime import Executor as Executor
from fnlamp.effect.runtime import Reached as Reached
from fnlamp.effect.runtime import Runtime as Runtime
from fnlamp.effect.runtime import StepRow as StepRow
from fnlamp.effect.runtime import SystemClock as SystemClock
from fnlamp.fault import Interrupted as Interrupted
