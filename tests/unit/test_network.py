"""The contract of every architecture, and what is rejected."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors import safe_open

from nerveseg.errors import NervesegError
from nerveseg.model.network import WEIGHTS_FILE, Averaged, build, load, save, save_ensemble
from nerveseg.model.spec import SPEC_FILE, Flip, ModelSpec, read_spec

FLIPS: dict[tuple[Flip, ...], list[list[int]]] = {  # with the axes of each view
    (): [[]],
    ("horizontal",): [[], [3]],
    ("vertical",): [[], [2]],
    ("horizontal", "vertical"): [[], [2], [3], [2, 3]],
}
SPEC = ModelSpec(architecture="Unet", encoder="resnet18", height=64, width=64, threshold=0.5)
LITTLE = SPEC.model_copy(update={"encoder": "tu-test_resnet"})


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class TestEveryArchitecture:
    @pytest.fixture(scope="class", params=[model.__name__ for model in smp.MODEL_ARCHITECTURES_MAPPING.values()])
    def spec(self, request: pytest.FixtureRequest) -> ModelSpec:
        own = {
            "DPT": {"encoder": "tu-test_vit"},  # it only takes timm's vision transformers
            "PAN": {"height": 128, "width": 160},  # it halves its input eight times
        }.get(request.param, {})
        return SPEC.model_copy(update={"architecture": request.param, "width": 96, **own})

    @pytest.fixture(scope="class")
    def network(self, spec: ModelSpec) -> torch.nn.Module:
        return build(spec)

    def test_learns_in_the_smallest_batch(self, network: torch.nn.Module, spec: ModelSpec) -> None:
        network.train()(torch.randn(2, 1, spec.height, spec.width)).square().mean().backward()
        for part in ("encoder", "segmentation_head"):
            gradient = next(network.get_submodule(part).parameters()).grad
            assert gradient is not None
            assert gradient.isfinite().all()
            assert gradient.any()

    @torch.inference_mode()
    def test_maps_greyscale_frames_to_logits_and_can_be_saved_and_loaded(
        self, network: torch.nn.Module, spec: ModelSpec, tmp_path: Path
    ) -> None:
        frames = torch.randn(2, 1, spec.height, spec.width)
        logits = network.eval()(frames)
        assert logits.shape == frames.shape
        assert logits.dtype == torch.float32
        assert logits.std() > 0

        save(network, spec, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [SPEC_FILE, WEIGHTS_FILE]
        with safe_open(tmp_path / WEIGHTS_FILE, "pt") as file:  # reads only plain tensors, no pickles
            assert set(file.keys()) == set(network.state_dict())

        rebuilt, recorded = load(tmp_path)
        assert recorded == spec
        assert not rebuilt.training
        assert torch.equal(rebuilt(frames), logits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "Unett"}, "Unett is not one of .*Unet, UnetPlusPlus"),
        ({"encoder": "resnet35"}, "resnet35 is unknown; did you mean .*resnet34"),
        ({"encoder": "@"}, "@ is unknown; see"),
        ({"encoder": "tu-resnet35"}, "tu-resnet35.*Unknown model"),
        ({"architecture": "UnetPlusPlus", "encoder": "mit_b0"}, "UnetPlusPlus cannot be built on model.encoder mit_b0"),
        ({"architecture": "DPT"}, "DPT cannot be built on model.encoder resnet18.*tu-"),
        ({"architecture": "PAN"}, r"PAN on model.encoder resnet18 does not support .*model.height 64"),
        ({"architecture": "DPT", "encoder": "tu-test_vit3"}, r"tu-test_vit3 does not support .*model.height 64.*160"),
    ],
)
def test_an_invalid_network_is_a_clear_error(change: dict[str, str], words: str) -> None:
    with pytest.raises(NervesegError, match=words):
        build(SPEC.model_copy(update=change))


def test_an_encoder_without_imagenet_weights_is_a_clear_error() -> None:
    with pytest.raises(NervesegError, match=r"encoder_weights imagenet: .*imagenet\+5k"):
        build(SPEC.model_copy(update={"encoder": "dpn68b"}), "imagenet")


class TestSavedFiles:
    @pytest.fixture(scope="class")
    def saved(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        spec = SPEC.model_copy(update={"architecture": "PSPNet", "encoder": "mobilenet_v2"})  # a small combination
        folder = tmp_path_factory.mktemp("saved")
        save(build(spec), spec, folder)
        return folder

    @pytest.fixture
    def folder(self, saved: Path, tmp_path: Path) -> Path:
        return shutil.copytree(saved, tmp_path, dirs_exist_ok=True)

    def test_both_files_are_readable_for_the_same_users(self, saved: Path) -> None:
        assert (saved / WEIGHTS_FILE).stat().st_mode == (saved / SPEC_FILE).stat().st_mode

    @pytest.mark.parametrize("name", [WEIGHTS_FILE, SPEC_FILE])
    def test_a_missing_one_says_how_to_get_it(self, name: str, folder: Path) -> None:
        (folder / name).unlink()
        with pytest.raises(NervesegError, match=rf"{name}.*`dvc pull`"):
            load(folder)

    @pytest.mark.parametrize("name", [WEIGHTS_FILE, SPEC_FILE])
    @pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda _: b"\xff"])
    def test_a_damaged_one_is_named(self, name: str, damage: Callable[[bytes], bytes], folder: Path) -> None:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        with pytest.raises(NervesegError, match=name):
            load(folder)

    @pytest.mark.parametrize("change", [{"height": "tall"}, {"surprise": 1}, {"encoder": None}])
    def test_an_invalid_spec_names_the_key(self, change: dict[str, object], folder: Path) -> None:
        record = json.loads((folder / SPEC_FILE).read_text())
        (folder / SPEC_FILE).write_text(json.dumps(record | change))
        with pytest.raises(NervesegError, match=rf"{SPEC_FILE}.*{next(iter(change))}"):
            load(folder)

    @pytest.mark.parametrize("content", ["[]", "{}", "null"])
    def test_other_json_is_rejected(self, content: str, folder: Path) -> None:
        (folder / SPEC_FILE).write_text(content)
        with pytest.raises(NervesegError, match=SPEC_FILE):
            load(folder)

    def test_weights_of_another_network_are_rejected_briefly(self, folder: Path) -> None:
        record = json.loads((folder / SPEC_FILE).read_text())
        (folder / SPEC_FILE).write_text(json.dumps(record | {"encoder": "resnet18"}))
        with pytest.raises(NervesegError, match=f"does not contain the network of {SPEC_FILE}") as caught:
            load(folder)
        assert len(str(caught.value)) < 800


class TestSeveralForwardPasses:
    """`load` for a model that needs several forward passes or networks."""

    @pytest.fixture(scope="class")
    def parts(self, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
        folders = []
        for seed in (1, 2, 3):
            torch.manual_seed(seed)
            folders.append(tmp_path_factory.mktemp(f"part-{seed}"))
            save(build(LITTLE), LITTLE, folders[-1])
        return folders

    @pytest.fixture(scope="class")
    def frames(self) -> torch.Tensor:
        return torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("flips", FLIPS, ids="-".join)
    @torch.inference_mode()
    def test_flips_are_the_mean_of_those_views_alone(
        self, flips: tuple[Flip, ...], parts: list[Path], frames: torch.Tensor, tmp_path: Path
    ) -> None:
        bare, _ = load(parts[0])
        spec = LITTLE.model_copy(update={"flips": flips})
        save(bare, spec, tmp_path)
        assert (tmp_path / WEIGHTS_FILE).read_bytes() == (parts[0] / WEIGHTS_FILE).read_bytes()
        network, recorded = load(tmp_path)
        assert recorded == spec
        views = [torch.sigmoid(bare(frames.flip(axes))).flip(axes) for axes in FLIPS[flips]]
        torch.testing.assert_close(torch.sigmoid(network(frames)), sum(views) / len(views), atol=1e-5, rtol=0)
        if flips:
            mirrored = network(frames.flip(FLIPS[flips][1])).flip(FLIPS[flips][1])
            torch.testing.assert_close(network(frames), mirrored, atol=1e-4, rtol=0)
            assert (views[0] - sum(views) / len(views)).abs().max() > 1e-3, "flips matter"

    @pytest.mark.parametrize(("recorded", "flips"), [(True, ("horizontal", "vertical")), (False, ())])
    def test_a_model_of_before_keeps_its_four_views(
        self, recorded: bool, flips: tuple[Flip, ...], parts: list[Path], tmp_path: Path
    ) -> None:
        record = json.loads((parts[0] / SPEC_FILE).read_text())
        (tmp_path / SPEC_FILE).write_text(json.dumps(record | {"flips": recorded}))
        assert read_spec(tmp_path).flips == flips

    @pytest.mark.parametrize("flips", FLIPS, ids="-".join)
    @torch.inference_mode()
    def test_an_ensemble_is_the_mean_of_its_members(
        self, flips: tuple[Flip, ...], parts: list[Path], frames: torch.Tensor, tmp_path: Path
    ) -> None:
        save_ensemble(parts, LITTLE.model_copy(update={"flips": flips, "threshold": 0.4}), tmp_path)
        network, spec = load(tmp_path)
        assert (spec.members, spec.flips, spec.threshold) == (3, flips, 0.4)
        found = [
            torch.sigmoid(member(frames.flip(axis))).flip(axis)
            for member in (load(part)[0] for part in parts)
            for axis in FLIPS[flips]
        ]
        torch.testing.assert_close(torch.sigmoid(network(frames)), sum(found) / len(found), atol=1e-5, rtol=0)

    @torch.inference_mode()
    def test_logits_are_finite_if_the_members_are_certain(self) -> None:
        class Sure(torch.nn.Module):
            def forward(self, frames: torch.Tensor) -> torch.Tensor:
                return 1000 * frames

        logits = Averaged([Sure()], flips=("horizontal",))(
            torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2).repeat(1, 1, 2, 1)
        )
        assert logits.isfinite().all()
        assert torch.sigmoid(Averaged([Sure()], flips=())(torch.full((1, 1, 2, 2), 1.0))).min() > 0.9999

    def test_networks_of_another_kind_are_rejected(self, parts: list[Path], tmp_path: Path) -> None:
        with pytest.raises(NervesegError, match=r"model\.json describes a different kind of network"):
            save_ensemble(parts, LITTLE.model_copy(update={"width": 96}), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_an_ensemble_without_one_of_its_members_is_rejected(self, parts: list[Path], tmp_path: Path) -> None:
        save_ensemble(parts, LITTLE, tmp_path)
        record = json.loads((tmp_path / SPEC_FILE).read_text())
        (tmp_path / SPEC_FILE).write_text(json.dumps(record | {"members": 4}))
        with pytest.raises(NervesegError, match=f"{WEIGHTS_FILE} does not contain the network"):
            load(tmp_path)

    def test_a_spec_from_an_older_version_is_a_single_network(self, parts: list[Path], tmp_path: Path) -> None:
        shutil.copytree(parts[0], tmp_path, dirs_exist_ok=True)
        record = json.loads((tmp_path / SPEC_FILE).read_text())
        for name in ("flips", "members", "plausibility"):
            del record[name]
        (tmp_path / SPEC_FILE).write_text(json.dumps(record))
        network, spec = load(tmp_path)
        assert spec == LITTLE
        assert set(network.state_dict()) == set(build(LITTLE).state_dict())
