"""Many machines: Ray, which only this package imports (extra ``ray``)."""

from distilrl.distributed.collectors import RayCollectors
from distilrl.distributed.connection import connect
from distilrl.distributed.executor import RayExecutor

__all__ = ["RayCollectors", "RayExecutor", "connect"]
