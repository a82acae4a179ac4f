"""The only module that imports mcap, which reads and writes MCAP files, and the two compressions that it uses."""

try:
    from lz4.frame import LZ4FrameDecompressor
    from mcap.exceptions import EndOfFile, RecordLengthLimitExceeded
    from mcap.records import Channel, Chunk, Footer, McapRecord, Message
    from mcap.stream_reader import StreamReader, breakup_chunk
    from mcap.writer import Writer
    from zstandard import ZstdDecompressor
except ImportError as error:
    raise ImportError(
        f'recordings need the package mcap, which cannot be imported ({error}): pip install "msr-runtime[log]"'
    ) from error

__all__ = [
    "Channel",
    "Chunk",
    "EndOfFile",
    "Footer",
    "LZ4FrameDecompressor",
    "McapRecord",
    "Message",
    "RecordLengthLimitExceeded",
    "StreamReader",
    "Writer",
    "ZstdDecompressor",
    "breakup_chunk",
]
