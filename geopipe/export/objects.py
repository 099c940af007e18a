"""Send a finished table to an object store (S3, Google Cloud Storage or Azure) through pyarrow.

An object store has no rename. So a run works and commits in a folder, and sends its files from there: every file under
its final key, then the manifest and the settings, `_SUCCESS` last. Without `_SUCCESS` there is no table.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from geopipe.errors import MachineError, PlanError, SettingsError
from geopipe.export import state
from geopipe.export.publish import refuse
from geopipe.export.state import BESIDE, MANIFEST, SETTINGS, SUCCESS
from geopipe.export.tiles import FORMATS, Receipt, is_ours
from geopipe.layers import uris

CHUNK = 10 * 2**20
"""Bytes to read and send at a time: a part of pyarrow's uploads to S3."""

THREADS = 4
"""Files to send at a time; each holds about two chunks in memory."""

AGAIN = "run its settings again with --overwrite"

GIVE_UP = "retry_limit_seconds"
"""pyarrow's option of a gs:// URI; without it Google's library tries for a quarter of an hour."""


@dataclass(frozen=True)
class ObjectStore:
    """A prefix in an object store. `root` is bucket/prefix, the path for `fs`."""

    uri: str
    fs: FileSystem
    root: str

    def path(self, name: str) -> str:
        """The path for `fs` of an object under the prefix."""
        return f"{self.root}/{name}"


@dataclass(frozen=True)
class Stored:
    """The contents of a prefix: `_SUCCESS` of a finished run, number of objects, objects of the manifest that miss."""

    uri: str
    finished: dict[str, Any] | None
    objects: int
    missing: tuple[str, ...]


def connect(uri: str) -> ObjectStore:
    """The store of a URI, with the options in its query and the credentials of the environment.

    Raises:
        SettingsError: it is no URI of an object store, or there is a secret in it.
        MachineError: the store does not answer.
    """
    if problem := uris.store_problem(uri):
        raise SettingsError(f"the URI of the output cannot be used: {problem}", "correct it")
    address = uri
    if uri.startswith("g") and GIVE_UP not in uri:
        address += f"{'&' if '?' in uri else '?'}{GIVE_UP}=30"
    with _reported(uri):
        try:
            fs, root = FileSystem.from_uri(address)
        except pa.ArrowInvalid as error:
            raise SettingsError(f"run.output = {uri} is not understood: {error}", "correct it") from None
    return ObjectStore(uri, fs, root.rstrip("/"))


def check(store: ObjectStore, overwrite: bool) -> None:
    """Refuse a prefix that cannot or must not be used. Nothing is written.

    Raises:
        PlanError: it holds a finished run (without `overwrite`), or objects that are not geopipe's.
        MachineError: it cannot be listed.
    """
    sizes, done = listing(store), is_finished(store)
    files = _files(sizes)
    # objects of a run that was not sent to its end may be taken over; other programs have a settings.toml, too
    ours = files | ({MANIFEST, SETTINGS, *_of_table(sizes)} if files else set())
    strange = set() if done else {name.partition("/")[0] for name in sizes.keys() - ours}
    refuse(store.uri, done, strange, files, overwrite)


def listing(store: ObjectStore) -> dict[str, int]:
    """Size of each object under the prefix, by its name there.

    Raises:
        MachineError: there is no such bucket, or it cannot be listed.
    """
    with _reported(store.uri):
        infos = store.fs.get_file_info(FileSelector(store.root, recursive=True, allow_not_found=True))
        bucket = store.root.partition("/")[0]
        if not infos and store.fs.get_file_info(bucket).type is FileType.NotFound:
            raise FileNotFoundError(f"there is no bucket or container {bucket}")
    return {i.path.removeprefix(store.path("")): i.size for i in infos if i.type is FileType.File}


def finished(store: ObjectStore) -> dict[str, Any] | None:
    """The `_SUCCESS` of the finished run under the prefix; None if there is none.

    Raises:
        PlanError: it is geopipe's, and damaged.
        MachineError: the store does not answer.
    """
    with _reported(store.uri):
        try:
            with store.fs.open_input_stream(store.path(SUCCESS), compression=None) as stream:
                return state.success_of(stream.read(), store.path(SUCCESS))
        except FileNotFoundError:
            return None


def is_finished(store: ObjectStore) -> bool:
    """Whether a finished run is under the prefix, though its `_SUCCESS` may be damaged."""
    try:
        return finished(store) is not None
    except PlanError:
        return True


