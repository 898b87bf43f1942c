"""Slices as they are named, wired and rented."""

import pytest

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.planning.chips import CHIPS, topology


@pytest.mark.parametrize(
    ("name", "count", "hosts", "rented"),
    [
        ("v5p:4x4x4", 64, 16, "v5p-128"),  # v5p counts its two cores
        ("v5e:4x4", 16, 4, "v5litepod-16"),
        ("v6e:8x8", 64, 16, "v6e-64"),
        ("v5p:8x8x4", 256, 64, "v5p-512"),
        ("h100:8", 8, 1, "-8"),
    ],
)
def test_a_slice_is_counted_as_it_is_rented(name: str, count: int, hosts: int, rented: str) -> None:
    place = topology(name)
    assert (place.name, place.count, place.hosts, place.accelerator_type) == (name, count, hosts, rented)


@pytest.mark.parametrize(
    "name", ["v5p", "v5p:4x4", "v5e:4x4x4", "v9:2x2", "v5p:4x0x4", "h100:2x4", "v5p:4xx4"]
)
def test_what_is_no_slice_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"--topology={name}: "):
        topology(name)


def test_a_ring_has_both_directions_and_a_line_one() -> None:
    v5e, v5p = CHIPS["v5e"].link_bandwidth, CHIPS["v5p"].link_bandwidth
    assert topology("v5e:16x16").network(256) == 4 * v5e  # two rings
    assert topology("v5e:16x16").network(16) == 2 * v5e
    assert topology("v5e:8x8").network(64) == 2 * v5e  # two lines
    assert topology("v5e:8x8").network(8) == v5e
    assert topology("v5p:4x4x4").network(64) == 6 * v5p
    assert topology("v5p:4x4x4").network(4) == 2 * v5p
    assert topology("v5p:4x4x4").network(2) == v5p  # half a ring is a line
    assert topology("v5p:2x2x1").network(4) == 2 * v5p


def test_gpus_of_a_host_meet_in_a_switch_and_hosts_over_a_slower_network() -> None:
    gpus = topology("h100:16")
    assert gpus.network(8) == CHIPS["h100"].link_bandwidth
    assert gpus.network(16) == pytest.approx(5e10)
    assert gpus.network(2, stride=8) == pytest.approx(5e10)  # one of each host
    assert gpus.network(2, stride=4) == CHIPS["h100"].link_bandwidth


def test_every_property_has_a_source() -> None:
    assert all(chip.source for chip in CHIPS.values())
