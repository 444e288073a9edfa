"""A LLaVA-family backbone explains a batch's pictures in groups, with the words it has for each alone."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from vlmforensics.batch import Inputs, LocalEngine, Worker
from vlmforensics.settings import Settings
from vlmforensics.vlm import load_backbone, speech


@pytest.fixture(scope="module")
def backbone(load_helper, tmp_path_factory):
    families = load_helper(Path(__file__).parents[1] / "vlm" / "families.py")
    folder = families.write("llava", tmp_path_factory.mktemp("tiny") / "llava")
    return load_backbone(str(folder), Settings(cache=folder.parent / "cache", device="cpu", offline=True))


def test_texts_of_a_batch_are_written_together(fakes, backbone, tmp_path, monkeypatch):
    for index in range(5):
        fakes.write(tmp_path / f"{index}.jpg", index)
    settings = Settings(sandbox=False, max_new_tokens=24)
    assistant = fakes.make(backbone=backbone, settings=settings)
    written = []

    def counted(looks, *args, **more):
        written.append(len(looks))
        return type(backbone).narrate_many(backbone, looks, *args, **more)

    monkeypatch.setattr(backbone, "narrate_many", counted)

    def records(group):
        worker = Worker(assistant, text="all", group=group)
        assert worker.group == group
        found = LocalEngine(2).run(Inputs([tmp_path]), lambda: worker, lambda: False)
        return [record | {"timing": {}} for record in found]

    alone = records(1)
    assert written == []
    assert records(3) == alone
    assert written == [3, 2]
    assert all(record["explanation"] for record in alone)


def test_no_more_texts_at_once_than_memory_holds(fakes, backbone, monkeypatch):
    monkeypatch.setattr(speech, "free_bytes", lambda device: 0)
    assert Worker(fakes.make(backbone=backbone), text="all").group == 1
    monkeypatch.setattr(speech, "free_bytes", lambda device: None)
    assert Worker(fakes.make(backbone=backbone), text="all").group == 8
    assert Worker(fakes.make(backbone=backbone), text="flagged").group == 1
