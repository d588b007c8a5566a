"""Many machines: Ray, which only this package imports."""

from distilrl.distributed.collectors import RayCollectors
from distilrl.distributed.connection import connect

__all__ = ["RayCollectors", "connect"]