def publish(store: ObjectStore, folder: Path, overwrite: bool) -> None:
    """Send the finished run in a folder. After a crash at any line it can be called again, and sends all again.

    The old `_SUCCESS` is deleted first and the new one sent last. Objects that only an older run has are deleted at the
    end.

    Raises:
        PlanError: meanwhile another run has finished there (without `overwrite`).
        MachineError: the store does not take an object. The folder is as it was.
    """
    try:
        with open(folder / MANIFEST, "rb") as lines:
            sizes = _sizes(lines, str(folder / MANIFEST))
    except OSError as error:
        raise MachineError(f"{folder / MANIFEST} cannot be read: {error.strerror}", AGAIN) from error
    try:
        earlier = finished(store)
    except PlanError:
        earlier = {}  # damaged
    if earlier is None or earlier != state.finished(folder):
        refuse(store.uri, earlier is not None, (), (), overwrite)
        if earlier is not None:
            _delete(store, SUCCESS)
        _send(store, folder, sizes)
        _send(store, folder, _beside(folder))
        lacking = missing(sizes, listing(store))
        if lacking:
            raise MachineError(
                f"{store.uri} lacks {len(lacking):,} objects that were sent ({', '.join(lacking[:3])})",
                "make sure that no other program writes there, then send them again with --resume",
            )
        for name in (MANIFEST, SETTINGS, SUCCESS):
            _send(store, folder, (name,))
    there = listing(store)
    for name in _files(there) - sizes.keys():
        if is_ours(name.rpartition("/")[2]):
            _delete(store, name)
    for name in _of_table(there) - set(_beside(folder)):
        _delete(store, name)


def status(uri: str) -> Stored:
    """The contents of a prefix.

    Raises:
        PlanError: there is no run of geopipe, finished or not.
    """
    store = connect(uri)
    sizes, done = listing(store), finished(store)
    if done is None and not _files(sizes):
        raise PlanError(f"{uri} holds no run of geopipe", "give the output of a run (run.output in its settings)")
    lacking: tuple[str, ...] = ()
    if done is not None and MANIFEST not in sizes:
        lacking = (MANIFEST,)
    elif done is not None:
        with _reported(uri), store.fs.open_input_stream(store.path(MANIFEST), compression=None) as stream:
            lacking = missing(_sizes(io.BufferedReader(stream), store.path(MANIFEST)), sizes)
    return Stored(uri, done, len(sizes), lacking)


def missing(manifest: Mapping[str, int], objects: Mapping[str, int]) -> tuple[str, ...]:
    """The objects of a manifest that a listing lacks, or has with another size."""
    return tuple(name for name, size in manifest.items() if objects.get(name) != size)


def _sizes(lines: Iterable[bytes], where: str) -> dict[str, int]:
    """Size of each file of a manifest. A file that tiles share ends with its last part.

    Raises:
        PlanError: it is damaged.
    """
    sizes: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        try:
            receipt = Receipt.parse(line)
        except ValueError as error:
            raise PlanError(f"{where} is damaged: line {number} is no receipt: {error}", AGAIN) from None
        for file in receipt.files:
            sizes[file.path] = max(sizes.get(file.path, 0), file.offset + file.bytes)
    return sizes


def _files(names: Iterable[str]) -> set[str]:
    """The names in the folders of the formats."""
    return {name for name in names if name.partition("/")[0] in FORMATS}


def _of_table(names: Iterable[str]) -> set[str]:
    """The names of what is made of a table, and stands beside it."""
    return {name for name in names if name.partition("/")[0] in BESIDE}


def _beside(folder: Path) -> list[str]:
    """The names of the files that are made of the table in a folder, and stand beside it."""
    files = (Path(parent, name) for top in BESIDE for parent, _, names in os.walk(folder / top) for name in names)
    alone = [name for name in BESIDE if (folder / name).is_file()]
    return sorted([*alone, *(file.relative_to(folder).as_posix() for file in files)])


def _send(store: ObjectStore, folder: Path, names: Iterable[str]) -> None:
    with _reported(store.uri), ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(_put, store, folder, name) for name in names]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # objects on their way arrive whole, the others do not start
            raise


def _put(store: ObjectStore, folder: Path, name: str) -> None:
    # without compression=None pyarrow goes by the name, and compresses a compressed file again
    with open(folder / name, "rb") as source, store.fs.open_output_stream(store.path(name), compression=None) as sink:
        while data := source.read(CHUNK):
            sink.write(data)
            sink.flush()  # waits for the part: pyarrow sends in the background, and would hold the whole file


def _delete(store: ObjectStore, name: str) -> None:
    with _reported(store.uri):
        store.fs.delete_file(store.path(name))  # in S3 an empty object stays, named as the folder: readers pass it over


@contextmanager
def _reported(uri: str) -> Iterator[None]:
    """Raise errors of pyarrow and its libraries as errors of geopipe."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise MachineError(
            f"{uri} cannot be used: {' '.join(str(error).split())}",
            "check that the bucket exists, that endpoint_override, scheme and region in the URI are right, and that "
            "the environment has credentials that may list, read, write and delete there (AWS_ACCESS_KEY_ID, ...)",
        ) from error
