"""The one place that imports mcap, which reads and writes the files of recordings."""

try:
    from mcap.exceptions import EndOfFile, RecordLengthLimitExceeded
    from mcap.records import Channel, Footer, McapRecord, Message
    from mcap.stream_reader import StreamReader
    from mcap.writer import Writer
except ImportError as error:
    raise ImportError(
        f'mcap, which recordings need, cannot be imported ({error}): pip install "msr-runtime[log]"'
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
