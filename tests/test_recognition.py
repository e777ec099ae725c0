"""Pictures that are tried again until they show what their prompt names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from sketchguide.backbones.base import Backbone
from sketchguide.classifiers import IconClassifier, load_classifier, save_classifier
from sketchguide.controls.base import Guide
from sketchguide.controls.edges import LatentGuide
from sketchguide.defaults import DType
from sketchguide.editing import edit
from sketchguide.errors import ModelNotFoundError, SketchguideWarning, UsageError
from sketchguide.fingerprints import fingerprint_of_model
from sketchguide.generation import Progress, generate, run
from sketchguide.guidance import at_try, controls_of
from sketchguide.images import to_images, to_tensor
from sketchguide.levels import Level
from sketchguide.loading import load_backbone
from sketchguide.pictures import Picture, recall
from sketchguide.predictors import LatentPredictor
from sketchguide.recognition import (
    KEPT,
    LATER,
    Attempt,
    Recogniser,
    Tried,
    easing_of,
    find_recogniser,
    resumed,
    walk_until_recognised,
    warn_of_unknown,
    words_of,
)
from sketchguide.request import Request
from sketchguide.sampling import Evaluations, Moment
from sketchguide.seeds import another, generators, noise_like
from sketchguide.sketch import Sketch
from sketchguide.solvers import Carried
from sketchguide.translation import translate
from sketchguide.walking import first_latent, walk
from support import CROSS, Tiny, attention_for, save_adapter

NETWORK = "small"
SIZE = (32, 32)
END = Level(0.0, 1.0, 0.0, 1.0)


class Sees(Recogniser):
    """Is as sure of a picture as its one value says."""

    def confidence(self, pictures: Tensor, classes: Sequence[int]) -> Tensor:
        assert len(classes) == len(pictures)
        return pictures.flatten(1).mean(dim=1)


def sees(tries: int, sure: float) -> Recogniser:
    return Sees(IconClassifier(["cat", "dog"]), tries, sure)


def walked(
    table: list[list[float]], recogniser: Recogniser | None, *, easing: bool = True
) -> tuple[list[tuple[int, list[int]]], Tried]:
    """Rows are as recognisable at each try as `table` says; which tries had which rows, and what came of it."""

    def walk(rows: Sequence[int], number: int, first: Sequence[Tensor]) -> Iterator[Moment]:
        if number > 1:
            assert [one.flatten().tolist() for one in first] == [pytest.approx([value - 1 for value in table[0]])]
        values = table[number - 1]
        latent = torch.tensor([values[row] for row in rows])[:, None, None, None] - 1
        yield Moment(latent, latent, END, Evaluations(2, 1))

    def finish(latent: Tensor) -> Tensor:
        return latent + 1

    *attempts, tried = walk_until_recognised(walk, finish, ["a cat"] * len(table[0]), recogniser, easing=easing)
    assert isinstance(tried, Tried)
    return [(one.number, list(one.rows)) for one in attempts if isinstance(one, Attempt)], tried


def test_only_what_is_not_recognised_is_tried_again_and_the_best_is_kept():
    table = [[0.9, 0.5, 0.45, 0.7], [0.0, 0.8, 0.5, 0.1], [0.0, 0.0, 0.1, 0.2]]
    attempts, tried = walked(table, sees(3, 0.8))
    assert attempts == [(1, [0, 1, 2, 3]), (2, [1, 2, 3]), (3, [2, 3])]
    assert tried.pictures.flatten().tolist() == pytest.approx([0.9, 0.8, 0.5, 0.7])
    assert torch.equal(tried.latent, tried.pictures - 1)
    assert tried.tries == (1, 2, 2, 1)
    assert tried.confidence == pytest.approx((0.9, 0.8, 0.5, 0.7))
    assert tried.evaluations == Evaluations(6, 3)


def test_what_is_far_from_recognised_is_eased_at_once():
    """Of five tries: one that is hardly recognised skips every second, one that nearly is none, and none the last."""
    table = [[0.1, 0.5, 0.1, 0.39], [0.9, 0.5, 0.9, 0.9], [0.2, 0.7, 0.5, 0.9], [0.9, 0.3, 0.2, 0.9], [0.9] * 4]
    attempts, tried = walked(table, sees(5, 0.8))
    assert attempts == [(1, [0, 1, 2, 3]), (2, [1]), (3, [0, 1, 2, 3]), (4, [1, 2]), (5, [0, 1, 2])]
    assert tried.tries == (5, 5, 5, 3)
    attempts, tried = walked(table, sees(4, 0.8))
    assert attempts == [(1, [0, 1, 2, 3]), (2, [1]), (3, [0, 1, 2, 3]), (4, [0, 1, 2])]
    assert tried.tries == (4, 3, 3, 3)
    attempts, _ = walked(table, sees(5, 0.8), easing=False)
    assert attempts == [(1, [0, 1, 2, 3]), (2, [0, 1, 2, 3]), (3, [1]), (4, [1]), (5, [1])]


def test_no_try_is_made_in_vain():
    attempts, tried = walked([[0.9, 0.8]], sees(5, 0.8))
    assert attempts == [(1, [0, 1])]
    assert tried.tries == (1, 1)
    attempts, tried = walked([[0.1, 0.2]], None)
    assert attempts == [(1, [0, 1])]
    assert tried.confidence == ()


def test_each_try_goes_back_further_and_the_last_to_the_noise():
    for tries in (1, 2, 3, 5, 20):
        assert easing_of(1, tries) == (0, 1)
        kept = [easing_of(number, tries).kept for number in range(2, tries + 1)]
        assert kept == sorted(set(kept), reverse=True)
        assert kept[-1:] in ([], [0])
        assert {easing_of(number, tries).share for number in range(2, tries + 1)} <= {LATER}
    assert easing_of(2, 5).kept == easing_of(2, 3).kept == KEPT


def classifier(names: list[str]) -> IconClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return IconClassifier(names)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    save_classifier(classifier(["cat", "dog", "coffee cup, mug"]), tmp_path / "recogniser.safetensors")
    return tmp_path


def draw(tiny: Tiny, predictor: LatentPredictor, **settings: Any) -> list[Picture]:
    given = {"sketch": CROSS, "seed": 7, "steps": 2, "size": SIZE, **settings}
    return generate("a mug", backbone=tiny(), predictor=predictor if given["sketch"] else None, **given)


def of_no_drawing(tiny: Tiny, predictor: LatentPredictor, parts: Path, seed: int) -> Picture:
    """The best of three."""
    settings = {"sketch": None, "size": None, "seed": seed, "tries": 3, "sure": 1, "recogniser": str(parts)}
    with pytest.warns(SketchguideWarning, match="the best of its tries"):
        return draw(tiny, predictor, **settings)[0]


def pixels(picture: Picture) -> Any:
    return np.asarray(picture.image).astype(np.int16)


def test_a_picture_is_that_of_the_strength_at_which_it_was_kept(tiny: Tiny, predictor: LatentPredictor, parts: Path):
    message = r"seed \d+ may not show 'a mug': at the best of its tries it is recognised with \d+%"
    for seed in range(7, 27):
        with pytest.warns(SketchguideWarning, match=message):
            (kept,) = draw(tiny, predictor, tries=3, sure=1, recogniser=str(parts), strength=6, seed=seed)
        if kept.tried == 3:
            break
    assert kept.tried == 3
    assert kept.confidence is not None
    assert 0 < kept.confidence < 1
    (same,) = draw(tiny, predictor, strength=6 * LATER, seed=seed)
    assert np.array_equal(pixels(kept), pixels(same))
    assert kept.evaluations.conditional == 4  # the second try is passed over
    (first,) = draw(tiny, predictor, tries=3, sure=0, recogniser=str(parts), strength=6)
    (plain,) = draw(tiny, predictor, strength=6)
    assert np.array_equal(pixels(first), pixels(plain))
    assert (first.tried, first.evaluations) == (1, plain.evaluations)


@dataclass(frozen=True)
class Later:
    """`strength`, and a quarter of it, which rounds nothing, from some progress on."""

    strength: Any
    progress: float

    def __call__(self, gradient: Tensor, move: Tensor, now: Level, carried: Carried) -> Tensor:
        whole = self.strength(gradient, move, now, carried)
        return whole if now.progress < self.progress else 0.25 * whole


@pytest.mark.parametrize("solver", ["ddim", "euler-karras"])
def test_a_try_in_between_is_the_first_one_that_pulls_less_from_some_step_on(
    tiny: Tiny, predictor: LatentPredictor, solver: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sketchguide.recognition.LATER", 0.25)
    request = Request.checked(
        prompt="a mug", seed=7, steps=6, size=SIZE, strength=6, every=1, stop=0.9, tries=4, solver=solver
    )
    controls = controls_of(request, tiny(), CROSS.rasterize(size=SIZE), predictor)
    (guide,) = cast(list[LatentGuide], controls.guides)
    first = [moment.latent for moment in of_two(request, tiny(), [guide])]
    for number, kept in ((2, 4), (3, 2), (4, 0)):
        one = at_try(number, request, controls, [7, 8])
        assert (one.seeds, one.kept) == ([7, 8], kept)
        *steps, last = of_two(request, tiny(), one.controls.guides, begun=resumed(first, [0, 1], kept))
        assert len(steps) + 1 == 6 - kept
        *_, whole = of_two(request, tiny(), [replace(guide, strength=Later(guide.strength, kept / 6))])
        assert torch.equal(last.latent, whole.latent)
        *_, second = of_two(request, tiny(), one.controls.guides, begun=resumed(first, [1], kept), rows=[1])
        torch.testing.assert_close(second.latent, whole.latent[1:], rtol=1e-3, atol=1e-3)


def of_two(
    request: Request, backbone: Backbone, guides: Sequence[Guide], *, rows: Sequence[int] = (0, 1), **begun: Any
) -> Iterator[Moment]:
    seeds = [7 + row for row in rows]
    return walk(request, backbone, prompts=["a mug"] * len(seeds), seeds=seeds, guides=guides, **begun)


def test_a_resumed_try_draws_other_noise_than_its_latent_has(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Tensor] = []

    def noting(*args: Any) -> Tensor:
        drawn.append(noise_like(*args))
        return drawn[-1]

    monkeypatch.setattr("sketchguide.sampling.noise_like", noting)
    request = Request.checked(prompt="a mug", seed=7, steps=4, size=SIZE, solver="ddpm")
    first = [moment.latent for moment in of_two(request, tiny(), [])]
    drawn.append(first_latent(request, tiny(), generators([7, 8])))
    before = len(drawn)
    for steps in (1, 2):
        assert len(list(of_two(request, tiny(), [], begun=resumed(first, [0, 1], steps)))) == 4 - steps
    assert len(drawn) == before + 2 + 1
    for one, other in combinations(drawn, 2):
        assert not torch.equal(one, other)


def test_what_is_shown_the_drawing_acts_less_at_each_try(
    tiny: Tiny, predictor: LatentPredictor, parts: Path, tmp_path: Path
):
    save_adapter("controlnet", tiny(), tmp_path / "controlnet")
    attention_for(tiny()).save(tmp_path / "attention")
    shown = {name: str(tmp_path / name) for name in ("controlnet", "attention")}

    def drawn(share: float, pull: float, **settings: Any) -> Picture:
        scales = {f"{name}_scale": 0.9 * share for name in shown}
        return draw(tiny, predictor, strength=share * pull, **shown, **scales, **settings)[0]

    for pull in (0.0, 6.0):  # alone, and beside a predictor
        tried: set[int] = set()
        for seed in range(7, 27):
            with pytest.warns(SketchguideWarning, match="the best of its tries"):
                kept = drawn(1.0, pull, seed=seed, tries=3, sure=1, recogniser=str(parts))
            assert np.array_equal(pixels(kept), pixels(drawn(easing_of(kept.tried, 3).share, pull, seed=seed)))
            assert kept.tried != 2, "it is passed over"
            tried.add(kept.tried)
            if len(tried) > 1:
                break
        assert len(tried) > 1


def test_the_recipe_repeats_all_tries(tiny: Tiny, predictor: LatentPredictor, parts: Path, tmp_path: Path):
    with pytest.warns(SketchguideWarning, match="may not show"):
        *_, made = draw(tiny, predictor, tries=2, sure=1, recogniser=str(parts), count=2)
    made.save(tmp_path / "mug.png")
    recipe = recall(tmp_path / "mug.png")
    assert (recipe.tried, recipe.confidence) == (made.tried, made.confidence)
    assert recipe.made_with["recogniser"]
    with pytest.warns(SketchguideWarning, match="may not show"):
        events = list(run(recipe.request, backbone=tiny(), predictor=predictor, only=1))
    (again,) = [event for event in events if isinstance(event, Picture)]
    assert np.array_equal(pixels(again), pixels(made))
    steps = [event for event in events if isinstance(event, Progress)]
    assert [(one.done, one.total) for one in steps] == [(1, 2), (2, 2), (3, 4), (4, 4)]
    assert steps[-1].evaluations == made.evaluations


def test_the_class_is_named_by_the_prompt(tiny: Tiny, predictor: LatentPredictor, parts: Path):
    settings = {"sketch": CROSS, "seed": 7, "steps": 2, "size": SIZE, "tries": 2, "recogniser": str(parts)}
    with pytest.raises(UsageError, match="'a bog' names none of the 3 things that the recogniser knows") as caught:
        generate("a bog", backbone=tiny(), predictor=predictor, **settings)
    assert caught.value.field == "tries"
    assert caught.value.hint == "Did you mean dog? Name one of them, or leave tries at 1."


def test_without_a_drawing_a_try_starts_from_other_noise(tiny: Tiny, predictor: LatentPredictor, parts: Path):
    for nothing in ({"sketch": None}, {"strength": 0.0}):
        seen: dict[int, Picture] = {}
        for seed in range(7, 17):  # of which some try or other is the best
            settings = nothing | {"seed": seed, "tries": 3, "sure": 1, "recogniser": str(parts)}
            with pytest.warns(SketchguideWarning, match="the best of its tries"):
                (kept,) = draw(tiny, predictor, **settings)
            (same,) = draw(tiny, predictor, **nothing, seed=another(seed, kept.tried))
            assert np.array_equal(pixels(kept), pixels(same))
            seen.setdefault(kept.tried, kept)
            if len(seen) > 1:
                break
        assert len(seen) > 1
        assert seen[max(seen)].evaluations.conditional == 6


def test_a_source_that_was_tried_from_other_noise_is_had_as_it_was_made(
    tiny: Tiny, predictor: LatentPredictor, parts: Path, tmp_path: Path
):
    """An edit that takes its last step again, which nothing pulls, is the picture itself."""
    made = (of_no_drawing(tiny, predictor, parts, seed) for seed in range(50))
    source = next(picture for picture in made if picture.tried > 1)
    source.save(tmp_path / "source.png")
    settings: dict[str, Any] = {"source": "generated", "steps": 2, "backbone": tiny(), "seed": 7, "amount": 0.5}
    settings |= {"margin": 1, "strength": 0, "predictor": predictor}
    (again,) = edit(tmp_path / "source.png", "a mug", sketch=CROSS, **settings)
    assert np.abs(pixels(again) - pixels(source)).max() <= 1


def test_tries_that_cannot_differ_are_told(tiny: Tiny, predictor: LatentPredictor, parts: Path):
    (plain,) = draw(tiny, predictor, sketch=None, size=None)
    given: dict[str, Any] = {"backbone": tiny(), "steps": 4, "seed": 3, "tries": 3, "recogniser": str(parts)}
    with pytest.warns(SketchguideWarning, match="tries changes nothing: no drawing is followed, and every"):
        (made,) = translate(plain.image, "a mug", start="source", **given)
    assert (made.confidence, made.tried) == (None, 1)
    (drawn,) = translate(plain.image, "a mug", start="source", solver="ddpm", sure=0, **given)
    assert (drawn.confidence is not None, drawn.tried) == (True, 1), "each try draws other noise"


def test_what_goes_with_tries_changes_nothing_without(tiny: Tiny, predictor: LatentPredictor, parts: Path):
    with pytest.warns(SketchguideWarning, match="sure changes nothing without tries above 1"):
        draw(tiny, predictor, sure=0.5)
    with pytest.warns(SketchguideWarning, match="recogniser changes nothing without tries above 1"):
        draw(tiny, predictor, recogniser=str(parts))


def test_a_recogniser_that_is_not_there_is_named(tiny: Tiny, predictor: LatentPredictor, tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match="No recogniser at") as caught:
        draw(tiny, predictor, tries=2, recogniser=str(tmp_path))
    assert caught.value.field == "recogniser"


def test_a_classifier_of_component_recognises_too(tiny: Tiny, parts: Path):
    (parts / "recogniser.safetensors").rename(parts / "classifier.safetensors")
    assert find_recogniser(str(parts), tiny()) == parts / "classifier.safetensors"
    save_classifier(classifier(["cat", "cow"]), parts / "recogniser.safetensors")
    assert find_recogniser(str(parts), tiny()) == parts / "recogniser.safetensors"


def test_what_is_shipped_was_trained_for_the_model_that_is(tiny: Tiny):
    with pytest.warns(SketchguideWarning, match="for icons-64, not for tiny.*component classifier.* as recogniser"):
        file = find_recogniser(None, tiny())
    shipped = Recogniser(load_classifier(file))
    assert shipped.classes_of(["a mug", "noto red apple on a blue background", "two cats"]) == [
        shipped.classifier.classes.index(name) for name in ("coffee cup, mug", "apple", "cat")
    ]


def test_pictures_that_are_made_from_others_are_tried_again_too(tiny: Tiny, predictor: LatentPredictor, parts: Path):
    settings: dict[str, Any] = {"steps": 4, "tries": 2, "sure": 1, "recogniser": str(parts)}
    settings |= {"backbone": tiny(), "predictor": predictor, "seed": 3, "strength": 6}
    (plain,) = draw(tiny, predictor, sketch=None, size=None)
    for make in (edit, translate):
        with pytest.warns(SketchguideWarning, match="best of its tries"):
            (kept,) = make(plain.image, "a mug", sketch=CROSS, **settings)
        once = settings | {"tries": 1, "strength": 6 * easing_of(kept.tried, 2).share}
        del once["recogniser"], once["sure"]
        (same,) = make(plain.image, "a mug", sketch=CROSS, **once)
        assert np.array_equal(pixels(kept), pixels(same))


def test_the_recogniser_sees_an_edit_with_the_rest_as_it_was(
    tiny: Tiny, predictor: LatentPredictor, parts: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Tensor] = []

    def confidence(_: Recogniser, pictures: Tensor, classes: Sequence[int]) -> Tensor:
        seen.append(pictures)
        return torch.ones(len(classes))

    monkeypatch.setattr(Recogniser, "confidence", confidence)
    (plain,) = draw(tiny, predictor, sketch=None, size=None)
    corner = Sketch.from_strokes([[[0.1, 0.1], [0.2, 0.2]]])
    given: dict[str, Any] = {"sketch": corner, "backbone": tiny(), "predictor": predictor, "seed": 3, "steps": 2}
    (made,) = edit(plain.image, "a mug", tries=2, recogniser=str(parts), **given)
    (shown,) = to_images(seen[0])
    assert np.array_equal(shown, made.image)
    assert np.array_equal(np.asarray(shown)[-8:, -8:], np.asarray(plain.image)[-8:, -8:])
    assert not np.array_equal(shown, plain.image)


def test_a_source_that_was_tried_again_is_had_as_it_was_made(tiny: Tiny, predictor: LatentPredictor, tmp_path: Path):
    """Of two classes what the first try shows best the last shows of the other, so that one of these is kept. An edit
    that takes its last step again, which nothing pulls, is the picture itself.
    """
    settings: dict[str, Any] = {"steps": 4, "negative_time": 0, "size": None}
    for names in (["mug", "cup"], ["cup", "mug"]):
        save_classifier(classifier(names), tmp_path / "recogniser.safetensors")
        with pytest.warns(SketchguideWarning, match="may not show"):
            (source,) = draw(tiny, predictor, tries=3, sure=1, recogniser=str(tmp_path), strength=18, **settings)
        if source.tried > 1:
            break
    assert source.tried > 1
    source.save(tmp_path / "source.png")
    settings |= {"source": "generated", "amount": 0.25, "margin": 1, "strength": 0, "backbone": tiny(), "seed": 7}
    (again,) = edit(tmp_path / "source.png", "a mug", sketch=CROSS, predictor=predictor, **settings)
    assert np.abs(pixels(again) - pixels(source)).max() <= 1


def test_a_prompt_of_nothing_that_the_shipped_model_knows_is_told_of():
    """Also by its other names, and not where weights are others."""
    backbone = load_backbone("icons-64")
    own = fingerprint_of_model(backbone)
    message = "'a wizard' names nothing that icons-64 knows, and may come out as a blob. docs/models.md lists what it"
    with pytest.warns(SketchguideWarning, match=message):
        generate("a wizard", backbone=backbone, seed=7, steps=1)
    with pytest.warns(SketchguideWarning, match=r"a blob\. Did you mean apple\? docs"):
        warn_of_unknown(["a red aple"], backbone, own)
    warn_of_unknown(["Two red APPLES", "a turtle", "noto cat on a blue background", "motorcycles"], backbone, own)
    warn_of_unknown(["a wizard"], backbone, "0" * 12)


@pytest.mark.parametrize("model", ["icons-64", "icons-128"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_shipped_model_is_taken_for_itself_in_every_precision(model: str, dtype: DType):
    assert "apple" in words_of(fingerprint_of_model(load_backbone(model, dtype=dtype)))


def test_the_shipped_recogniser_knows_what_the_shipped_model_draws():
    """An apple for an apple, and not for a banana."""
    backbone = load_backbone("icons-64")
    settings: dict[str, Any] = {"backbone": backbone, "sketch": CROSS, "seed": 7, "steps": 15, "strength": 0.2}
    (apple,) = generate("a red apple", tries=2, **settings)
    assert apple.tried == 1
    assert apple.confidence is not None
    assert apple.confidence > 0.8
    tensor = to_tensor([apple.image])
    recogniser = Recogniser(load_classifier(find_recogniser(None, backbone)))
    as_others = recogniser.classifier(tensor).softmax(dim=1)[0, recogniser.classes_of(["a banana", "a red apple"])]
    assert as_others[0] < 0.1 < as_others[1]
