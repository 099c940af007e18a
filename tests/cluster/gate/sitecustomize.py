"""Python reads this first in the processes of test_hosts: a worker waits after a tile while `shut` is there.

So a test can kill or add a host in the midst of a run, however fast the machine is. While `mute` is there, no process
sends the records that it keeps on its disk.
"""

import os
import socket
import time
from pathlib import Path

from geopipe.events.emit import subscribe
from geopipe.events.records import Progress
from geopipe.monitoring.shipping import Shipper

GATE = Path(os.environ["GEOPIPE_TEST_GATE"])


def _wait(body: object) -> None:
    if isinstance(body, Progress) and body.stage == "write" and (GATE / "shut").exists():
        (GATE / socket.gethostname()).touch()
        while (GATE / "shut").exists():
            time.sleep(0.05)


subscribe(_wait)

_ship = Shipper.ship
Shipper.ship = lambda shipper, *args: not (GATE / "mute").exists() and _ship(shipper, *args)  # type: ignore[method-assign]
