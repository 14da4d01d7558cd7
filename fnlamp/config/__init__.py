"""Configs: groups of settings whose fields may be functions of others; overrides come first, then everything is computed."""

from fnlamp.config.change import Change as Change
from fnlamp.config.command import CommandFault as CommandFault
from fnlamp.config.command import cli as cli
from fnlamp.config.group import group as group
from fnlamp.config.marker import computed as computed
from fnlamp.config.marker import options as options
from fnlamp.config.resolve import resolve as resolve
from fnlamp.config.resolved import Resolved as Resolved
from fnlamp.config.resolved import Setting as Setting
from fnlamp.config.resolved import Source as Source
