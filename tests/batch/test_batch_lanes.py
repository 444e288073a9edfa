"""Threads of a lane: none waits for another, groups don't depend on timing."""

import threading

import pytest

from vlmforensics.batch import Job
from vlmforensics.batch.lanes import ThreadLane
from vlmforensics.batch.work import Draft

SECONDS = 30


class Slow:
    """Work whose every picture waits until ``together`` of them are under way."""

    def __init__(self, group, together):
        self.group, self.finished = group, []
        self.gate = threading.Barrier(together)

    def begin(self, job):
        self.gate.wait(SECONDS)
        return Draft(job, {"file": job.file})

    def finish(self, drafts):
        self.finished.append([draft.job.file for draft in drafts])
        return [draft.record for draft in drafts]


def run(work, workers, count):
    lane = ThreadLane(work, workers)
    for number in range(count):
        lane.submit(number, Job(f"{number}.jpg", f"{number}.jpg"))
    lane.flush()
    found = [lane.results.get(timeout=SECONDS) for _ in range(count)]
    lane.close(now=False)
    assert not any(isinstance(item, Exception) for item in found)
    return {number: record["file"] for number, record in found}


@pytest.mark.parametrize("group", [1, 2, 3])
def test_every_thread_examines(group):
    """With a thread that only waits for another's picture, the gate would never open."""
    work = Slow(group, 3)
    assert run(work, 3, 6) == {number: f"{number}.jpg" for number in range(6)}
    names = [f"{number}.jpg" for number in range(6)]
    assert sorted(work.finished) == [names[i : i + group] for i in range(0, 6, group)]


def test_a_group_that_is_not_full_is_finished_when_no_more_come():
    work = Slow(4, 1)
    assert len(run(work, 2, 6)) == 6
    assert sorted(map(len, work.finished)) == [2, 4]


def test_what_has_not_begun_is_given_back():
    work = Slow(2, 1)
    started, go = threading.Event(), threading.Event()
    begin = work.begin

    def first_waits(job):
        started.set()
        go.wait(SECONDS)
        return begin(job)

    work.begin = first_waits
    lane = ThreadLane(work, 1)
    for number in range(3):
        lane.submit(number, Job(f"{number}.jpg", f"{number}.jpg"))
    assert started.wait(SECONDS)
    lane.cancel()
    go.set()
    found = dict(lane.results.get(timeout=SECONDS) for _ in range(3))
    assert found == {0: {"file": "0.jpg"}, 1: None, 2: None}
    lane.close(now=False)
