import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sketchguide.backbones.unet import UNetBackbone
from sketchguide.controls.edges import LatentGuide
from sketchguide.errors import MismatchError, ModelNotFoundError, OutputError, TapError, UsageError, WeightsError
from sketchguide.levels import Level
from sketchguide.predictors import (
    FILE_NAME,
    PAPER_TAPS,
    LatentPredictor,
    PredictorConfig,
    choose_taps,
    encode_noise,
    token_grid,
)
from sketchguide.sampling import sample
from sketchguide.seeds import generators, noise
from sketchguide.taps import TapInfo, tapped
from sketchguide.weights import is_hub_id, read_weights, write_weights
from support import MakePredictor, Tiny

GRID = (16, 16)


def features_of(backbone: UNetBackbone, latent: Tensor, level: Level, paths: tuple[str, ...]) -> dict[str, Tensor]:
    prompts = ["a cat"] * len(latent)
    with tapped(backbone.network, paths) as features:
        backbone.predict(latent, level, backbone.describe(prompts))
    return features


def buffers(predictor: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in predictor.named_buffers()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------- defects of public ports (methods.md)


@pytest.fixture(scope="module")
def stable_diffusion_1() -> UNet2DConditionModel:
    """The true architecture without weights: shapes are all that it can compute."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )


def look(network: UNet2DConditionModel, paths: tuple[str, ...], grid: tuple[int, int]) -> dict[str, Tensor]:
    with torch.no_grad(), tapped(network, paths) as features:
        network(
            torch.zeros(1, 4, *grid, device="meta"),
            torch.zeros(1, device="meta"),
            torch.zeros(1, 77, 768, device="meta"),
        )
    return features


def test_defect_whole_down_blocks_hooked(stable_diffusion_1: UNet2DConditionModel) -> None:
    """Ports hook whole down blocks: half-resolution features, whose channels still sum to 9280."""
    features = look(stable_diffusion_1, PAPER_TAPS, (64, 64))
    channels = [features[path].shape[1] for path in PAPER_TAPS]
    assert channels == [320, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640]
    assert sum(channels) == 9280
    sides = [64, 32, 16, 8, 8, 8, 16, 16, 64]
    assert [tuple(features[path].shape[2:]) for path in PAPER_TAPS] == [(side, side) for side in sides]
    with pytest.raises(TapError, match=r"down_blocks\.0"):
        look(stable_diffusion_1, ("down_blocks.0",), (64, 64))


def test_defect_square_images_only(
    tiny: Tiny, predictor: LatentPredictor, stable_diffusion_1: UNet2DConditionModel
) -> None:
    features = look(stable_diffusion_1, PAPER_TAPS, (48, 72))
    assert tuple(features[PAPER_TAPS[3]].shape[2:]) == (6, 9)
    for grid in ((16, 32), (24, 16)):
        level = tiny().level(0.2)
        with torch.no_grad():
            features = features_of(tiny(), noise(generators([1]), (4, *grid)), level, predictor.config.taps)
        assert predictor(features, level, grid).shape == (1, 4, *grid)


def test_defect_detached_features(tiny: Tiny, predictor: LatentPredictor) -> None:
    """The gradient reaches the latent, and is the derivative of the loss."""
    backbone, level = tiny(), tiny().level(0.3)
    (begin,) = noise(generators([5]), (1, 4, *GRID))
    target = torch.zeros(1, 4, *GRID)

    def loss(latent: Tensor) -> Tensor:
        features = features_of(backbone, latent, level, predictor.config.taps)
        return (predictor(features, level, GRID) - target).square().sum()

    latent = begin.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latent), latent)
    assert gradient.abs().min() > 0
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (loss(begin + 0.02 * direction) - loss(begin - 0.02 * direction)) / 0.04
    assert float(slope) == pytest.approx(float(gradient.norm()), rel=0.05)


@pytest.mark.parametrize("trained", [True, False], ids=["loaded", "new"])
def test_defect_batchnorm_in_train_mode_at_inference(
    tiny: Tiny, predictor: LatentPredictor, tmp_path: Path, trained: bool
) -> None:
    if trained:
        predictor.save_pretrained(tmp_path)
        one = LatentPredictor.from_pretrained(tmp_path)
    else:
        one = LatentPredictor(predictor.config)
    before = buffers(one)

    def last(seeds: list[int]) -> Tensor:
        target = torch.zeros(1, 4, *GRID)
        condition = tiny().describe(["a cat"] * len(seeds))
        begin = noise(generators(seeds), (4, *GRID))
        *_, moment = sample(tiny(), condition, begin, tiny().levels(2), guides=[LatentGuide(one, target)])
        return moment.latent

    assert torch.allclose(last([1, 2])[:1], last([1]), rtol=1e-3, atol=1e-3)  # neighbours in the batch do not matter
    assert same(buffers(one), before)


def test_defect_realised_noise_fed_to_the_mlp(tiny: Tiny, predictor: LatentPredictor) -> None:
    """What the MLP is told is a function of the noise level alone."""
    level = tiny().level(0.25)
    with torch.no_grad():
        features = features_of(tiny(), noise(generators([1, 2]), (4, *GRID)), level, predictor.config.taps)
        told = predictor(features, level, GRID)
        assert torch.equal(predictor(features, level._replace(sigma=0.1, alpha=0.9), GRID), told)
        assert not torch.allclose(predictor(features, tiny().level(0.75), GRID), told, atol=1e-3)


def test_the_noise_encoding_is_the_papers() -> None:
    times = torch.tensor([1.0, 250.0, 999.0])
    expected = torch.sin(2 * torch.pi * times.double()[:, None] * 2.0 ** -torch.arange(1, 11))
    assert encode_noise(times).shape == (3, 10)
    assert torch.allclose(encode_noise(times).double(), expected, atol=1e-3)
    assert len({tuple(row) for row in encode_noise(torch.arange(1000.0)).mul(500).round().tolist()}) > 990


def test_defect_batch_of_one_only(tiny: Tiny, predictor: LatentPredictor) -> None:
    """Three images, each with a noise level of its own, as training sees them."""
    times, latent = torch.tensor([900.0, 500.0, 100.0]), noise(generators([1, 2, 3]), (4, *GRID))
    paths = predictor.config.taps
    with torch.no_grad():
        condition = tiny().describe(["a cat", "a dog", "two birds"])
        with tapped(tiny().network, paths) as features:
            tiny().run(latent, times, condition)
        all_three = predictor.predict_at(features, times, GRID)
        for row in range(3):
            alone = predictor.predict_at({p: f[row : row + 1] for p, f in features.items()}, times[row : row + 1], GRID)
            assert torch.allclose(all_three[row : row + 1], alone, atol=1e-4)


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "as-is"])
def test_defect_half_precision_overflow(make_predictor: MakePredictor, normalize: bool) -> None:
    """Activations near the largest half float give finite loss and gradients."""
    predictor = make_predictor(taps=("a", "b"), channels=(64, 64), normalize_taps=normalize)
    rng = torch.Generator().manual_seed(0)
    features = {
        path: (torch.randn(2, 64, 8, 8, generator=rng) * 3e4).clamp(-6e4, 6e4).half().requires_grad_() for path in "ab"
    }
    loss = predictor(features, Level(500.0, 0.6, 0.8, 0.5), (8, 8)).square().mean(dim=(1, 2, 3))
    assert loss.isfinite().all()
    for gradient in torch.autograd.grad(loss.sum(), list(features.values())):
        assert gradient.isfinite().all()


# -------------------------------------------------------------------------------------------------------------- taps


def test_a_network_of_another_shape_gets_one_tap_per_stage() -> None:
    taps = [
        TapInfo("conv_in", 8, 1),
        TapInfo("down_blocks.0.resnets.0", 8, 1),
        TapInfo("down_blocks.0.resnets.0.conv1", 8, 1),
        TapInfo("down_blocks.1.resnets.0", 16, 2),
        TapInfo("down_blocks.1.attentions.0", 16, 2),
        TapInfo("mid_block.resnets.0", 16, 2),
        TapInfo("mid_block.attentions.0", 16, 2),
        TapInfo("mid_block.resnets.1", 16, 2),
        TapInfo("up_blocks.0.resnets.0", 16, 2),
        TapInfo("up_blocks.0.resnets.1", 16, 2),
        TapInfo("up_blocks.1.resnets.0", 8, 1),
    ]
    assert [tap.path for tap in choose_taps(taps)] == [
        "down_blocks.0.resnets.0",
        "down_blocks.1.attentions.0",
        "mid_block.resnets.0",
        "mid_block.attentions.0",
        "mid_block.resnets.1",
        "up_blocks.0.resnets.1",
        "up_blocks.1.resnets.0",
    ]


def test_the_papers_taps_are_chosen_where_they_exist(tiny: Tiny) -> None:
    assert tuple(tap.path for tap in choose_taps(tiny().taps)) == PAPER_TAPS


def test_a_network_without_stages_needs_named_taps() -> None:
    with pytest.raises(UsageError, match="no stages of a UNet or blocks of a transformer"):
        choose_taps([TapInfo("blocks.0", 64, 2)])


def test_tokens_find_their_grid() -> None:
    assert token_grid(16 * 24, (32, 48)) == (16, 24)
    assert token_grid(32 * 48, (32, 48)) == (32, 48)
    with pytest.raises(UsageError, match="77 tokens"):
        token_grid(77, (32, 48))


@pytest.mark.parametrize("values", [{"taps": ()}, {"channels": (3, 4)}, {"widths": ()}, {"reads": "lines"}], ids=str)
def test_a_configuration_that_contradicts_itself_is_refused(predictor: LatentPredictor, values: Any) -> None:
    with pytest.raises(UsageError) as caught:
        replace(predictor.config, **values)
    assert caught.value.field in ("taps", "widths", "reads")


def test_a_reader_of_ink_says_of_every_pixel_how_likely_it_is_ink(
    tiny: Tiny, predictor: LatentPredictor, make_predictor: MakePredictor
) -> None:
    backbone = tiny()
    reader = make_predictor(reads="ink", stride=backbone.stride, clean_widths=(8,))
    assert reader.config.target_shape((8, 12)) == (1, 8 * backbone.stride, 12 * backbone.stride)
    latent, level = noise(generators([1, 2]), (4, 8, 12)), backbone.level(0.4)
    features = features_of(backbone, latent, level, reader.config.taps)
    for read, last in (
        (reader(features, level, (8, 12)), reader.rest),
        (reader.read_clean(latent), reader.clean),
    ):
        assert read.shape == (2, 1, 8 * backbone.stride, 12 * backbone.stride)
        bias = last[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            kept = bias.clone()
            bias[1] += 5  # the second of a latent pixel's: the one right of its corner
        moved = (reader(features, level, (8, 12)) if last is reader.rest else reader.read_clean(latent)) - read
        with torch.no_grad():
            bias.copy_(kept)
        assert torch.allclose(moved[..., 0 :: backbone.stride, 1 :: backbone.stride], torch.tensor(5.0), atol=1e-4)
        assert float(moved.abs().sum()) == pytest.approx(5 * 2 * 8 * 12, rel=1e-4)
    assert predictor.config.target_shape((8, 12)) == (4, 8, 12)


def test_the_error_of_ink_is_minus_its_log_likelihood(
    predictor: LatentPredictor, make_predictor: MakePredictor
) -> None:
    reader = make_predictor(reads="ink", stride=2)
    odds, ink = torch.tensor([[[[0.0, 3.0], [-3.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0], [1.0, 0.25]]]])
    likely = odds.sigmoid()
    wanted = -(ink * likely.log() + (1 - ink) * (1 - likely).log())
    assert torch.allclose(reader.error(odds, ink), wanted, atol=1e-6)
    assert torch.equal(predictor.error(odds, ink), (odds - ink).square())


def test_a_reader_of_ink_fits_where_a_latent_pixel_is_as_many_pixels(
    tiny: Tiny, make_predictor: MakePredictor, tmp_path: Path
) -> None:
    backbone = tiny()
    reader = make_predictor(reads="ink", stride=backbone.stride, clean_widths=(8,))
    reader.check_fits(backbone)
    wide = f"latent pixels are {2 * backbone.stride} pixels wide, here they are {backbone.stride}"
    with pytest.raises(MismatchError, match=wide):
        make_predictor(reads="ink", stride=2 * backbone.stride).check_fits(backbone)
    loaded = LatentPredictor.from_pretrained(reader.save_pretrained(tmp_path))
    assert loaded.config == reader.config


# ------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def saved(make_predictor: MakePredictor, tmp_path: Path) -> Path:
    predictor = make_predictor(taps=("mid_block.resnets.0",), channels=(32,))
    return predictor.save_pretrained(tmp_path / "one", card="# A predictor")


def test_a_predictor_loads_from_a_folder_and_from_its_file(saved: Path) -> None:
    for source in (saved, saved.parent, str(saved.parent)):
        loaded = LatentPredictor.from_pretrained(source)
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
    assert (saved.parent / "README.md").read_text() == "# A predictor"
    assert sorted(file.name for file in saved.parent.iterdir()) == ["README.md", FILE_NAME]


def test_a_predictor_that_reads_the_picture_too_loads_again(make_predictor: MakePredictor, tmp_path: Path) -> None:
    predictor = make_predictor(clean_widths=(8, 4))
    loaded = LatentPredictor.from_pretrained(predictor.save_pretrained(tmp_path))
    assert loaded.config == predictor.config
    clean = noise(generators([1, 2]), (4, 6, 10))
    assert torch.equal(loaded.read_clean(clean), predictor.read_clean(clean))


def test_a_file_from_before_that_still_loads(saved: Path) -> None:
    tensors, header = read_weights(saved, field="predictor")
    config = json.loads(header["sketchguide"])
    for name in ("normalize_taps", "clean_widths", "reads", "stride"):
        del config[name]
    write_weights(tensors, saved, metadata={"sketchguide": json.dumps(config)}, field="output")
    loaded = LatentPredictor.from_pretrained(saved).config
    assert (loaded.normalize_taps, loaded.clean_widths, loaded.reads) == (False, (), "latent")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def truncate_in_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps(load_file(file)))


def flip_a_header_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[8] ^= 0x04
    file.write_bytes(data)


def not_finite(file: Path) -> None:
    tensors = load_file(file)
    tensors["rest.1.weight"][0] = float("nan")
    save_file(tensors, file, metadata={"sketchguide": describe(file)})


def other_header(**values: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        save_file(load_file(file), file, metadata={"sketchguide": json.dumps(json.loads(describe(file)) | values)})

    return change


def raw_header(text: str | None) -> Callable[[Path], None]:
    return lambda file: save_file(load_file(file), file, metadata=None if text is None else {"sketchguide": text})


def describe(file: Path) -> str:
    config = PredictorConfig(("mid_block.resnets.0",), (32,), 4, "unet", "tiny", widths=(16, 8))
    assert file.exists()
    return json.dumps({"kind": "latent-predictor", "version": 1, **asdict(config)})


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        truncate_in_header,
        empty,
        pickled,
        flip_a_header_bit,
        not_finite,
        raw_header(None),
        raw_header("{"),
        raw_header("[]"),
        raw_header("5"),
        other_header(kind="lora"),
        other_header(version=2),
        other_header(surprise=1),
        other_header(taps=[]),
        other_header(channels=[33]),
        other_header(channels=["a"]),
        other_header(channels=[-1]),
        other_header(widths=[16, 9]),
        other_header(widths=[2**20 - 1, 2**20 - 1]),
        other_header(window=[0.0]),
        other_header(window=["a", "b"]),
        other_header(window=[0.9, 0.1]),
        other_header(reads="lines"),
        other_header(reads="ink", stride=3),
        other_header(reads="ink", stride=2**13),
        other_header(reads="ink", stride="a"),
    ],
    ids=[
        "truncated",
        "truncated-header",
        "empty",
        "pickled",
        "bit-flip",
        "nan",
        "no-header",
        "no-json",
        "list",
        "number",
        "other-kind",
        "newer",
        "unknown-field",
        "no-taps",
        "other-channels",
        "channels-are-text",
        "negative-channels",
        "other-widths",
        "widths-beyond-measure",
        "half-a-window",
        "window-is-text",
        "window-turned-round",
        "other-reading",
        "other-stride",
        "stride-beyond-measure",
        "stride-is-text",
    ],
)
def test_a_damaged_file_is_refused_by_name(saved: Path, damage: Callable[[Path], None]) -> None:
    LatentPredictor.from_pretrained(saved)
    damage(saved)
    with pytest.raises(WeightsError) as caught:
        LatentPredictor.from_pretrained(saved)
    assert str(saved) in caught.value.message
    assert ".." not in caught.value.message.replace(str(saved), "")
    assert caught.value.field == "predictor"


@pytest.mark.parametrize(
    "name",
    ["nothing-of-that-name", "../nothing", "some/deep/path", "/nowhere", "owner/..", "owner/two words", "a/b.bin"],
)
def test_unknown_names_are_refused_before_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError) as caught:
        LatentPredictor.from_pretrained(name)
    assert caught.value.hint


@pytest.mark.parametrize(
    "name", ["runs/my--edges", "runs/edges.", "runs/-edges", ".runs/edges", "lines/médge", "a/" + "b" * 100]
)
def test_folders_that_are_not_there_are_not_taken_for_hub_ids(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match=f"No (predictor at|folder) {name!r}"):
        LatentPredictor.from_pretrained(name)
    assert is_hub_id(name) == (len(name) > 100)  # for its length the hub's own check answers


@pytest.mark.parametrize("name", ["someone/edges", "someone/edges-sd-v1.5"])
def test_hub_ids_are_fetched(saved: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(saved)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert LatentPredictor.from_pretrained(name).config.backbone == "tiny"
    assert asked == [(name, FILE_NAME)]


def test_an_unreachable_hub_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, file: str) -> str:
        raise ConnectionError(f"no route for {repo}/{file}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(ModelNotFoundError, match="someone/edges"):
        LatentPredictor.from_pretrained("someone/edges")


class Hub:
    """Stands in for `huggingface_hub.HfApi`."""

    calls: list[tuple[str, Any]]
    error: Exception | None = None

    def __init__(self) -> None:
        type(self).calls = []

    def create_repo(self, repo_id: str, **settings: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append((repo_id, settings))

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str]) -> str:
        files = (file.name for file in Path(folder_path).iterdir())
        self.calls.append((repo_id, sorted(name for name in files if name in allow_patterns)))
        return f"https://hub/{repo_id}"


def test_a_predictor_goes_to_the_hub_with_its_card(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    predictor = LatentPredictor.from_pretrained(saved)
    assert predictor.push_to_hub("me/edges", folder=saved.parent, private=True) == "https://hub/me/edges"
    assert Hub.calls == [("me/edges", {"private": True, "exist_ok": True}), ("me/edges", ["README.md", FILE_NAME])]


def test_a_push_that_fails_says_so(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "error", ConnectionError("no route"))
    with pytest.raises(OutputError, match="me/edges"):
        LatentPredictor.from_pretrained(saved).push_to_hub("me/edges", folder=saved.parent)


def test_a_folder_that_cannot_be_written_is_named(predictor: LatentPredictor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        predictor.save_pretrained(tmp_path / "file")


def test_a_card_that_cannot_be_written_is_named(predictor: LatentPredictor, tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    with pytest.raises(OutputError, match="card"):
        predictor.save_pretrained(tmp_path, card="# Card")
