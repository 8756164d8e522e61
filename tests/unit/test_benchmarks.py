"""The benchmarks of training run; what they measure means something only on an idle machine, or one with a GPU."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu, training
from nerveseg.model.spec import NetworkSpec
from nerveseg.params import load

SPEC = NetworkSpec(architecture="Unet", encoder="tu-test_resnet", height=32, width=64)


def test_the_gpu_benchmark_runs_small_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--cpu", "--epochs", "1", "--iou", "0"])
    first, second, ratio = capsys.readouterr().out.splitlines()[-3:]
    for line in (first, second):
        assert "images/s; IoU 0." in line
        assert line.endswith(" minutes"), "an IoU of 0 is reached"
    assert ratio.startswith("ratio of images/s ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no CUDA GPU here"):
        gpu.main([])


@pytest.mark.parametrize("other", ["bare", "naive"])
def test_the_sides_of_the_training_benchmark_take_turns(tmp_path: Path, other: str) -> None:
    train = load(Path(__file__).parents[2] / "params.yaml").train.model_copy(update={"batch_size": 4, "epochs": 3})
    store = training.synthetic(tmp_path, frames=8, validation=4)
    step = training.bare_step(SPEC, train) if other == "bare" else training.naive_step(SPEC, train, store, tmp_path)
    taken = []

    def counted() -> None:
        taken.append(step())

    rates = training.compare(store, SPEC, train, counted, tmp_path / "checkpoints")
    assert len(taken) == 3 * 2
    assert len(rates) == 2
    assert all(own > 0 and another > 0 for own, another in rates)


def test_the_share_outside_steps_leaves_imports_aside() -> None:
    timings = {"imports": 8.0, "training_steps": 90.0, "validation": 6.0, "total": 108.0}
    assert training.outside_steps(timings) == pytest.approx(0.1)
