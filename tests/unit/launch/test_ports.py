"""Jobs on one node get different ports, also when they ask for the same one first."""

import socket

from launch.ports import FIRST_PORT, NUM_PORTS, reserved_port


def test_jobs_that_ask_for_the_same_port_get_different_ones(tmp_path):
    with reserved_port(5, tmp_path) as first, reserved_port(5 + NUM_PORTS, tmp_path) as second:
        assert first != second


def test_neighbouring_jobs_start_in_different_places(tmp_path):
    ports = set()
    for job_id in range(100):
        with reserved_port(job_id, tmp_path) as port:
            ports.add(port)
    # Others may hold a few ports of the range on this machine; each moves one job by one place.
    assert len(ports) == 100
    assert all(FIRST_PORT <= port < FIRST_PORT + NUM_PORTS for port in ports)


def test_port_in_use_is_passed_over(tmp_path):
    with reserved_port(5, tmp_path) as port:
        pass
    with socket.create_server(("", port)), reserved_port(5, tmp_path) as other:
        assert other != port


def test_reservation_ends_with_its_block(tmp_path):
    with reserved_port(5, tmp_path) as first:
        pass
    with reserved_port(5, tmp_path) as second:
        assert second == first
