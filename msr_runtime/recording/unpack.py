"""Unpack the chunks of a recording, each up to a limit: a file of kilobytes may unpack to gigabytes."""

import dataclasses

from msr_runtime.recording._mcap import Chunk, LZ4FrameDecompressor, McapRecord, ZstdDecompressor, breakup_chunk

MAX_CHUNK = 2**28
"""Most bytes that one chunk may unpack to. A Recorder's chunks have some megabytes, or a single larger message."""


def unpack_chunk(chunk: Chunk) -> list[McapRecord]:
    """Return the records of a chunk.

    Raises:
        ValueError: If it unpacks to more than `MAX_CHUNK`, or to another size than it says.
    """
    size = chunk.uncompressed_size
    if size > MAX_CHUNK:
        raise ValueError(f"a chunk of it unpacks to {size} bytes, but at most {MAX_CHUNK} are allowed")
    if chunk.compression == "zstd":
        reader = ZstdDecompressor().stream_reader(chunk.data)
        data, whole = reader.read(size), not reader.read(1)
    elif chunk.compression == "lz4":
        decompressor = LZ4FrameDecompressor()
        data = decompressor.decompress(chunk.data, max_length=size)
        whole = decompressor.eof
    else:
        data, whole = chunk.data, True
    if len(data) != size or not whole:
        raise ValueError(f"a chunk of it unpacks to another size than the {size} bytes that it says")
    return breakup_chunk(dataclasses.replace(chunk, compression="", data=data), validate_crc=True)
