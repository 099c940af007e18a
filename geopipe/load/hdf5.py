"""Check the files that an HDF5 file refers to: external storage, external links, and sources of virtual datasets.

libhdf5 follows these wherever they lead, and GDAL shows none of them. So h5py walks a file (NetCDF-4 is HDF5, too) from
link to link before GDAL opens it. It opens no other file and reads no values.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple

from geopipe.layers.access import Access, resolve
from geopipe.layers.uris import is_remote

SIGNATURE = b"\x89HDF\r\n\x1a\n"

OBJECTS = 100_000
"""Most links of a file; to walk them takes 2 to 10 s."""

WHOLE = "make a file with all values in it: h5repack -l CONTI for datasets, h5copy -f ext for links"


class Reference(NamedTuple):
    """Another file that an HDF5 file reads, as the source of a virtual dataset or otherwise."""

    place: str
    file: str
    is_virtual: bool = False


def is_hdf5(file: str) -> bool:
    """Whether a file has the signature of HDF5: at its beginning, or at a power of two from 512 (a user block)."""
    with open(file, "rb", buffering=0) as opened:
        size, offset = os.fstat(opened.fileno()).st_size, 0
        while offset < size:
            opened.seek(offset)
            if opened.read(len(SIGNATURE)) == SIGNATURE:
                return True
            offset = offset * 2 or 512
    return False


def referred(file: str, access: Access) -> tuple[str, ...]:
    """The other files that an HDF5 file reads, and those that they read.

    Raises:
        SourceError: there is external storage or an external link; or a source of a virtual dataset is not HDF5, or
            neither below the folder of the file that reads it nor allowed; or a file cannot be walked.
    """
    pending, files = [file], {os.path.realpath(file): file}
    while pending:
        own = pending.pop()
        status = os.stat(own)
        try:
            references = _references(own, (status.st_ino, status.st_size, status.st_mtime_ns))
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError) as error:  # of h5py
            hint = "make it anew, or copy what is needed from it into another file (h5copy, nccopy)"
            raise access.error(f"{own} is no raster that GDAL can open: {error}", hint) from None
        for reference in references:
            path = _checked(reference, own, access)
            if os.path.realpath(path) not in files:
                files[os.path.realpath(path)] = path
                pending.append(path)
    return tuple(files.values())[1:]


def _checked(reference: Reference, own: str, access: Access) -> str:
    """The path of a source of a virtual dataset, if it may be read. Other references are refused.

    External storage is any file as raw bytes; with external links libnetcdf mixes up dimensions of the two files. A
    source must exist and be HDF5: libhdf5 would look for another file of its name in the working folder.
    """
    access = access.within(f"{own}: {reference.place} ")
    if not reference.is_virtual:
        raise access.error(reference.file, WHOLE)
    if is_remote(reference.file) or "%" in reference.file:
        raise access.error(f"refers to {reference.file}, which is an address or a pattern", WHOLE)
    path = resolve(reference.file, os.path.dirname(os.path.abspath(own)), access)
    if not (os.path.isfile(path) and os.access(path, os.R_OK) and is_hdf5(path)):
        raise access.error(f"refers to {reference.file}, which is no HDF5 file", f"put it there, or {WHOLE}")
    return path


@lru_cache(maxsize=256)
def _references(file: str, version: tuple[int, ...]) -> tuple[Reference, ...]:
    """The references in one file, each once; `version` changes with the file."""
    import h5py  # takes 0.1 s, and few files need it

    references: dict[Reference, None] = {}
    count, seen = 0, set()
    with h5py.File(file, "r", locking=False) as opened:
        groups: list[tuple[str, Any]] = [("", h5py.h5g.open(opened.id, b"/"))]
        while groups:
            folder, group = groups.pop()
            count += group.get_num_objs()
            if count > OBJECTS:
                raise ValueError(f"it has more than {OBJECTS:,} groups and datasets")
            for name in group:
                if b"/" in name or name == b".":  # libhdf5 would take it for a path
                    raise ValueError("a link in it has a name that is a path")
                place, link = f"{folder}/{name.decode(errors='replace')}", group.links.get_info(name)
                if link.type == h5py.h5l.TYPE_EXTERNAL:
                    target = os.fsdecode(group.links.get_val(name)[0])
                    references[Reference(f"the link {place} leads to", target)] = None
                elif link.type != h5py.h5l.TYPE_SOFT and link.u not in seen:
                    seen.add(link.u)
                    item = h5py.h5o.open(group, name)
                    if isinstance(item, h5py.h5g.GroupID):
                        groups.append((place, item))
                    elif isinstance(item, h5py.h5d.DatasetID):
                        references.update(dict.fromkeys(_of_dataset(f"the dataset {place}", item.get_create_plist())))
    return tuple(references)


def _of_dataset(place: str, layout: Any) -> list[Reference]:
    """The other files with values of a dataset. In a virtual one "." is its own file."""
    import h5py

    raw = [os.fsdecode(layout.get_external(n)[0]) for n in range(layout.get_external_count())]
    is_virtual = layout.get_layout() == h5py.h5d.VIRTUAL
    sources = {layout.get_virtual_filename(n) for n in range(layout.get_virtual_count())} if is_virtual else set()
    references = [Reference(f"{place} has its values in", file) for file in raw]
    return references + [Reference(place, source, True) for source in sorted(sources - {"."})]
