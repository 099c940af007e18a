"""Ports for servers of the tests that cannot choose one by themselves."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port of the loopback that is free, and below those that the system gives to whoever connects somewhere.

    One of the latter could be taken by any connection of the machine before the server listens.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
