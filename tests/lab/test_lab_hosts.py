"""The lab itself: hosts are apart from each other, and break as real ones do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netlab import NetLab


def ssh(lab: NetLab, host: str, *command: str) -> subprocess.CompletedProcess[str]:
    config = str(lab.home / ".ssh" / "config")
    words = ["ssh", "-F", config, "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", host, *command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_every_host_has_its_name_its_home_and_the_pythons_of_the_tests(netlab: NetLab) -> None:
    for host in netlab.hosts:
        assert f"{host.name}\n" == ssh(netlab, host.name, "hostname").stdout
        assert "ok\n" == ssh(netlab, host.name, sys.executable, "-c", "'import numpy; print(\"ok\")'").stdout
    ssh(netlab, "node0", "touch", "/root/only0")
    assert "" == ssh(netlab, "node1", "ls", "/root/only0").stdout
    assert not Path("/root/only0").exists()


def test_a_host_that_is_powered_off_is_gone_and_comes_back(netlab: NetLab) -> None:
    host = netlab.hosts[2]
    host.poweroff()
    assert ssh(netlab, host.name, "true").returncode == 255
    host.power_on()
    assert ssh(netlab, host.name, "true").returncode == 0


def test_an_sshd_can_be_killed_without_its_host(netlab: NetLab) -> None:
    host = netlab.hosts[1]
    host.kill_sshd()
    assert ssh(netlab, host.name, "true").returncode == 255
    assert host.run("hostname") == "node1\n"
    host.start_sshd()
    assert ssh(netlab, host.name, "true").returncode == 0
