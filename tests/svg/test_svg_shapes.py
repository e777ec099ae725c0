import numpy as np
import pytest

from drawings import LINE, box, svg


@pytest.mark.parametrize(
    "shape",
    [
        '<line x1="20" y1="30" x2="80" y2="60" {}/>',
        '<polyline points="20,30 50 60,80 40" {}/>',
        '<polygon points="20,30 50 60 80 40" {}/>',
        '<rect x="20" y="30" width="60" height="30" {}/>',
        '<rect x="20" y="30" width="60" height="30" rx="9" {}/>',
        '<rect x="20" y="30" width="60" height="30" rx="90" ry="4" {}/>',
        '<ellipse cx="50" cy="45" rx="30" ry="15" {}/>',
        '<path d="M20 30 L80 60" {}/>',
        '<path d="m20,30h60v30" {}/>',
        '<path d="M20 30C20 70 80 70 80 30M50 60" {}/>',
        '<path d="M20 45a30 15 0 1160 0 30 15 0 01-60 0z" {}/>',
        '<path d="M20 45 A 30 15 0\n1 1 80 45\nA 30. 15 0 0 1 20 45" {}/>',
        '<path d="M20 30 80 60q0 0 0 0t0 0" {}/>',
        '<path d="M020 030. L 080 0060" {}/>',
    ],
)
def test_shapes(shape: str) -> None:
    assert box(svg(shape.format(LINE))) == pytest.approx([0.2, 0.3, 0.8, 0.6], abs=0.003)


def test_circles_are_round_and_curves_smooth() -> None:
    points = svg(f'<circle cx="50" cy="50" r="40" {LINE}/>').strokes[0].points.astype(float)
    radius = np.hypot(*(points - 0.5).T)
    assert radius == pytest.approx(0.4, abs=2e-4)
    turns = np.unwrap(np.arctan2(*np.diff(points, axis=0).T))
    assert np.abs(np.diff(turns)).max() < 0.3


def test_subpaths_are_strokes() -> None:
    sketch = svg(f'<path d="M1 1 9 9 1 9 Z M20 20 30 30 m5 5 9 9 z l5 0" {LINE}/>')
    assert [stroke.closed for stroke in sketch.strokes] == [True, False, True, False]
    assert sketch.strokes[-1].points == pytest.approx(np.array([[0.35, 0.35], [0.40, 0.35]]))


def test_numbers_of_paths_may_run_together_and_begin_with_zeros() -> None:
    (stroke,) = svg(f'<path d="M010 05.5L1.5.5 5..5-5-.5e1" {LINE}/>').strokes
    assert stroke.points == pytest.approx(np.array([[10, 5.5], [1.5, 0.5], [5, 0.5], [-5, -5]]) / 100)


def test_an_arc_without_a_radius_is_a_line() -> None:
    arc = svg(f'<path d="M10 10 A0 9 0 0 1 90 10 a9 0 0 010 80 L10 90" {LINE}/>').strokes[0]
    assert arc.points == pytest.approx(np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]))


@pytest.mark.parametrize("path", ["M12 4v16M0 0", "M12 4v16m0 0", "M0 0M12 4v16"])
def test_a_move_alone_draws_nothing(path: str) -> None:
    assert len(svg(f'<path d="{path}" {LINE}/>').strokes) == 1
    assert len(svg(f'<path d="{path} M5 5z M6 6h0" {LINE}/>').strokes) == 3
