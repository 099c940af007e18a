"""Names of processes: two that share a folder, a host name and a pid, as containers do, keep their files apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geopipe import processes
from geopipe.export.usage import Meter, usage_of
from geopipe.export.views import VIEWS
from geopipe.monitoring.home import write_private


def test_a_private_file_leaves_alone_what_a_process_of_the_same_pid_is_writing(tmp_path: Path) -> None:
    elsewhere = tmp_path / f"password.{os.getpid()}.tmp"
    elsewhere.write_text("half")
    write_private(tmp_path / "password", "whole")
    assert elsewhere.read_text() == "half"
    assert (tmp_path / "password").read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2


def test_usage_of_a_container_that_started_again_with_the_same_pid_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / VIEWS).mkdir()
    Meter().note(tmp_path)
    monkeypatch.setattr(processes, "STARTED", processes.STARTED + 1)
    Meter().note(tmp_path)
    assert usage_of(tmp_path).processes == 2
