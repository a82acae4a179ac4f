"""What a user has to know of a log that was read: what was left out, and what nobody reads."""

from collections import Counter
from collections.abc import Sequence

from msr_envs.logs.description import LogDescription
from msr_envs.logs.drives import LogFile
from msr_envs.logs.oddities import odd_times
from msr_envs.logs.samples import Samples

_SHOWN = 6


def log_notes(said: LogDescription, files: Sequence[LogFile], read: Sequence[Samples]) -> tuple[str, ...]:
    """Return the notes, one sentence each, without those that have nothing to say."""
    kept = [samples for samples in read if len(samples.x) >= said.shortest]
    short = [samples for samples in read if len(samples.x) < said.shortest]
    notes = [f"{len(kept)} drives with {sum(len(samples.x) for samples in kept)} samples"]
    if short:
        notes.append(
            f"left out, with fewer than {said.shortest} samples: "
            + listed([f"{samples.drive.name} ({len(samples.x)})" for samples in short])
        )
    if broken := sum(samples.broken for samples in read):
        fields = sum((samples.fields for samples in read), Counter())
        notes.append(
            f"{broken} samples hold a value that is not finite and are left out; rows with one: "
            + listed([f"{name} {count}" for name, count in fields.most_common()])
        )
    if dropouts := sum(samples.dropouts for samples in read):
        across = sum(samples.across for samples in read)
        notes.append(f"the time has {dropouts} dropouts, and {across} samples that span one are left out")
    notes += odd_times(read)
    if unread := list(dict.fromkeys(name for file in files for name in file.unread)):
        notes.append(f"columns that are not read: {listed(unread)}")
    return tuple(notes)


def listed(names: Sequence[str]) -> str:
    """Return names as text, of many the first."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
