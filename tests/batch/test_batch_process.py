"""What a process of ours sets for itself, and that a user's choice stands."""

import os
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
CODE = "import os; from vlmforensics.batch.process import prepare_process; prepare_process(); "


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_users_waiting_policy_stands():
    assert run("print(os.environ['OMP_WAIT_POLICY'])", OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_nothing_heavy_is_imported_before_the_policy_is_set():
    code = "import sys; import vlmforensics.batch; print([n for n in ('torch', 'ray') if n in sys.modules])"
    assert run(code) == "[]"


@GLIBC
def test_freed_memory_stays_with_the_process():
    code = (
        "import resource, threading, numpy as np\n"
        "def work():\n"
        "    for _ in range(300): np.ones(1 << 18)\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults())"
    )
    # 300 arrays of 2 MiB are 153,600 pages if each is fetched anew
    assert int(run(code)) < 20_000


@GLIBC
def test_gaps_between_blocks_in_use_go_back_to_the_system():
    code = (
        "import numpy as np\n"
        "from vlmforensics.batch.process import return_freed_memory\n"
        "def held():\n"
        "    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS')) >> 10\n"
        "pairs = [(np.ones(1 << 17), np.ones(16)) for _ in range(200)]\n"
        "kept = [small for _, small in pairs]\n"
        "before = held(); del pairs; between = held()\n"
        "print(before - between, return_freed_memory(), between - held())"
    )
    freed, said, given = run(code).split()
    # 200 arrays of 1 MiB: hardly any of them goes back by itself
    assert int(freed) < 50
    assert (said, int(given) > 150) == ("True", True)
