"""Which processes train together, and which frames each of them gets."""

from itertools import chain

import pytest
from torch.utils.data import BatchSampler

from nerveseg.errors import NervesegError
from nerveseg.settings import settings
from nerveseg.training.dataset import EpochSampler
from nerveseg.training.devices import Share, World, is_one_of_several, launch, per_node
from nerveseg.training.trainer import worker_count


def batches(drop_last: bool) -> BatchSampler:
    """Of 22 frames, four each, in the second epoch."""
    return BatchSampler(EpochSampler(22, 70, shuffle=drop_last, epoch=1), 4, drop_last)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_slices_of_all_processes_are_the_batches_of_one(size: int) -> None:
    shares = [Share(batches(True), World(rank, size), slices=True) for rank in range(size)]
    joined = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == list(batches(True))
    assert {len(share) for share in shares} == {5}


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_every_validation_frame_has_one_process(size: int) -> None:
    shares = [Share(batches(False), World(rank, size), slices=False) for rank in range(size)]
    assert sorted(chain(*chain(*shares))) == sorted(chain(*batches(False)))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]


def test_lightning_finds_the_sampler_of_each_epoch() -> None:
    share = Share(batches(True), World(1, 2), slices=True)
    before = list(share)
    share.sampler.set_epoch(2)  # type: ignore[attr-defined]
    assert list(share) != before


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, True),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),  # a batch script
        ({"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_STEP_NUM_TASKS": "8"}, True),
    ],
)
def test_torchrun_and_slurm_are_noticed(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], several: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_one_of_several() == several


def test_nodes_without_slurm_need_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(NervesegError, match="MASTER_ADDR and NODE_RANK are not set"):
        launch("nerveseg.stages.train", 1, 2)


def test_devices_are_a_number_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, wanted in {"auto": "auto", "3": 3}.items():
        monkeypatch.setenv("NERVESEG_DEVICES", value)
        settings.cache_clear()
        assert settings().devices == wanted
    for value in ("0", "all"):
        monkeypatch.setenv("NERVESEG_DEVICES", value)
        settings.cache_clear()
        with pytest.raises(NervesegError, match="NERVESEG_DEVICES"):
            settings()
    settings.cache_clear()
    assert per_node("auto", "cpu") == 1
    assert per_node(3, "cpu") == 3
    with pytest.raises(NervesegError, match="NERVESEG_DEVICES is 2, but this machine has 1"):
        per_node(2, "mps")


def test_processes_share_the_cpus_for_their_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nerveseg.training.trainer.cpu_count", lambda: 16)
    assert [worker_count(None, "cuda", processes) for processes in (1, 4, 16)] == [8, 3, 0]
    assert worker_count(5, 4) == 5
