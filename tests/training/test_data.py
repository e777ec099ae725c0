import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFile
from torch import Tensor

from sketchguide.errors import SketchguideWarning, TrainingError, UsageError
from sketchguide.images import save_png, to_images, to_tensor
from sketchguide.pictures import RECIPE_KEY, WEB_UI_KEY
from sketchguide.training.data import Augmentation, Example, Pictures, digest, find_examples, readable, split

STILL = Augmentation(flip=False, scale=(1.0, 1.0), rotate=0.0, shift=0.0)


def paint(path: Path, colour: str = "red", size: tuple[int, int] = (24, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def example(path: Path, caption: str = "") -> Example:
    return Example(path, caption, path.name)


def hues(folder: Path, count: int) -> list[Example]:
    """Pictures that are told apart by their one colour; the caption is the number."""
    return [example(paint(folder / f"{i:03d}.png", f"hsl({360 * i // count}, 90%, 50%)"), str(i)) for i in range(count)]


def refused(folder: Path, match: str) -> UsageError:
    with pytest.raises(UsageError, match=match) as caught:
        find_examples(folder)
    assert caught.value.field == "data"
    return caught.value


class TestCaptions:
    def test_the_name_of_the_folder(self, tmp_path: Path) -> None:
        paint(tmp_path / "animals" / "polar_bear-cub" / "b.PNG")
        paint(tmp_path / "apple" / "a.jpg")
        found = find_examples(tmp_path)
        assert [(e.name, e.caption) for e in found] == [
            ("animals/polar_bear-cub/b.PNG", "polar bear cub"),
            ("apple/a.jpg", "apple"),
        ]
        assert [e.path for e in found] == [tmp_path / "animals" / "polar_bear-cub" / "b.PNG", tmp_path / "apple/a.jpg"]

    def test_a_text_beside_the_picture_comes_before_it(self, tmp_path: Path) -> None:
        paint(tmp_path / "fruit" / "a.png")
        paint(tmp_path / "fruit" / "b.png")
        paint(tmp_path / "c.png")
        (tmp_path / "fruit" / "a.txt").write_bytes("\ufeffa grüner\n  apple \r\n".encode())
        (tmp_path / "c.txt").write_text("")
        assert [e.caption for e in find_examples(tmp_path)] == ["", "a grüner apple", "fruit"]

    @pytest.mark.parametrize("name", ["a.b.TXT", "a.b.jfif.txt", "a.b.jfif.Txt"])
    def test_a_text_may_be_called_in_other_ways(self, tmp_path: Path, name: str) -> None:
        paint(tmp_path / "a.b.png").rename(tmp_path / "a.b.jfif")
        (tmp_path / name).write_text("an apple")
        assert [(e.name, e.caption) for e in find_examples(tmp_path)] == [("a.b.jfif", "an apple")]

    def test_the_list_comes_before_both_and_is_complete(self, tmp_path: Path) -> None:
        for name in ("train/x/a.png", "train/b.png", "train/x/unlisted.png", "other/c.png"):
            paint(tmp_path / name)
        (tmp_path / "train" / "b.txt").write_text("not this")
        lines = [
            {"file_name": "x/a.png", "text": "an a"},
            {"file_name": "./b.png", "caption": "first"},
            {"file_name": "b.png", "text": "second", "caption": "not this either", "id": 7},
        ]
        text = "\n\n".join(json.dumps(line) for line in lines)
        (tmp_path / "train" / "metadata.jsonl").write_text(text + "\n")
        with pytest.warns(SketchguideWarning, match=r"^1 picture in \S+ is not in metadata\.jsonl and left out\.$"):
            found = find_examples(tmp_path)
        assert [(e.name, e.caption) for e in found] == [
            ("other/c.png", "other"),
            ("train/b.png", "first"),
            ("train/b.png", "second"),
            ("train/x/a.png", "an a"),
        ]

    def test_a_picture_of_ours_brings_its_prompt(self, tmp_path: Path) -> None:
        recipe = {RECIPE_KEY: json.dumps({"request": {"prompt": "a  red duck"}})}
        for name in ("mine.png", "birds/mine.png", "birds/told.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            save_png(Image.new("RGB", (24, 24)), tmp_path / name, text=recipe)
        save_png(Image.new("RGB", (24, 24)), tmp_path / "birds" / "other.png", text={RECIPE_KEY: "[]"})
        (tmp_path / "birds" / "told.txt").write_text("a swan")
        sheet = {RECIPE_KEY: json.dumps({"request": {"prompt": "a duck"}, "sheet": True})}
        save_png(Image.new("RGB", (24, 24)), tmp_path / "birds" / "sheet.png", text=sheet)
        assert [(e.name, e.caption) for e in find_examples(tmp_path, recipes=True)] == [
            ("birds/mine.png", "a red duck"),
            ("birds/other.png", "birds"),
            ("birds/sheet.png", "birds"),
            ("birds/told.png", "a swan"),
            ("mine.png", "a red duck"),
        ]

    def test_a_picture_of_a_web_ui_brings_its_prompt(self, tmp_path: Path) -> None:
        (tmp_path / "birds").mkdir()
        told = "a red duck,\non a pond\nNegative prompt: blue, Steps: no\nSteps: 20, Sampler: Euler a, Seed: 7"
        texts = {
            "a": told,
            "b": "a swan\nSteps: 8, CFG scale: 4",
            "c": "a goose",
            "d": '{"Steps: ": 8}',
            "e": "\nSteps: 4",
            "f": "\n" * 10**6,
        }
        for name, text in texts.items():
            save_png(Image.new("RGB", (24, 24)), tmp_path / "birds" / f"{name}.png", text={WEB_UI_KEY: text})
        found = [e.caption for e in find_examples(tmp_path, recipes=True)]
        assert found == ["a red duck, on a pond", "a swan", "birds", "birds", "", "birds"]

    def test_a_recipe_is_no_class(self, tmp_path: Path) -> None:
        (tmp_path / "birds").mkdir()
        recipe = {RECIPE_KEY: json.dumps({"request": {"prompt": "a red duck"}})}
        save_png(Image.new("RGB", (24, 24)), tmp_path / "birds" / "mine.png", text=recipe)
        assert [e.caption for e in find_examples(tmp_path)] == ["birds"]

    def test_none_at_all_is_empty_with_one_warning(self, tmp_path: Path) -> None:
        paint(tmp_path / "a.png")
        paint(tmp_path / "b.png")
        with pytest.warns(SketchguideWarning, match="2 pictures in .* are without a caption") as caught:
            found = find_examples(tmp_path)
        assert len(caught) == 1
        assert "metadata.csv" in str(caught[0].message)
        assert "the name of the sub-folder it is in" in str(caught[0].message)
        assert [e.caption for e in found] == ["", ""]
        (tmp_path / "b.png").unlink()
        with pytest.warns(SketchguideWarning, match="1 picture in .* is without"):
            find_examples(tmp_path)

    def test_a_list_may_be_written_on_windows(self, tmp_path: Path) -> None:
        paint(tmp_path / "sub" / "a.png")
        (tmp_path / "metadata.csv").write_text("file_name,text\nsub\\a.png,an apple\n")
        assert [(e.name, e.caption) for e in find_examples(tmp_path)] == [("sub/a.png", "an apple")]

    def test_hidden_files_and_other_files_are_left_out(self, tmp_path: Path) -> None:
        for name in ("k/a.png", "k/.b.png", ".cache/c.png"):
            paint(tmp_path / name)
        (tmp_path / "k" / "notes.md").write_text("x")
        assert [e.name for e in find_examples(tmp_path)] == ["k/a.png"]

    def test_linked_folders_are_followed_once(self, tmp_path: Path) -> None:
        paint(tmp_path / "store" / "a.png")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "apple").symlink_to(tmp_path / "store")
        (tmp_path / "store" / "loop").symlink_to(tmp_path / "data")
        assert [(e.name, e.caption) for e in find_examples(tmp_path / "data")] == [("apple/a.png", "apple")]

    def test_texts_in_a_folder_of_their_own_are_told(self, tmp_path: Path) -> None:
        for name in ("images/a.png", "images/b.png", "others/c.png"):
            paint(tmp_path / name)
        (tmp_path / "captions").mkdir()
        for name in ("a.txt", "b.png.txt", "readme.txt"):
            (tmp_path / "captions" / name).write_text("an apple")
        with pytest.warns(SketchguideWarning, match="^2 pictures are captioned by a .txt in another folder") as caught:
            assert {e.caption for e in find_examples(tmp_path)} == {"images", "others"}
        assert len(caught) == 1

    def test_a_picture_without_the_text_that_others_have_is_told(self, tmp_path: Path) -> None:
        for name in ("k/a.png", "k/b.png", "k/c.png", "m/a.png", "m/c.png"):
            paint(tmp_path / name)
        for name in ("k/a.txt", "k/b.txt"):
            (tmp_path / name).write_text("an apple")
        with pytest.warns(SketchguideWarning, match=r"^1 picture is without a .txt, .*c\.png\): the name of") as caught:
            found = find_examples(tmp_path)
        assert [e.caption for e in found] == ["an apple", "an apple", "k", "m", "m"]
        assert len(caught) == 1


class TestBadFolders:
    def test_a_name_that_cannot_be_looked_up(self, tmp_path: Path) -> None:
        refused(tmp_path / ("a" * 300), "cannot be looked at: File name too long")

    def test_missing(self, tmp_path: Path) -> None:
        assert refused(tmp_path / "absent", "absent does not exist").hint

    def test_a_file(self, tmp_path: Path) -> None:
        refused(paint(tmp_path / "a.png"), "is a file")

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "readme.md").write_text("x")
        assert "metadata.jsonl" in refused(tmp_path, "has no pictures").hint

    @pytest.mark.parametrize(
        ("line", "match"),
        [
            (b"{file_name", "line 3 is not JSON"),
            (b"[" * 100_000, "line 3 is not JSON"),
            (b'{"file_name": "a.png", "text": "\xff"}', "line 3 is not JSON"),
            (b"[1]", "line 3 lacks a file name or a caption"),
            (b'{"file_name": "a.png"}', "line 3 lacks"),
            (b'{"file_name": "a.png", "text": null}', "line 3 lacks"),
            (b'{"text": "x"}', "line 3 lacks"),
            (b'{"file_name": "absent.png", "text": "x"}', "line 3 names 'absent.png', which is not in"),
            (b'{"file_name": "../a.png", "text": "x"}', "line 3 names"),
            (b'{"file_name": "/etc/passwd", "text": "x"}', "line 3 names"),
            (b'{"file_name": "a\\u0000.png", "text": "x"}', "line 3 names"),
            (b'{"file_name": "a.png", "text": "\\ud800"}', "line 3 has a caption with"),
            (b'{"file_name": "a.png", "text": "a\\u0000b"}', "line 3 has a caption with"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, line: bytes, match: str) -> None:
        paint(tmp_path / "a.png")
        (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "good"}\n\n' + line + b"\n")
        refused(tmp_path, match)

    @pytest.mark.parametrize(("name", "text"), [("metadata.jsonl", "\n"), ("metadata.csv", "file_name,text\n")])
    def test_an_empty_list_leaves_nothing(self, tmp_path: Path, name: str, text: str) -> None:
        paint(tmp_path / "a.png")
        (tmp_path / name).write_text(text)
        assert "remove it" in refused(tmp_path, f"{name} names no picture").hint

    @pytest.mark.parametrize(
        ("name", "why", "hint"),
        [
            ("sub/../a.png", r"a path with '\.\.' in it", "sub/apple.png"),
            ("sub/.b.png", "which is hidden", "Rename"),
            (".sub/c.png", "which is hidden", "Rename"),
            (".sub/absent.png", "which is not in", "Add the file"),
        ],
    )
    def test_what_is_wrong_with_a_name_is_told(self, tmp_path: Path, name: str, why: str, hint: str) -> None:
        for path in ("a.png", "sub/.b.png", ".sub/c.png"):
            paint(tmp_path / path)
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}))
        assert hint in refused(tmp_path, why).hint

    def test_a_folder_whose_name_is_no_text(self, tmp_path: Path) -> None:
        paint(tmp_path / os.fsdecode(b"gr\xfcn") / "a.png")
        assert refused(tmp_path, "The folder name").hint.startswith("Rename the folder, or give captions in metadata")

    def test_a_caption_in_another_encoding(self, tmp_path: Path) -> None:
        paint(tmp_path / "a.png")
        (tmp_path / "a.txt").write_bytes("grün".encode("latin-1"))
        refused(tmp_path, "a.txt is not UTF-8")

    def test_a_limit_below_one(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="limit is 0"):
            find_examples(tmp_path, limit=0)


