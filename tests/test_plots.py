"""What is in the files of plots, and what stays behind."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import matplotlib.figure
import numpy as np
import outcomes
import PIL.Image
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import optim, plots
from fnlamp.fault import FileUnwritable, LabelOutOfRange, NoDisplay, ShapeMismatch

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 4, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (30, 4, 5, 3), np.uint8)


@pytest.fixture(autouse=True)
def agg(monkeypatch):
    matplotlib.use("agg")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figure as `savefig` sees it, before it is closed."""
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))

    def drawn(*arguments, **options):
        path = tmp_path / "grid.png"
        outcome = plots.show_images(*arguments, path=path, **options).run()
        assert is_successful(outcome), outcome
        assert unsafe_perform_io(outcome.unwrap()) == path
        with PIL.Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 50
        return figures.pop().axes

    return drawn


def fault(*arguments, **options):
    return outcomes.fault(plots.show_images(*arguments, **options))


def shown(axes):
    return axes.images[0].get_array() if axes.images else None


def test_a_grid_of_five_by_five_with_titles(drawn):
    axes = drawn(GREY, np.arange(30))
    assert len(axes) == 25
    assert [one.get_title() for one in axes] == [str(i) for i in range(25)]
    assert not any(one.axison for one in axes)
    for i, one in enumerate(axes):
        np.testing.assert_array_equal(shown(one), GREY[i])
        assert one.images[0].get_clim() == (0, 255)
        assert one.images[0].get_cmap().name == "gray"
    tops = [one.get_position().y1 for one in axes]
    lefts = [one.get_position().x0 for one in axes]
    assert tops[0] > tops[5] and lefts[0] < lefts[1]  # row by row, from the top left


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(drawn, channels):
    images = RNG.integers(0, 256, (2, 4, 5, channels), np.uint8)
    axes = drawn(images, rows=1, columns=2)
    np.testing.assert_array_equal(shown(axes[1]), images[1, ..., 0] if channels == 1 else images[1])


def test_fewer_images_than_cells_and_none_at_all(drawn):
    axes = drawn(COLOUR[:3], ["a", "b", "$x_1"], rows=2, columns=3)
    assert [one.get_title() for one in axes] == ["a", "b", "$x_1", "", "", ""]
    assert [shown(one) is not None for one in axes] == [True] * 3 + [False] * 3
    assert all(shown(one) is None for one in drawn(COLOUR[:0], [], rows=1, columns=2))


