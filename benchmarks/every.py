"""All measures, in the order in which a round takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from .bench import Bench
from .crowd import long, tomorrow, waits
from .daemons import recycling, sharing, starts
from .drain import batch, contended, drain, info
from .enqueue import enqueue, together
from .latency import latency


@dataclass(frozen=True, slots=True)
class Measure:
    """One step of a round.

    Attributes:
        name: By which ``--only`` finds it.
        on_disk: Whether it means something on a disk only.
        many: Whether it needs a million tasks: in fewer rounds, and with much room.
        last: Whether it is for the end of the last of these rounds.
    """

    name: str
    run: Callable[[Bench], None]
    on_disk: bool = False
    many: bool = False
    last: bool = False


MEASURES: Final = (
    Measure("enqueue fast 1", partial(enqueue, producers=1, sync=False)),
    Measure("enqueue fast 4", partial(enqueue, producers=4, sync=False)),
    Measure("enqueue safe 1", partial(enqueue, producers=1, sync=True), on_disk=True),
    Measure("enqueue safe 4", partial(enqueue, producers=4, sync=True), on_disk=True),
    Measure("enqueue together", together),
    Measure("drain 1", partial(drain, workers=1)),
    Measure("drain 2", partial(drain, workers=2)),
    Measure("drain batch 1", partial(batch, workers=1)),
    Measure("drain batch 2", partial(batch, workers=2)),
    Measure("drain info", info),
    Measure("drain contended", contended),
    Measure("latency", latency),
    Measure("start", starts),
    Measure("recycle", recycling),
    Measure(
        "share daemons",
        lambda bench: sharing(bench, daemons=bench.sizes.daemons, each=1),
    ),
    Measure(
        "share workers",
        lambda bench: sharing(bench, daemons=1, each=bench.sizes.workers),
    ),
    Measure("million waiting", waits, many=True),
    Measure("million tomorrow", tomorrow, many=True),
    Measure("million long", long, many=True, last=True),
)
