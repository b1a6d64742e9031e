"""Intel RDT's filesystem, as a host has it that we need not be on."""

from pathlib import Path

import pytest

from runtime import resctrl
from runtime.resctrl import BandwidthInfo, L3Info


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "info/L3/cbm_mask": "fffff",
        "info/L3/min_cbm_bits": "1",
        "info/L3/num_closids": "16",
        "info/MB/bandwidth_gran": "10",
        "info/MB/delay_linear": "1",
        "info/MB/min_bandwidth": "10",
        "info/MB/num_closids": "8",
        "schemata": "    MB:0=100;1=100\n    L3:0=fffff;1=fffff",
        "tasks": "1\n2",
        "mon_data/mon_L3_00/llc_occupancy": "123456",
        "group/schemata": "    MB:0=50;1=100\n    L3:0=f;1=ff",
        "group/tasks": "100\n101",
        "group/mon_data/mon_L3_00/mbm_total_bytes": "9000",
        "group/mon_data/mon_L3_00/mbm_local_bytes": "8000",
        "group/mon_data/mon_L3_00/llc_occupancy": "7000",
        "group/mon_data/mon_L3_01/mbm_total_bytes": "Unavailable",
        "group/mon_data/mon_L3_01/mbm_local_bytes": "6",
        "group/mon_data/mon_L3_01/llc_occupancy": "5",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    return tmp_path


def test_a_process_has_the_shares_of_its_group(root: Path) -> None:
    found = resctrl.read(root, 101)
    assert found.l3_info == L3Info("fffff", 1, 16)
    assert found.bandwidth_info == BandwidthInfo(10, 1, 10, 8)
    assert (found.schema("L3"), found.schema("MB")) == ("L3:0=f;1=ff", "MB:0=50;1=100")
    assert found.schema("L3", root=True) == "L3:0=fffff;1=fffff"
    assert dict(found.monitored) == {
        "mbm_total_bytes": (9000, 0),
        "mbm_local_bytes": (8000, 6),
        "llc_occupancy": (7000, 5),
    }


def test_what_is_monitored_of_the_whole_host_is_none_of_a_container(root: Path) -> None:
    found = resctrl.read(root, 2)
    assert found.schema("L3") == "L3:0=fffff;1=fffff"
    assert found.monitored == ()
