"""A recording from a stranger cannot fill the memory: its chunks are unpacked up to a limit."""

import io
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.records import Chunk
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from msr_runtime import AdaptiveModel, InputError, Recorder
from msr_runtime.recording import Recording
from msr_runtime.recording.unpack import MAX_CHUNK

BOMB = 2**24
PACK = {"zstd": zstandard.compress, "lz4": lz4.frame.compress, "": bytes}


def written(path: Path, compression: str, data: bytes, says: int) -> Path:
    """A recording with one chunk, which says that it unpacks to so many bytes."""
    out = RecordBuilder()
    Chunk(compression, data, 0, 1, 0, says).write(out)
    path.write_bytes(bytes(MCAP0_MAGIC) + out.end())
    return path


@pytest.mark.parametrize("compression", PACK)
def test_a_chunk_that_claims_gigabytes_is_refused_unread(tmp_path: Path, compression: str) -> None:
    """By its own words."""
    path = written(tmp_path / "a.mcap", compression, PACK[compression](b"abc"), MAX_CHUNK + 1)
    with pytest.raises(InputError, match=rf"unpacks to {MAX_CHUNK + 1} bytes, but at most {MAX_CHUNK} are allowed"):
        Recording.open(path)


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("says", [10, BOMB + 10])
def test_a_chunk_that_unpacks_to_more_or_less_than_it_says_is_refused(
    tmp_path: Path, compression: str, says: int
) -> None:
    """A packed one takes no more memory than it says."""
    path = written(tmp_path / "a.mcap", compression, PACK[compression](bytes(BOMB)), says)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"another size than the {says} bytes"):
            Recording.open(path)
        assert says > BOMB or not compression or tracemalloc.get_traced_memory()[1] < BOMB / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", CompressionType)
def test_whole_chunks_of_every_compression_are_read(
    tmp_path: Path, model: AdaptiveModel, compression: CompressionType
) -> None:
    """Other tools pack a recording anew."""
    with Recorder(tmp_path / "a.mcap", model) as recorder:
        for _ in range(100):
            recorder.observation([0.5] * 3)
    data = io.BytesIO()
    writer, recording = Writer(data, compression=compression), Recording.open(tmp_path / "a.mcap")
    writer.start()
    schema = writer.register_schema("", "", b"")
    for topic in ("/policy_metadata", "/observation"):
        channel = writer.register_channel(topic, "json", schema)
        for event in recording.events(topic):
            writer.add_message(channel, event.stamp, event.data, event.stamp)
    writer.finish()
    (tmp_path / "b.mcap").write_bytes(data.getvalue())
    again = Recording.open(tmp_path / "b.mcap")
    assert [*again.events("/observation")] == [*recording.events("/observation")]
    assert again.finished()
