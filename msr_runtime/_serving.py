"""The one place that imports what the extra `serve` brings."""

try:
    import msgpack
    import prometheus_client
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.frames import CloseCode
    from websockets.http11 import Request, Response
except ImportError as error:
    raise ImportError(f'serving needs a package that is missing ({error}): pip install "msr-runtime[serve]"') from error

__all__ = [
    "CloseCode",
    "ConnectionClosed",
    "Request",
    "Response",
    "ServerConnection",
    "msgpack",
    "prometheus_client",
    "serve",
]
