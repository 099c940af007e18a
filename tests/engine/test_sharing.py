"""Before the first tile every node of a cluster must see the sources and the folder of the run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trials import make_trial

from geopipe.engine.sharing import SourceStamp, look
from geopipe.errors import MachineError
from geopipe.layers.header import Stamp
from geopipe.load.stamps import stamp_of


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    (tmp_path / "_marker").write_text("run")
    return tmp_path / "_marker"


def source(file: Path, *beside: Path) -> SourceStamp:
    file.write_bytes(b"1234")
    for other in beside:
        other.write_bytes(b"12")
    names = tuple(map(str, beside))
    return SourceStamp(str(file), names, stamp_of(str(file), names))


def test_a_node_names_each_source_that_it_sees_otherwise(tmp_path: Path, marker: Path) -> None:
    own, longer, later, gone, member = (tmp_path / name for name in ("own", "longer", "later", "gone", "member.tif"))
    sources = [source(own), source(longer), source(later), source(gone), source(tmp_path / "a.vrt", member)]
    assert look(sources, str(marker), "run").sources == {}
    longer.write_bytes(b"12345")
    os.utime(later, ns=(0, 0))
    gone.unlink()
    member.unlink()
    seen = look([*sources, SourceStamp("http://127.0.0.1:1/a.tif", (), Stamp(9))], str(marker), "run")
    assert seen.sources == {
        str(longer): "it has 5 bytes in place of 4",
        str(later): "it was changed at another time",
        str(gone): "there is no such file",
        str(tmp_path / "a.vrt"): f"there is no {member}, which is read with it",
        "http://127.0.0.1:1/a.tif": "its server does not answer",
    }


def test_a_node_without_time_says_how_many_sources_it_has_checked(tmp_path: Path, marker: Path) -> None:
    sources = [source(tmp_path / "a")] * 3
    assert look(sources, str(marker), "run", seconds=0).checked == 0
    assert look(sources, str(marker), "run").checked == 3


def test_a_node_must_see_the_marker_of_the_run_and_leaves_nothing_beside_it(tmp_path: Path, marker: Path) -> None:
    assert look([], str(marker), "run").folder == ""
    assert look([], str(marker), "another run").folder == "it is another folder there"
    assert look([], str(tmp_path / "missing" / "_marker"), "run").folder == "it is another folder there, or none"
    assert os.listdir(tmp_path) == ["_marker"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_node_must_be_able_to_write_beside_the_marker(tmp_path: Path, marker: Path) -> None:
    tmp_path.chmod(0o500)
    seen = look([], str(marker), "run")
    tmp_path.chmod(0o700)
    assert seen.folder == "Permission denied"


RUNS = """
import json, os, subprocess, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from geopipe.errors import MachineError
from geopipe.run import pipeline
from geopipe.settings import load
from waiting import until

folder = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
start = f"ray start --address={cluster.address} --num-cpus=1 --object-store-memory=80000000 --block"
hide = f"mount -t tmpfs none {folder}/hidden && exec {start}"  # its processes see an empty folder
other = subprocess.Popen(["unshare", "-m", "sh", "-c", hide], stdout=subprocess.DEVNULL)
ray.init(cluster.address, logging_level="ERROR")
until(lambda: len([node for node in ray.nodes() if node["Alive"]]) == 2)

flags = (f"run.output={folder}/out", "engine.kind=ray", f"layers.b.path={folder}/hidden/b.tif")
try:
    outcome = pipeline.run(load.load(folder / "s.toml", flags), fresh=True).rows
except MachineError as error:
    outcome = f"{error.exit_code} {error}"
staged = folder / "out/_staging/another"
print(json.dumps({
    "outcome": outcome,
    "left": sorted(path.name for path in staged.iterdir()),
    "out": sorted(path.name for path in (folder / "out/_staging").iterdir()),
}))
other.terminate()
other.wait()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
    reason="a node with a disk of its own needs root and mount namespaces",
)
def test_what_the_driver_s_disk_alone_has_is_refused_before_anything_is_deleted(tmp_path: Path) -> None:
    make_trial(tmp_path)
    (tmp_path / "hidden").mkdir()
    shutil.copy(tmp_path / "b.tif", tmp_path / "hidden")
    staged = tmp_path / "out" / "_staging" / "another"
    staged.mkdir(parents=True)
    (staged / "plan.json").write_text("{}")
    surroundings = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-c", RUNS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    code = MachineError.exit_code
    lines = result["outcome"].splitlines()
    assert lines[0].startswith(f"{code} layer b: {tmp_path}/hidden/b.tif is not on node ")
    assert lines[0].endswith("(1 of 1 other node) as it is here: there is no such file")
    assert lines[1] == "  hint: put it on a file system that every node mounts at the same path, or in an object store"
    assert (result["left"], result["out"]) == (["plan.json"], ["another"])
