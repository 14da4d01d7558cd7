"""fnlamp: deep learning as values, in Python on JAX."""

from fnlamp import augment as augment
from fnlamp import checkpoint as checkpoint
from fnlamp import config as config
from fnlamp import data as data
from fnlamp import effect as effect
from fnlamp import experiment as experiment
from fnlamp import generate as generate
from fnlamp import graph as graph
from fnlamp import loss as loss
from fnlamp import models as models
from fnlamp import nn as nn
from fnlamp import optim as optim
from fnlamp import plots as plots
from fnlamp import scale as scale
from fnlamp import stream as stream
from fnlamp import surgery as surgery
from fnlamp import sweep as sweep
from fnlamp import track as track
from fnlamp import train as train
from fnlamp.elsewhere import install as _install
from fnlamp.layer import Init as Init
from fnlamp.layer import Layer as Layer
from fnlamp.machine import keep_memory as keep_memory
from fnlamp.machine import keep_programs as keep_programs
from fnlamp.mode import Decode as Decode
from fnlamp.mode import Eval as Eval
from fnlamp.mode import Mode as Mode
from fnlamp.mode import Train as Train
from fnlamp.summary import table as table
from fnlamp.tag import Matrix as Matrix
from fnlamp.tag import Role as Role
from fnlamp.tag import Tag as Tag

__version__ = "0.1.0"

_install()  # names from other libraries raise errors that say what to write
