"""What every node of a cluster must see as the driver does: the sources, and the folder that a run works in."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import ray

from geopipe.durable import replacing, write_error
from geopipe.engine import nodes
from geopipe.engine.cluster import cluster
from geopipe.errors import MachineError
from geopipe.export.lock import STAGING
from geopipe.layers.header import UNKNOWN, Stamp
from geopipe.layers.uris import is_remote, path_of
from geopipe.load import raster, stamps
from geopipe.plan.plan import Plan
from geopipe.text import count

log = logging.getLogger(__name__)

MARKER = "_marker"
"""File in the folder of staged runs that the driver writes, and every node must see."""

SECONDS = 60.0
"""Seconds that a node has for its checks, and as long again for its process to start."""

CHUNK = 500
"""Files that are checked between two looks at the clock."""

REMOTE = 64
"""Files on servers that each node tries: one of each host, and others evenly."""

MOST = 100
"""Differences of a node after which it checks no more."""

SHARED = "put it on a file system that every node mounts at the same path, or in an object store"


class SourceStamp(NamedTuple):
    """A source with its stamp in the plan; `beside` are local files that are read with it."""

    uri: str
    beside: tuple[str, ...]
    stamp: Stamp


@dataclass(frozen=True)
class NodeView:
    """What a node sees otherwise than the driver.

    Attributes:
        folder: why the run cannot work in its folder there; "" if it can.
        sources: the difference by source.
        checked: number of sources that were checked.
    """

    folder: str
    sources: Mapping[str, str]
    checked: int


def refuse_unshared(plan: Plan, folder: Path, run_id: str) -> None:
    """Check, before a run begins, that every other node sees its sources and its folder as this one does.

    Nodes without CPUs do no work, and a cluster of one machine has nothing to check.

    Args:
        folder: that the run works in, and has locked.
        run_id: of the run.

    Raises:
        MachineError: names the node and the file, and how many nodes are like it.
    """
    with cluster(None, 0) as guard, guard.armed():
        others = [node for node in nodes.alive() if not node.is_own and node.resources.get("CPU")]
        if not others:
            return
        known = stamps.known(plan)
        sources = _sample([SourceStamp(h.uri, stamps.beside(h), h.stamp) for h, _ in known.values()])
        marker = folder / STAGING / MARKER
        try:
            with replacing(marker) as file:
                file.write(run_id.encode())
            calls = nodes.begin(others, look, ray.put(sources), str(marker), run_id)
            answers = nodes.wait(calls, 2 * SECONDS)
        except OSError as error:
            raise write_error(error, marker) from error
        finally:
            marker.unlink(missing_ok=True)
    looks = [(answer.node, _look_of(answer)) for answer in answers]
    lacking = Counter(uri for _, seen in looks for uri in seen.sources)
    for node, seen in looks:
        if seen.folder:
            alike = sum(bool(other.folder) for _, other in looks)
            raise MachineError(
                f"{folder} cannot be the folder of a run on {_nodes(node, alike, len(others))}: {seen.folder}",
                "choose a run.output (with an object store: run.staging) that every node mounts at the same path",
            )
        for uri, difference in seen.sources.items():
            more = f"; nor are {count(len(lacking) - 1, 'other source')}" if len(lacking) > 1 else ""
            where = known[uri][1].where
            place = _nodes(node, lacking[uri], len(others))
            raise MachineError(f"{where}{uri} is not on {place} as it is here: {difference}{more}", SHARED)
        if seen.checked < len(sources):
            log.warning("%s has checked %s of %s sources in %g s", node, seen.checked, len(sources), SECONDS)
    log.info("%s sources are the same on %s nodes", len(sources), len(others) + 1)


def _look_of(answer: nodes.Answer[NodeView]) -> NodeView:
    if answer.value is None:
        raise MachineError(
            f"{answer.node} has not checked whether it sees the sources: {answer.error}",
            "every node needs the same geopipe: `geopipe doctor --address ...` asks each",
        )
    return answer.value


def _nodes(node: nodes.ClusterNode, alike: int, total: int) -> str:
    """A node, and how many of the others are like it."""
    return f"{node} ({alike:,} of {count(total, 'other node')})"


def _sample(sources: Sequence[SourceStamp]) -> list[SourceStamp]:
    """All local sources, and of those on servers one for each host and others evenly: each takes a request."""
    local = [source for source in sources if not is_remote(path_of(source.uri))]
    remote = [source for source in sources if is_remote(path_of(source.uri))]
    hosts = {urlsplit(path_of(source.uri)).netloc: source for source in remote}
    evenly = np.unique(np.linspace(0, len(remote) - 1, min(REMOTE, len(remote))).astype(int))
    return [*local, *dict.fromkeys([*hosts.values(), *(remote[i] for i in evenly)])]


# ---------------------------------------------------------------- on each node


def look(sources: Sequence[SourceStamp], marker: str, run_id: str, seconds: float = SECONDS) -> NodeView:
    """Compare the sources with their stamps, and try the folder of the marker, on this node."""
    end, wrong, checked = time.monotonic() + seconds, dict[str, str](), 0
    with raster.environment(), ThreadPoolExecutor(stamps.AT_ONCE) as pool:
        while checked < len(sources) and len(wrong) < MOST and time.monotonic() < end:
            part = sources[checked : checked + CHUNK]
            differences = zip(part, pool.map(_difference, part), strict=True)
            wrong |= {source.uri: text for source, text in differences if text}
            checked += len(part)
    return NodeView(_folder_problem(Path(marker), run_id), wrong, len(sources) if wrong else checked)


def _difference(source: SourceStamp) -> str:
    """How a source differs from its stamp on this node; "" if it does not."""
    now = stamps.stamp_of(source.uri, source.beside)
    if now == source.stamp:
        return ""
    if now == UNKNOWN:
        return "its server does not answer" if is_remote(path_of(source.uri)) else "there is no such file"
    missing = next((name for name in source.beside if not os.path.exists(name)), None)
    if missing is not None:
        return f"there is no {missing}, which is read with it"
    if now.size != source.stamp.size:
        return f"it has {now.size:,} bytes in place of {source.stamp.size:,}"
    return "it was changed at another time"


def _folder_problem(marker: Path, run_id: str) -> str:
    """Why a run cannot work on this node in the folder of the marker; "" if it can."""
    try:
        if marker.read_text(encoding="utf-8") != run_id:
            return "it is another folder there"
        own = f"{marker.name}-{uuid4().hex}"
        probe, renamed = marker.with_name(own), marker.with_name(f"{own}-renamed")
        try:
            probe.write_text(run_id, encoding="utf-8")
            probe.rename(renamed)
        finally:
            probe.unlink(missing_ok=True)
            renamed.unlink(missing_ok=True)
    except FileNotFoundError:
        return "it is another folder there, or none"
    except OSError as error:
        return f"{error.strerror}"
    return ""
