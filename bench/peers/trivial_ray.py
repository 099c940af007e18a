"""The least job of Ray Data: start Ray, let a pool of actors pass a number through, end Ray.

Its wall time is what geopipe's fixed cost on Ray is compared with. It runs with the Python of geopipe.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import ray
from numpy.typing import NDArray


class Worker:
    """Passes a batch on."""

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    workers = parser.parse_args().workers
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    numbers = ray.data.range(workers, override_num_blocks=workers)
    done = numbers.map_batches(Worker, compute=ray.data.ActorPoolStrategy(size=workers)).take_all()
    assert len(done) == workers
    ray.shutdown()


if __name__ == "__main__":
    main()
