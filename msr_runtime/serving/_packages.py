"""The only module that imports the packages of the extra `serve`."""

try:
    import msgpack
    import prometheus_client
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.frames import CloseCode, Opcode
    from websockets.http11 import Request, Response
    from websockets.protocol import State
except ImportError as error:
    raise ImportError(f'serving needs a package that is missing ({error}): pip install "msr-runtime[serve]"') from error

__all__ = [
    "CloseCode",
    "ConnectionClosed",
    "Opcode",
    "Request",
    "Response",
    "ServerConnection",
    "State",
    "msgpack",
    "prometheus_client",
    "serve",
]
