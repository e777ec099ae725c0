from dataclasses import fields

import pytest
import torch

from sketchguide.backbones.around import Around, Remembering
from sketchguide.backbones.base import Backbone
from sketchguide.errors import UsageError
from support import Tiny


def test_what_it_does_not_say_it_passes_on(tiny: Tiny) -> None:
    backbone = tiny()
    around: Backbone = Around(backbone)
    assert [one.name for one in fields(Around)] == ["inner"]
    for name in ("name", "family", "network", "taps", "device", "dtype", "stride", "default_size", "prediction_kind"):
        assert getattr(around, name) == getattr(backbone, name)
    told, level = around.describe(["a cat"]), around.level(0.5)
    latent = torch.ones(1, 4, 16, 16)
    assert torch.equal(around.predict(latent, level, told).clean, backbone.predict(latent, level, told).clean)
    assert around.levels(3) == backbone.levels(3)
    assert around.unread(["a " * 100]) == backbone.unread(["a " * 100])


def test_of_many_prompts_the_last_ones_are_kept(tiny: Tiny) -> None:
    """What a large encoder says of one takes megabytes."""
    backbone = Remembering(tiny())
    read: list[int] = []
    counting = tiny().networks["text_encoder"].register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    for number in range(20):
        backbone.describe([""])  # of the negative pass
        backbone.describe([f"{number} cats"])
    counting.remove()
    assert len(read) == 21
    assert len(backbone._known) == 4


def test_the_same_prompts_are_read_once(tiny: Tiny) -> None:
    backbone = Remembering(tiny())
    passes: list[int] = []
    encoder = tiny().networks["text_encoder"]
    counting = encoder.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    first = backbone.describe(["a cat", "a dog", "a cat"])
    again = backbone.describe(["a dog", "a cat"] * 2)
    alone = backbone.describe(["a cat"] * 3)
    counting.remove()
    assert passes == [2, 2, 1]  # in another order they are other prompts
    assert [len(told) for told in (first, again, alone)] == [3, 4, 3]
    assert torch.equal(first.embedding[0], first.embedding[2])
    assert not torch.allclose(first.embedding[0], first.embedding[1])
    for told, row in ((first, 0), (again, 1), (alone, 2)):
        plain = tiny().describe(["a cat"])
        torch.testing.assert_close(told.embedding[row], plain.embedding[0], rtol=0, atol=1e-5)


def test_it_refuses_what_the_other_refuses(tiny: Tiny) -> None:
    for wrong in ("a cat", []):
        with pytest.raises(UsageError):
            Remembering(tiny()).describe(wrong)
