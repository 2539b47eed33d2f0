"""The demonstration: real processes, real sockets, orders of every kind, and the books."""

from gateway.demo.catalog import Step, steps
from gateway.demo.scenes import SCENES, Scene
from gateway.demo.stage import Stage

__all__ = ["SCENES", "Scene", "Stage", "Step", "steps"]
