"""The gateway's own code, put through years of bad luck in seconds; see ``gateway simulate``."""

from gateway.simulation.plan import Plan, crowd, plan, single
from gateway.simulation.world import Result, World, simulate

__all__ = ["Plan", "Result", "World", "crowd", "plan", "simulate", "single"]
