"""The one place where Hydra looks for plug-ins; what they do is in `graft.sweep.sweeper`."""

from graft.sweep.sweeper import GraftLauncher, GraftSweeper

__all__ = ["GraftLauncher", "GraftSweeper"]
