from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sketchguide.backbones.tiny import tiny_stable_diffusion
from sketchguide.errors import TapError
from sketchguide.taps import TapInfo, survey, tapped
from support import hook_count


class Net(nn.Module):
    """Two layers, one that yields a pair, one that yields (tensor,), and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
        self.pair = Pair()
        self.single = Single()
        self.idle = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.body["second"](self.body["first"](x))
        (single,) = self.single(x)
        return single + self.pair(x)[0]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x


class Single(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


X = torch.tensor([[1.0, 2.0, 3.0]])


def test_outputs_are_recorded_with_their_graph(net: Net) -> None:
    with tapped(net, ["body.first", "single"]) as record:
        net(X)
    assert record.keys() == {"body.first", "single"}
    assert torch.equal(record["body.first"], net.body["first"](X))
    assert record["body.first"].grad_fn is not None
    assert isinstance(record["single"], Tensor)


def test_rewrites_change_what_follows_and_what_is_read(net: Net) -> None:
    with tapped(
        net, ["body.first"], {"body.first": lambda value: 0 * value, "single": lambda value: value + 1}
    ) as record:
        out = net(X)
    assert torch.equal(record["body.first"], torch.zeros(1, 3))
    assert torch.allclose(out, 2 * net.body["second"](torch.zeros(1, 3)) + 1)


def test_hooks_live_as_long_as_the_block(net: Net) -> None:
    with tapped(net, ["body.first"], {"single": lambda value: value}):
        assert hook_count(net) == 2
        net(X)
    assert hook_count(net) == 0
    with pytest.raises(KeyboardInterrupt), tapped(net, ["body.first"]):
        raise KeyboardInterrupt
    assert hook_count(net) == 0


def test_blocks_nest(net: Net) -> None:
    with tapped(net, ["body.first"]) as outer:
        with tapped(net, ["body.first"], {"body.first": lambda value: value + 1}) as inner:
            net(X)
        assert hook_count(net) == 1
    assert torch.equal(inner["body.first"], outer["body.first"] + 1)


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("body.third", r"Net has no submodule 'body\.third'", "first, second"),
        ("nowhere.at.all", r"'nowhere\.at\.all'", "body, pair, single, idle"),
        ("body.first.weight", r"'body\.first\.weight'", "nothing"),
        ("pair", "'pair' yields a tuple, not a tensor", "inner"),
        ("idle", "never reached in this pass: idle", "unfuse"),
    ],
)
@pytest.mark.parametrize("role", ["read", "rewrite"])
def test_bad_taps_are_named_with_a_way_out(net: Net, path: str, message: str, hint: str, role: str) -> None:
    arguments: Any = ([path], {}) if role == "read" else ((), {path: lambda value: value})
    with pytest.raises(TapError, match=message) as caught, tapped(net, *arguments):
        net(X)
    assert hint in caught.value.hint
    assert caught.value.field == "taps"
    assert hook_count(net) == 0


def test_an_error_inside_is_not_hidden_by_a_tap_not_reached(net: Net) -> None:
    with pytest.raises(ZeroDivisionError), tapped(net, ["idle"]):
        raise ZeroDivisionError


def test_a_module_that_is_called_twice_is_surveyed_as_it_is_read() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.down = nn.ReLU(), nn.Conv2d(3, 6, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.down(self.act(x)))

    net, x = Twice(), torch.zeros(1, 3, 8, 12)
    with tapped(net, ("act",)) as record:
        net(x)
    assert record["act"].shape == (1, 6, 4, 6)
    assert TapInfo("act", 6, 2) in survey(net, lambda: net(x), grid=(8, 12))


def test_a_survey_finds_channels_and_strides() -> None:
    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
            self.tokens = nn.Linear(16, 5)
            self.text = nn.Linear(2, 7)
            self.time = nn.Linear(1, 9)
            self.pair = Pair()
            self.last = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.down(self.conv(x))
            self.last(x.permute(0, 2, 3, 1))
            self.text(torch.zeros(1, 11, 2))
            self.time(torch.zeros(1, 1))
            self.pair(x)
            return self.tokens(x.flatten(2).transpose(1, 2))

    net = Picture()
    assert survey(net, lambda: net(torch.zeros(1, 3, 8, 12)), grid=(8, 12)) == [
        TapInfo("conv", 8, 1),
        TapInfo("down", 16, 2),
        TapInfo("last", 4, None),  # channels come last: it is no map of the grid
        TapInfo("text", 7, None),
        TapInfo("time", 9, None),
        TapInfo("pair.inner", 16, 2),
        TapInfo("tokens", 5, 2),
    ]
    assert hook_count(net) == 0


def test_a_network_that_is_run_again_for_its_gradient_cannot_be_rewritten() -> None:
    network = tiny_stable_diffusion().unet
    network.enable_gradient_checkpointing()
    rewrites = {"mid_block.attentions.0": lambda value: value}
    with pytest.raises(TapError, match="checkpointing"), tapped(network, (), rewrites):
        pass
    with pytest.raises(TapError, match="never reached"), torch.no_grad(), tapped(network, (), rewrites):
        pass
