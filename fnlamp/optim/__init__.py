"""Update rules, each written by hand for one array and lifted to trees."""

from fnlamp.optim.adamw import adamw as adamw
from fnlamp.optim.clip import clip_by_global_norm as clip_by_global_norm
from fnlamp.optim.optimizer import Decay as Decay
from fnlamp.optim.optimizer import Optimizer as Optimizer
from fnlamp.optim.optimizer import lift as lift
from fnlamp.optim.schedule import Schedule as Schedule
from fnlamp.optim.schedule import by_epoch as by_epoch
from fnlamp.optim.schedule import constant as constant
from fnlamp.optim.schedule import cosine as cosine
from fnlamp.optim.schedule import cosine_ramp as cosine_ramp
from fnlamp.optim.schedule import cyclic as cyclic
from fnlamp.optim.schedule import exponential as exponential
from fnlamp.optim.schedule import linear_ramp as linear_ramp
from fnlamp.optim.schedule import one_cycle as one_cycle
from fnlamp.optim.schedule import polynomial as polynomial
from fnlamp.optim.schedule import power_cooldown as power_cooldown
from fnlamp.optim.schedule import step_decay as step_decay
from fnlamp.optim.schedule import then as then
from fnlamp.optim.schedule import times as times
from fnlamp.optim.schedule import warmup as warmup
from fnlamp.optim.schedule import warmup_stable_decay as warmup_stable_decay
from fnlamp.optim.scheduled import scheduled as scheduled
from fnlamp.optim.sgdw import sgdw as sgdw
from fnlamp.tag import Hyper as Hyper
