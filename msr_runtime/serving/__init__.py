"""A policy server: clients send observations over a websocket and receive actions.

Each client can adapt a policy of its own, without any effect on the other clients. This room needs the extra `serve`.
"""

from msr_runtime.serving.access import Limits
from msr_runtime.serving.policy import Policy
from msr_runtime.serving.server import PolicyServer
from msr_runtime.serving.wire import decode, encode

__all__ = [
    "Limits",
    "Policy",
    "PolicyServer",
    "decode",
    "encode",
]
