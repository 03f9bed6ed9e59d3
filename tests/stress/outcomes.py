"""What must be true of instances of a stress run, read from their histories."""

from __future__ import annotations

from collections import Counter

from perdure import Client
from perdure.kernel.data.events import ActivityCompleted, ActivityScheduled


async def activities_recorded(client: Client, id_prefix: str) -> int:
    """All instances and children completed, each activity's result once; how many activities there were."""
    total = 0
    found = await client.list(id_prefix=id_prefix, limit=None)
    assert {one.status for one in found} == {"completed"}
    for one in found:
        events = [entry.event for entry in await client.get(one.id).history()]
        asked = [event.seq for event in events if isinstance(event, ActivityScheduled)]
        answered = Counter(event.seq for event in events if isinstance(event, ActivityCompleted))
        assert answered == dict.fromkeys(asked, 1), one.id
        total += len(asked)
    return total
