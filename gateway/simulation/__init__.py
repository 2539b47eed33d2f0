"""The gateway's own code, put through years of bad luck in seconds; see ``gateway simulate``."""

from gateway.simulation.plan import Plan, plan, single
from gateway.simulation.world import Result, World, simulate

__all__ = ["Plan", "Result", "World", "plan", "simulate", "single"]
