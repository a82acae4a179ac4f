"""The only module that imports mcap, the package that reads and writes MCAP files."""

try:
    from mcap.exceptions import EndOfFile, RecordLengthLimitExceeded
    from mcap.records import Channel, Footer, McapRecord, Message
    from mcap.stream_reader import StreamReader
    from mcap.writer import Writer
except ImportError as error:
    raise ImportError(
        f'recordings need the package mcap, which cannot be imported ({error}): pip install "msr-runtime[log]"'
    ) from error

__all__ = [
    "Channel",
    "EndOfFile",
    "Footer",
    "McapRecord",
    "Message",
    "RecordLengthLimitExceeded",
    "StreamReader",
    "Writer",
]
