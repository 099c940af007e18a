"""Python reads this first in all processes of the clusters of these tests: each tile takes a second more.

So there is time to pause a run between two tiles, however fast the machine is.
"""

import time

from geopipe.events.emit import subscribe
from geopipe.events.records import Progress

subscribe(lambda body: time.sleep(1) if isinstance(body, Progress) and body.stage == "write" else None)