def test_names_of_classes(drawn):
    axes = drawn(GREY[:2], np.array([1, 0]), classes=["cat", "dog"], rows=1, columns=2)
    assert [one.get_title() for one in axes] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("images", "bytes"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.2, 0.4, 0.31], [51, 102, 79]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([0.0, 100.0, 200.0], [0, 128, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([-2.0, np.inf, 2.0], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([5.0, 5.0, 5.0], [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_become_bytes(drawn, images, bytes, dtype):
    image = np.array(images, dtype).reshape(1, 1, 3)
    np.testing.assert_array_equal(shown(drawn(image, rows=1, columns=1)[0])[0], bytes)


def test_integers_and_truth_values(drawn):
    for dtype in (np.int32, np.int64, np.uint16):
        np.testing.assert_array_equal(shown(drawn(GREY.astype(dtype), rows=1, columns=1)[0]), GREY[0])
    np.testing.assert_array_equal(shown(drawn(GREY > 99, rows=1, columns=1)[0]), 255 * (GREY[0] > 99))
    wide = np.array([[[0, 1000, 2000]]])
    np.testing.assert_array_equal(shown(drawn(wide, rows=1, columns=1)[0]), [[0, 128, 255]])


def test_arrays_of_jax(drawn):
    import jax.numpy as jnp

    axes = drawn(jnp.asarray(COLOUR) / 255, jnp.arange(30), rows=2, columns=2)
    np.testing.assert_array_equal(shown(axes[3]), COLOUR[3])
    drawn(jnp.ones((1, 2, 2, 3), jnp.bfloat16), rows=1, columns=1)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5, 2), (1, 2, 3, 4, 3), (2, 0, 5), (2, 4, 5, 0)])
def test_other_shapes_are_a_fault(shape, tmp_path):
    assert isinstance(fault(np.zeros(shape), path=tmp_path / "a.png"), ShapeMismatch)


def test_other_labels_are_a_fault(tmp_path):
    path = tmp_path / "a.png"
    assert isinstance(fault(GREY, np.arange(29), path=path), ShapeMismatch)
    assert isinstance(fault(GREY, np.zeros((30, 10)), path=path), ShapeMismatch)
    assert isinstance(fault(GREY, np.zeros(30), classes=["a"], path=path), ShapeMismatch)
    assert isinstance(fault(np.full((1, 2, 2), "a"), path=path), ShapeMismatch)
    found = fault(GREY, np.array([0, 1, -1] * 10), classes=["a", "b"], path=path)
    assert found == LabelOutOfRange(-1, 2, 2, where="show_images")
    assert not path.exists()


def test_anything_but_an_array_is_a_fault(tmp_path):
    path = tmp_path / "a.png"
    assert isinstance(fault([np.zeros((3, 3)), np.zeros((4, 4))], path=path), ShapeMismatch)
    assert isinstance(fault(np.zeros((2, 3, 3)), [[1], [1, 2]], path=path), ShapeMismatch)


def test_a_tensor_with_a_gradient(drawn):
    torch = pytest.importorskip("torch")
    assert shown(drawn(torch.ones((1, 3, 3), requires_grad=True), rows=1, columns=1)[0]).min() == 255


def test_a_path_that_cannot_be_written(tmp_path):
    assert isinstance(fault(GREY, path=tmp_path / "none" / "a.png"), FileUnwritable)
    found = fault(GREY, path=tmp_path / "a.docx")
    assert isinstance(found, FileUnwritable) and "png" in found.reason and ".docx" in found.reason


def test_a_grid_without_cells_is_a_bug():
    with pytest.raises(ValueError, match="grid"):
        plots.show_images(GREY, rows=0)


@pytest.mark.slow
def test_other_formats(tmp_path):
    for ending in ("pdf", "svg", "JPG"):
        path = tmp_path / f"a.{ending}"
        assert is_successful(plots.show_images(GREY, path=path, rows=2, columns=2).run())
        assert path.stat().st_size > 1000


def test_without_a_display_it_is_a_fault():
    assert fault(GREY) == NoDisplay("agg")
    assert "give a path" in str(fault(GREY))


@pytest.mark.slow
def test_on_a_display_the_figure_is_shown_once_and_closed(monkeypatch):
    from matplotlib import pyplot

    pyplot.close("all")
    seen = []
    monkeypatch.setattr(pyplot, "get_backend", lambda: "qtagg")
    monkeypatch.setattr(pyplot, "show", lambda: seen.append([len(pyplot.figure(n).axes) for n in pyplot.get_fignums()]))
    assert unsafe_perform_io(plots.show_images(GREY).run().unwrap()) is None
    assert seen == [[25]]
    assert pyplot.get_fignums() == []


@pytest.mark.slow
def test_writing_a_file_does_not_use_pyplot(tmp_path):
    code = f"""
import sys
import numpy as np
from fnlamp import optim, plots
program = plots.show_images(np.zeros((3, 4, 4)), path={str(tmp_path / "a.png")!r})
assert "matplotlib" not in sys.modules
program.run().unwrap()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert (tmp_path / "a.png").exists()


def test_nothing_is_drawn_before_run(tmp_path):
    plots.show_images(GREY, path=tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_schedule_is_drawn_at_each_step(tmp_path, monkeypatch):
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    path = tmp_path / "schedule.png"
    assert outcomes.value(plots.schedule(optim.cyclic(1.0, 3.0, 2), 9, path=path)) == path
    (line,) = figures[0].axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), range(9))
    np.testing.assert_array_equal(line.get_ydata(), [1, 2, 3, 2, 1, 2, 3, 2, 1])
    assert figures[0].axes[0].get_xlabel() == "step"


def test_a_schedule_without_a_display_or_a_folder_is_a_fault(tmp_path):
    assert outcomes.fault(plots.schedule(optim.cosine(3), 3)) == NoDisplay("agg")
    assert isinstance(outcomes.fault(plots.schedule(optim.cosine(3), 3, path=tmp_path / "none" / "a.png")), FileUnwritable)
