"""A set on a real Dask cluster of this machine: the same bits, also when a worker is killed on the way."""

import os
import signal

import pytest
from test_set_sweep import BUNDLED, equal

from patching import sweep
from patching.pairs import builtin
from patching.pairs.threads import use_one_thread

distributed = pytest.importorskip("distributed", reason="pip install 'minigpt2[cluster]'")


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits_though_a_worker_is_killed():
    use_one_thread()
    pairs, killed = builtin.indirect_object(BUNDLED, 24), []
    alone = sweep(BUNDLED, pairs, "z", positions=["S 2", "end"])
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    with cluster, distributed.Client(cluster) as client:

        def kill_one(done, total):
            if done == 3:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        executor = client.get_executor()
        found = sweep(BUNDLED, pairs, "z", positions=["S 2", "end"], executor=executor, progress=kill_one)
        assert killed and killed[0] not in client.run(os.getpid).values()
    equal(found, alone)