class TestLimit:
    def test_the_same_are_drawn_and_more_add_to_them(self, tmp_path: Path) -> None:
        for i in range(40):
            paint(tmp_path / "k" / f"{i}.png", size=(16, 16))
        ten, twenty = find_examples(tmp_path, limit=10), find_examples(tmp_path, limit=20)
        assert ten == find_examples(tmp_path, limit=10)
        assert twenty[:10] == ten
        assert set(find_examples(tmp_path, limit=10, seed=1)) != set(ten)
        assert len(find_examples(tmp_path, limit=500)) == 40
        # Where the folder lies makes no difference.
        moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
        assert [e.name for e in find_examples(moved, limit=10)] == [e.name for e in ten]
        moved.rename(tmp_path)

    def test_a_picture_counts_once_and_keeps_all_its_captions(self, tmp_path: Path) -> None:
        names = [paint(tmp_path / f"{i}.png", size=(16, 16)).name for i in range(20)]

        def drawn(*captions: str) -> list[Example]:
            lines = [json.dumps({"file_name": name, "text": text}) for text in captions for name in names]
            (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
            return find_examples(tmp_path, limit=5)

        once, thrice = drawn("one"), drawn("one", "two", "three")
        assert len(once) == 5
        assert [(e.name, e.caption) for e in thrice] == [(e.name, t) for e in once for t in ("one", "two", "three")]

    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_drawn_few_split_like_any_others(self, tmp_path: Path, seed: int) -> None:
        for i in range(400):
            (tmp_path / f"{i}.png").touch()
            (tmp_path / f"{i}.txt").touch()
        drawn = find_examples(tmp_path, limit=100, seed=seed)
        assert 30 < len(split(drawn, held_out=0.5, seed=seed)[1]) < 70


def named(*names: str) -> list[Example]:
    return [Example(Path("/data", name), "", name) for name in names]


class TestSplit:
    many = named(*(f"{i}.png" for i in range(1000)))

    def test_every_example_is_on_one_side_in_order(self) -> None:
        training, held = split(self.many, held_out=0.1)
        assert 70 < len(held) < 130
        assert sorted(training + held, key=self.many.index) == self.many
        assert sorted(held, key=self.many.index) == held

    def test_files_added_later_move_no_others(self) -> None:
        before = set(split(self.many[::2])[1])
        after = set(split(self.many)[1])
        assert before == after & set(self.many[::2])

    def test_the_order_does_not_matter_and_the_seed_does(self) -> None:
        held = set(split(self.many)[1])
        assert set(split(self.many[::-1])[1]) == held
        assert set(split(self.many, seed=1)[1]) != held

    def test_captions_of_one_file_stay_together(self) -> None:
        doubled = [Example(e.path, caption, e.name) for e in self.many for caption in ("one", "two")]
        training, held = split(doubled)
        assert {e.name for e in training}.isdisjoint(e.name for e in held)
        assert Counter(e.caption for e in held)["one"] == len(held) / 2

    def test_links_stay_with_the_file_that_they_lead_to(self, tmp_path: Path) -> None:
        for number in range(40):
            paint(tmp_path / "all" / f"{number}.png")
            (tmp_path / "best").mkdir(exist_ok=True)
            (tmp_path / "best" / f"good-{number}.png").symlink_to(tmp_path / "all" / f"{number}.png")
        training, held = split(find_examples(tmp_path), held_out=0.3)
        assert 0 < len(held) < 80
        assert {os.path.realpath(e.path) for e in held}.isdisjoint(os.path.realpath(e.path) for e in training)

    @pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
    @pytest.mark.parametrize("seed", range(5))
    def test_neither_side_is_empty(self, share: float, seed: int) -> None:
        training, held = split(named("a", "b", "c"), held_out=share, seed=seed)
        assert training
        assert held

    def test_one_file_or_a_share_of_zero_holds_out_nothing(self) -> None:
        assert split(named("a"), held_out=0.9) == (named("a"), [])
        assert split(self.many, held_out=0) == (self.many, [])

    @pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
    def test_the_share_is_checked(self, share: float) -> None:
        with pytest.raises(UsageError, match="held_out is"):
            split(self.many, held_out=share)


class TestBatches:
    def test_shape_range_and_captions_that_match(self, tmp_path: Path) -> None:
        examples = hues(tmp_path, 6)
        pictures = Pictures(examples, size=(20, 12))
        images, captions = pictures.batch(torch.Generator().manual_seed(0), 40)
        assert images.shape == (40, 3, 12, 20)
        assert images.dtype == torch.float32
        assert set(captions) == {str(i) for i in range(6)}
        plain = {e.caption: to_tensor([Image.open(e.path)])[0, :, 0, 0] for e in examples}
        for image, caption in zip(images, captions, strict=True):
            # One colour stays one colour under every change: nothing but the picture comes into view.
            assert (image - plain[caption][:, None, None]).abs().max() < 1e-3

    def test_the_same_state_gives_the_same_batch_in_a_fresh_process(self, tmp_path: Path) -> None:
        examples = hues(tmp_path, 30)
        examples[7].path.write_bytes(b"no picture")
        rng = torch.Generator().manual_seed(1)
        pictures = Pictures(examples, size=(16, 16))
        for _ in range(3):
            pictures.batch(rng, 25)
        state = rng.get_state()
        expected = [pictures.batch(rng, 25) for _ in range(2)]
        again = torch.Generator()
        again.set_state(state)
        resumed = Pictures(examples, size=(16, 16), cache_bytes=0)
        for images, captions in expected:
            others, other_captions = resumed.batch(again, 25)
            assert torch.equal(images, others)
            assert captions == other_captions
        assert not torch.equal(expected[0][0], expected[1][0])

    def test_without_augmentation_a_square_is_the_picture(self, tmp_path: Path) -> None:
        noise = to_images(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)[0]
        noise.save(tmp_path / "a.png")
        pictures = Pictures([example(tmp_path / "a.png")], size=(16, 16), augmentation=STILL)
        images, _ = pictures.batch(torch.Generator(), 2)
        assert torch.allclose(images, to_tensor([noise, noise]), atol=1e-4)
        fixed, _ = pictures.fixed(1)
        assert torch.equal(fixed, to_tensor([noise]))

    def test_flips_are_half_and_can_be_turned_off(self, tmp_path: Path) -> None:
        picture = Image.new("RGB", (16, 16), "white")
        picture.paste("black", (0, 0, 8, 16))
        picture.save(tmp_path / "a.png")

        def black_left(flip: bool) -> int:
            augmentation = Augmentation(flip=flip, scale=(1.0, 1.0), rotate=0.0, shift=0.0)
            pictures = Pictures([example(tmp_path / "a.png")], size=(16, 16), augmentation=augmentation)
            images, _ = pictures.batch(torch.Generator().manual_seed(0), 200)
            return int((images[:, 0, :, :8].mean((1, 2)) < 0).sum())

        assert 70 < black_left(True) < 130
        assert black_left(False) == 200

    @pytest.mark.parametrize("size", [(64, 64), (96, 48)])
    def test_rotation_and_zoom_keep_shapes_true(self, tmp_path: Path, size: tuple[int, int]) -> None:
        picture = Image.new("RGB", size, "white")
        middle = (size[0] / 2, size[1] / 2)
        ImageDraw.Draw(picture).circle(middle, 12, "black")
        picture.save(tmp_path / "a.png")
        augmentation = Augmentation(scale=(1.5, 1.5), rotate=180.0, shift=0.0)
        pictures = Pictures([example(tmp_path / "a.png")], size=size, augmentation=augmentation)
        images, _ = pictures.batch(torch.Generator().manual_seed(0), 30)
        ink = images[:, 0] < 0
        radius = (ink.sum((1, 2)) / torch.pi).sqrt()
        assert (radius - 18).abs().max() < 1
        # A circle stays a circle: as wide as it is high, at any angle.
        wide, high = ink.any(1).sum(1), ink.any(2).sum(1)
        assert (wide - high).abs().max() <= 1

    @pytest.mark.parametrize("size", [(64, 64), (96, 48)])
    def test_pictures_turn_as_far_as_said_to_either_side(self, tmp_path: Path, size: tuple[int, int]) -> None:
        picture = Image.new("RGB", size, "white")
        picture.paste("black", (size[0] // 2 - 20, size[1] // 2 - 3, size[0] // 2 + 20, size[1] // 2 + 3))
        picture.save(tmp_path / "a.png")
        augmentation = Augmentation(flip=False, scale=(1.0, 1.0), rotate=40.0, shift=0.0)
        pictures = Pictures([example(tmp_path / "a.png")], size=size, augmentation=augmentation)
        images, _ = pictures.batch(torch.Generator().manual_seed(0), 200)
        ink = (1 - images[:, 0]) / 2
        across = torch.arange(size[0]) + 0.5 - size[0] / 2
        down = (torch.arange(size[1]) + 0.5 - size[1] / 2)[:, None]
        wide, high, both = ((ink * weight).sum((1, 2)) for weight in (across**2, down**2, across * down))
        angles = (torch.atan2(2 * both, wide - high) / 2).rad2deg()
        assert angles.min().item() == pytest.approx(-40, abs=2)
        assert angles.max().item() == pytest.approx(40, abs=2)
        assert angles.mean().item() == pytest.approx(0, abs=5)

    def test_the_shift_is_as_large_as_said(self, tmp_path: Path) -> None:
        picture = Image.new("RGB", (80, 40), "white")
        picture.paste("black", (38, 18, 42, 22))
        picture.save(tmp_path / "a.png")
        augmentation = Augmentation(flip=False, scale=(1.0, 1.0), rotate=0.0, shift=0.25)
        pictures = Pictures([example(tmp_path / "a.png")], size=(80, 40), augmentation=augmentation)
        images, _ = pictures.batch(torch.Generator().manual_seed(0), 300)
        ink = (1 - images[:, 0]) / 2
        across = (ink.sum(1) * (torch.arange(80) + 0.5)).sum(1) / ink.sum((1, 2)) / 80
        down = (ink.sum(2) * (torch.arange(40) + 0.5)).sum(1) / ink.sum((1, 2)) / 40
        for place in (across, down):
            assert place.min().item() == pytest.approx(0.25, abs=0.02)
            assert place.max().item() == pytest.approx(0.75, abs=0.02)

    def test_crops_reach_both_ends_and_the_fixed_one_is_the_middle(self, tmp_path: Path) -> None:
        picture = Image.new("RGB", (96, 32), "white")
        for place, colour in enumerate(("red", "lime", "blue")):
            picture.paste(colour, (32 * place, 0, 32 * place + 32, 32))
        picture.save(tmp_path / "a.png")
        pictures = Pictures([example(tmp_path / "a.png")], size=(16, 16), augmentation=STILL)
        images, _ = pictures.batch(torch.Generator().manual_seed(0), 200)
        colours = images.mean((2, 3))
        assert colours[:, 0].max() > 0.8
        assert colours[:, 2].max() > 0.8
        fixed, _ = pictures.fixed(5)
        assert len(fixed) == 1
        assert fixed[0, 1].mean() > 0.8

    def test_crops_of_wide_and_tall_pictures_are_drawn_apart(self, tmp_path: Path) -> None:
        ramp = Image.linear_gradient("L").convert("RGB")  # black above, white below
        places: list[Tensor] = []
        for name, picture in (("tall", ramp.resize((32, 96))), ("wide", ramp.rotate(90).resize((96, 32)))):
            picture.save(tmp_path / f"{name}.png")
            pictures = Pictures([example(tmp_path / f"{name}.png")], size=(32, 32), augmentation=STILL)
            images, _ = pictures.batch(torch.Generator().manual_seed(0), 200)
            places.append(images.mean((1, 2, 3)))
            # The middles of the first and the last third of the ramp.
            assert places[-1].min().item() == pytest.approx(-2 / 3, abs=0.05)
            assert places[-1].max().item() == pytest.approx(2 / 3, abs=0.05)
        assert abs(torch.corrcoef(torch.stack(places))[0, 1].item()) < 0.3

    @pytest.mark.parametrize("size", [(3000, 16), (16, 3000), (40, 17), (16, 16)])
    def test_any_aspect_fills_the_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        pictures = Pictures([example(paint(tmp_path / "a.png", "blue", size))], size=(32, 20))
        for images in (pictures.batch(torch.Generator(), 2)[0], pictures.fixed(2)[0]):
            assert images.shape[1:] == (3, 20, 32)
            assert torch.allclose(images.mean((0, 2, 3)), torch.tensor([-1.0, -1.0, 1.0]), atol=1e-3)
        held = pictures._cache[tmp_path / "a.png"]
        assert held is not None
        assert held.width <= 4 * 32
        assert held.height <= 4 * 20

    def test_the_fixed_ones_are_the_same_whatever_was_drawn_and_in_whatever_order(self, tmp_path: Path) -> None:
        examples = hues(tmp_path, 20)
        pictures = Pictures(examples, size=(16, 16))
        images, captions = pictures.fixed(8)
        pictures.batch(torch.Generator(), 5)
        others, other_captions = Pictures(examples[::-1], size=(16, 16)).fixed(8)
        assert torch.equal(images, others)
        assert captions == other_captions
        assert captions != [str(i) for i in range(8)]
        assert torch.equal(images, pictures.fixed(8)[0])

    def test_a_picture_with_several_captions_is_one(self, tmp_path: Path) -> None:
        examples = hues(tmp_path, 8)
        doubled = [Example(e.path, text, e.name) for e in examples for text in ("another", e.caption)]
        pictures = Pictures(doubled, size=(16, 16))
        images, captions = pictures.fixed(6)
        others, other_captions = Pictures(examples, size=(16, 16)).fixed(6)
        assert torch.equal(images, others)
        assert captions == other_captions
        assert len(pictures.fixed(100)[0]) == 8
        _, drawn = pictures.batch(torch.Generator().manual_seed(0), 200)
        assert len(set(drawn)) == 9
        assert len(pictures.used) == 8

    def test_the_fixed_ones_in_parts_are_the_same(self, tmp_path: Path) -> None:
        pictures = Pictures(hues(tmp_path, 8), size=(16, 16))
        images, captions = pictures.fixed(7)
        parts = list(pictures.fixed_in_parts(7, part=3))
        assert [len(part) for part, _ in parts] == [3, 3, 1]
        assert torch.equal(torch.cat([part for part, _ in parts]), images)
        assert [text for _, texts in parts for text in texts] == captions

    def test_the_cache_is_bounded(self, tmp_path: Path) -> None:
        examples = hues(tmp_path, 10)
        pictures = Pictures(examples, size=(16, 16), cache_bytes=3 * 4 * 16 * 16)
        pictures.fixed(10)
        assert len(pictures._cache) == 3
        examples[0].path.unlink()
        roomy = Pictures(examples[1:], size=(16, 16))
        before = roomy.fixed(9)[0]
        for e in examples[1:]:
            e.path.unlink()
        assert torch.equal(roomy.fixed(9)[0], before)

    def test_no_examples_are_refused(self) -> None:
        with pytest.raises(UsageError, match="no pictures"):
            Pictures([], size=(16, 16))

    @pytest.mark.parametrize(
        "wrong",
        [{"scale": (1.1, 0.9)}, {"scale": (0.0, 1.0)}, {"rotate": -1.0}, {"rotate": float("nan")}, {"shift": 0.6}],
    )
    def test_an_augmentation_out_of_range_is_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(UsageError) as caught:
            Augmentation(**wrong)  # type: ignore[arg-type]
        assert [caught.value.field] == list(wrong)


class TestCorruptFiles:
    def test_headers_are_looked_at_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # nothing is decoded
        examples = hues(tmp_path, 70)
        assert readable(examples) == examples
        paint(examples[3].path, size=(8, 24))
        examples[4].path.write_bytes(b"no picture")
        examples[5].path.write_bytes(examples[6].path.read_bytes()[:-9])
        examples[7].path.unlink()
        examples[8].path.write_bytes(b"")
        with pytest.warns(SketchguideWarning, match=r"^5 pictures are left out: ") as caught:
            left = readable(examples)
        assert left == [e for n, e in enumerate(examples) if n not in (3, 4, 5, 7, 8)]
        for why in (
            "3.png has 8 × 24",
            "4.png is not a readable",
            "5.png cannot be",
            "7.png is not an",
            "8.png is empty",
        ):
            assert why in str(caught[0].message)
        for e in examples[40:]:
            e.path.write_bytes(b"")
        with pytest.raises(UsageError, match=r"^35 of 70 pictures cannot be used, .*; and 15 more\. ") as refusal:
            readable(examples)
        assert refusal.value.hint == "Repair or remove these files."

    def test_one_in_ten_is_skipped_and_counted(self, tmp_path: Path) -> None:
        examples = hues(tmp_path, 10)
        whole = examples[4].path.read_bytes()
        examples[4].path.write_bytes(whole[: len(whole) // 2])
        pictures = Pictures(examples, size=(16, 16))
        _, captions = pictures.batch(torch.Generator().manual_seed(0), 100)
        assert len(captions) == 100
        assert set(captions) == {str(i) for i in range(10) if i != 4}
        assert [path for path, _ in pictures.skipped] == [examples[4].path]
        assert "damaged" in pictures.skipped[0][1]
        assert len(pictures.fixed(10)[1]) == 9
        assert len(pictures.skipped) == 1

    def test_more_stop_the_training_and_the_first_are_named(self, tmp_path: Path) -> None:
        examples = hues(tmp_path, 20)
        for e in examples[:5]:
            e.path.write_bytes(b"")
        pictures = Pictures(examples, size=(16, 16))
        for _ in range(2):
            with pytest.raises(TrainingError, match="3 of 20 pictures cannot be read") as caught:
                pictures.fixed(20)
        assert caught.value.message.count("is empty") == 3
        assert str(pictures.skipped[0][0]) in caught.value.message

    def test_both_sides_of_a_split_count_together(self, tmp_path: Path) -> None:
        training, held_out = split(hues(tmp_path, 20))
        assert len(held_out) < 10
        for e in held_out[:1]:
            e.path.write_bytes(b"")
        pictures = Pictures(training, size=(16, 16))
        others = Pictures(held_out, size=(16, 16), beside=pictures)
        assert len(others.fixed(20)[1]) == len(held_out) - 1
        assert [path for path, _ in pictures.skipped] == [held_out[0].path]

    def test_nothing_held_out_that_can_be_read(self, tmp_path: Path) -> None:
        training, (lost,) = split(hues(tmp_path, 12), held_out=0.01)
        lost.path.write_bytes(b"")
        others = Pictures([lost], size=(20, 16), beside=Pictures(training, size=(20, 16)))
        images, captions = others.fixed(4)
        assert images.shape == (0, 3, 16, 20)
        assert captions == []

    def test_none_left(self, tmp_path: Path) -> None:
        (only := paint(tmp_path / "a.png")).unlink()
        pictures = Pictures([example(only)], size=(16, 16))
        for _ in range(2):
            with pytest.raises(TrainingError, match="1 of 1"):
                pictures.batch(torch.Generator(), 1)


@pytest.mark.shared
def test_real_photos() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "caltech101"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    found = find_examples(folder)
    assert len(found) > 4000
    assert {"car side", "accordion"} <= {e.caption for e in found}
    few = find_examples(folder, limit=40)
    training, held = split(few, held_out=0.2)
    pictures = Pictures(training, size=(64, 64))
    images, captions = pictures.batch(torch.Generator().manual_seed(0), 16)
    assert images.shape == (16, 3, 64, 64)
    assert images.std() > 0.3
    assert set(captions) <= {e.caption for e in training}
    assert len(Pictures(held, size=(64, 64)).fixed(40)[1]) == len(held)
    assert pictures.skipped == []


def test_a_table_of_captions_is_read_as_a_list_is(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    text = '\ufefffile_name,split,text\r\na.png,x,"a cat, asleep"\r\nb.png,x,a dog\r\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8", newline="")
    assert [(one.name, one.caption) for one in find_examples(tmp_path)] == [
        ("a.png", "a cat, asleep"),
        ("b.png", "a dog"),
    ]
    (tmp_path / "b.png").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "a lion"}\n')
    assert [one.caption for one in find_examples(tmp_path)] == ["a lion"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file_name,text\na.png\n", "lacks a file name or a caption"),
        ("name,text\na.png,a cat\n", "has the columns 'name', 'text'; file_name and text are needed"),
        ("file_name;text\na.png;a cat\n", "has the columns 'file_name;text'; file_name and text are needed"),
        ("file_name,text\nz.png,a cat\n", "names 'z.png'"),
        ('file_name,text\na.png,"a cat\n', "not a table"),
        ("file_name,text\na.png,a cat, asleep\n", "line 2 has more columns than the first line names"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UsageError, match=reason):
        find_examples(tmp_path)


def test_a_table_of_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"metadata\.parquet is not read"):
        find_examples(tmp_path)


def test_other_pictures_under_the_same_names_are_others(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    before = digest(find_examples(tmp_path))
    Image.effect_noise((32, 32), 50).save(tmp_path / "a.png")
    assert digest(find_examples(tmp_path)) != before
