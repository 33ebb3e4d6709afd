import socket

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def npz(tmp_path):
    def write(**content):
        file = tmp_path / "set.npz"
        np.savez(file, **{name: array for name, array in content.items() if array is not None})
        return file

    return write
