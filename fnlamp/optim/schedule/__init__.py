"""Learning-rate schedules: pure functions from the step (0, 1, ...) to a factor of the learning rate."""

from fnlamp.optim.schedule.base import Schedule as Schedule
from fnlamp.optim.schedule.base import checked as checked
from fnlamp.optim.schedule.compose import by_epoch as by_epoch
from fnlamp.optim.schedule.compose import then as then
from fnlamp.optim.schedule.compose import times as times
from fnlamp.optim.schedule.compose import warmup as warmup
from fnlamp.optim.schedule.compose import warmup_stable_decay as warmup_stable_decay
from fnlamp.optim.schedule.cycle import cyclic as cyclic
from fnlamp.optim.schedule.cycle import one_cycle as one_cycle
from fnlamp.optim.schedule.decay import exponential as exponential
from fnlamp.optim.schedule.decay import step_decay as step_decay
from fnlamp.optim.schedule.figures import Summary as Summary
from fnlamp.optim.schedule.figures import summary as summary
from fnlamp.optim.schedule.figures import table as table
from fnlamp.optim.schedule.ramp import constant as constant
from fnlamp.optim.schedule.ramp import cosine as cosine
from fnlamp.optim.schedule.ramp import cosine_ramp as cosine_ramp
from fnlamp.optim.schedule.ramp import linear_ramp as linear_ramp
from fnlamp.optim.schedule.ramp import polynomial as polynomial
from fnlamp.optim.schedule.ramp import power_cooldown as power_cooldown
