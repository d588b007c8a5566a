"""Networks from their specs: `build(spec)` makes the module."""

from distilrl.networks.building import Share, blank, build, build_shared, reuse_head
from distilrl.networks.counting import count_bytes, count_macs
from distilrl.networks.network import Network
from distilrl.networks.recurrent import RecurrentNetwork

__all__ = [
    "Network",
    "RecurrentNetwork",
    "Share",
    "blank",
    "build",
    "build_shared",
    "count_bytes",
    "count_macs",
    "reuse_head",
]
