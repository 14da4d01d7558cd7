"""Update rules, each written by hand for one array and lifted to trees."""

from fnlamp.optim.adamw import adamw as adamw
from fnlamp.optim.clip import clip_by_global_norm as clip_by_global_norm
from fnlamp.optim.optimizer import Decay as Decay
from fnlamp.optim.optimizer import Optimizer as Optimizer
from fnlamp.optim.optimizer import lift as lift
from fnlamp.optim.schedule import Schedule as Schedule
from fnlamp.optim.schedule import constant as constant
from fnlamp.optim.schedule import cosine as cosine
from fnlamp.optim.schedule import linear as linear
from fnlamp.optim.schedule import warmup as warmup
from fnlamp.optim.scheduled import scheduled as scheduled
from fnlamp.optim.sgdw import sgdw as sgdw
from fnlamp.tag import Hyper as Hyper
