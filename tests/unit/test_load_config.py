"""A worker's configuration: what is wrong with it is told by the field's name."""

import json

import pytest

from loadtests.client import KademliaClient
from loadtests.config import client_class, read_config
from loadtests.errors import ConfigError

GOOD = {
    "worker": "load-0",
    "seed": 1,
    "cluster": "c",
    "gateways": [{"name": "node-0", "host": "127.0.0.1", "port": 4000}],
    "load": {"rate_per_s": 10.0},
    "duration_s": 5,
    "operations": "x.arrow",
}


def read(tmp_path, **changes):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(GOOD | changes))
    return read_config(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"load": {"rate_per_s": 10, "users": 5}}, "exactly one of 'rate_per_s'"),
        ({"load": {}}, "exactly one of 'rate_per_s'"),
        ({"load": {"rate_per_s": 0}}, r"\$\.load\.rate_per_s"),
        ({"load": {"users": 1, "stores": 1.5}}, r"\$\.load\.stores"),
        ({"load": {"users": 1, "keys": 0, "stores": 0}}, "nothing to look up"),
        ({"load": {"users": 1, "sotres": 0.1}}, "sotres"),
        ({"gateways": []}, r"\$\.gateways"),
        ({"gateways": GOOD["gateways"] * 2}, "same name"),
        ({"index": 2, "workers": 2}, "'index' 2 must be below 'workers' 2"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, **changes)


def test_shares_of_all_workers_add_up(tmp_path):
    for total in (0, 1, 7, 300):
        shares = [read(tmp_path, index=index, workers=3).share(total) for index in range(3)]
        assert sum(shares) == total
        assert max(shares) - min(shares) <= 1


def test_a_client_is_found_by_its_path():
    assert client_class("loadtests.client:KademliaClient") is KademliaClient


@pytest.mark.parametrize(
    "path", ["loadtests.client", "loadtests.client:Nobody", "no.such.module:X", "loadtests.client:log"]
)
def test_a_client_that_is_not_there_is_told(path):
    with pytest.raises(ConfigError, match="client '"):
        client_class(path)
