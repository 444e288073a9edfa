"""The Ray engine on a cluster of two nodes: the same records, also when a worker is killed under it."""

import importlib.util
import json
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from vlmforensics.batch import Inputs, Ledger, LocalEngine, Worker, make_engine, run_batch

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def factory_of(fakes, delay):
    """A factory that finds the fakes by their file's name, in whatever process it lands."""
    source = str(fakes.__file__)

    def factory():
        spec = importlib.util.spec_from_file_location("ray_fakes", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Worker(module.make(sources=[module.Brightness(delay)]), with_text=False)

    return factory


def test_an_actor_finishes_a_block_that_is_no_whole_group(fakes, tmp_path):
    pytest.importorskip("ray")
    from vlmforensics.batch.ray_engine import _Actor

    paths = [fakes.write(tmp_path / f"{index}.jpg", index, width=64, height=64) for index in range(5)]
    rows = [job.to_json().encode() for job in Inputs(paths)]
    backbone = fakes.Backbone()
    backbone.narrate_many = lambda looks, *_, **__: ["It looks edited."] * len(looks)
    worker = Worker(fakes.make(backbone=backbone), text="all", group=3)
    actor = _Actor(lambda: worker, isolated=False, picture_seconds=60)
    for block in (rows[:3], rows[3:]):
        records = [json.loads(record) for record in actor({"job": block})["record"]]
        assert [record["file"] for record in records] == [json.loads(row)["file"] for row in block]
        assert all(len(record["explanation"]) > 60 for record in records)


@pytest.fixture
def cluster():
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 128 << 20, "include_dashboard": False},
    )
    made.add_node(num_cpus=2, object_store_memory=128 << 20)
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def kill_one_actor(records, killed):
    """Once records come, kill the process of one examining actor."""
    while len(records) < 2:
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        if "MapWorker" in " ".join(process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


def test_two_nodes_and_a_killed_worker_give_the_local_records(fakes, cluster, tmp_path):
    folder = tmp_path / "in"
    for index in range(16):
        fakes.write(folder / f"{index:02d}.jpg", index, width=64, height=64)
    (folder / "cut.jpg").write_bytes((folder / "00.jpg").read_bytes()[:200])
    (folder / "twin ünï.jpg").write_bytes((folder / "01.jpg").read_bytes())
    factory = factory_of(fakes, 0.3)
    records, killed = [], []
    killer = threading.Thread(target=kill_one_actor, args=(records, killed), daemon=True)
    killer.start()
    with Ledger(tmp_path / "ray.jsonl") as ledger:
        engine = make_engine("ray", workers=2)
        for record in run_batch(Inputs([folder]), ledger, engine, factory):
            records.append(record)
    killer.join(30)
    assert killed
    with Ledger(tmp_path / "local.jsonl") as ledger:
        local = list(run_batch(Inputs([folder]), ledger, LocalEngine(2), factory_of(fakes, 0)))
    assert [r | {"timing": {}} for r in records] == [r | {"timing": {}} for r in local]
    assert [Path(record["file"]).name for record in records] == sorted(path.name for path in folder.iterdir())
