"""Several processes train one network: as one process would with all their batches."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import lenet, traced
from tasks import images
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import vibfx
from vibfx.data import TensorLoader
from vibfx.errors import DataError
from vibfx.training import ranks
from vibfx.training.ranks import Ranks, costs_on_all, current, joined, shard

WORKER = Path(__file__).with_name("distributed_worker.py")


def start(folder, *launcher):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process came to, and each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    start(folder)
    start(folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return [torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")]


def test_two_processes_have_the_loss_of_one_with_the_doubled_batch(results):
    alone, first, second = (torch.tensor(result["losses"]) for result in results)
    assert len(alone) == 50
    assert alone[-1] < 0.8 * alone[0]
    torch.testing.assert_close((first + second) / 2, alone, rtol=0, atol=1e-4)
    assert not torch.equal(first, second)  # each has its own examples


def test_the_graph_was_cut_twice_alike_everywhere(results):
    sizes = [result["sizes"] for result in results]
    assert len(set(sizes[0])) == 3
    assert sizes[0] == sizes[1] == sizes[2]


def test_all_processes_end_with_the_same_weights(results):
    alone, first, second = (result["state"] for result in results)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-3)


# --- shares of the data


def whole_and_shares(world, batch_size, count=50):
    x = torch.arange(count).float().unsqueeze(1)
    y = torch.zeros(count, dtype=torch.int64)

    def epoch(rank, ranks):
        loader = TensorLoader(x, y, batch_size=batch_size * world // ranks, shuffle=True, seed=4)
        shard(loader, Ranks(rank, ranks))
        loader.set_epoch(2)
        batches = [batch.flatten().tolist() for batch, _ in loader]
        assert len(batches) == len(loader)
        return batches

    return epoch(0, 1), [epoch(rank, world) for rank in range(world)]


@pytest.mark.parametrize(("world", "batch_size"), [(2, 5), (2, 8), (3, 4), (4, 16)])
def test_together_they_have_the_batches_of_one(world, batch_size):
    whole, shares = whole_and_shares(world, batch_size)
    assert len({len(share) for share in shares}) == 1
    for number, together in enumerate(zip(*shares, strict=True)):
        assert len({len(part) for part in together}) == 1
        union = sorted(itertools.chain(*together))
        assert len(union) == len(set(union))
        assert set(union) <= set(whole[number])
        assert len(whole[number]) - len(union) < world


def test_a_loader_that_cannot_share_is_refused():
    x, y = images()[0]
    plain = DataLoader(TensorDataset(x, y), batch_size=4)
    shard(plain, Ranks())
    with pytest.raises(DataError, match="2 processes would train on the same examples"):
        shard(plain, Ranks(1, 2))
    sampler = DistributedSampler(TensorDataset(x, y), num_replicas=2, rank=1)
    shard(DataLoader(TensorDataset(x, y), batch_size=4, sampler=sampler), Ranks(1, 2))


# --- alone


def test_alone_nothing_is_joined():
    with joined() as ranks:
        assert ranks == Ranks() == current()
    assert ranks.is_first
    assert ranks.share("mine") == "mine"
    assert ranks.largest(3, torch.device("cpu")) == 3
    assert not Ranks(1, 2).is_first


def test_only_the_first_process_measures_a_latency(monkeypatch):
    """Every process would measure something else, and decide otherwise."""
    measured = []
    shared = []
    monkeypatch.setattr(ranks, "latency_model", lambda *given: measured.append(given) or "times")
    monkeypatch.setattr(Ranks, "share", lambda self, value: shared.append(value) or "times")
    graph = traced(lenet(), (1, 28, 28))
    coupling = vibfx.analyze(graph)
    for rank in (1, 0):
        monkeypatch.setattr(ranks, "current", lambda rank=rank: Ranks(rank, 2))
        assert costs_on_all(graph, coupling)._latency == "times"
    assert measured == [(graph, coupling)]
    assert shared == [None, "times"]
