"""TensorBoard reads what is written: its own event accumulator is the judge."""

import io
import math
import socket

import numpy as np
import pytest
from outcomes import needs, value
from telling import VALUES

from fnlamp import track
from fnlamp.effect import Effect

pytestmark = [needs("tensorboard"), pytest.mark.filterwarnings("ignore")]
pytest.importorskip("tensorboardX")


def told(folder, *events, **options):
    program = Effect.asks(lambda runtime: [runtime.tell(event) for event in events] and None)
    assert not value(track.tracked(program, track.tensorboard(folder, **options))).warnings


def read(folder):
    from tensorboard.backend.event_processing import event_accumulator

    all_of_them = dict.fromkeys(("scalars", "tensors", "histograms", "images"), 0)
    found = event_accumulator.EventAccumulator(str(folder), size_guidance=all_of_them)
    found.Reload()
    return found


@pytest.mark.slow
def test_scalars_come_back_and_a_resume_purges(tmp_path):
    numbers = [0.1, math.nan, math.inf, -math.inf, 1e-300, 1e300, -3.5]
    told(tmp_path, *(track.Measured({"train.loss": x, "a/b": 2.0}, step) for step, x in enumerate(numbers)))
    found = read(tmp_path)
    assert found.Tags()["scalars"] == ["train/loss", "a/b"]
    events = found.Scalars("train/loss")
    with np.errstate(over="ignore"):
        expected = np.array(numbers).astype(np.float32)
    assert np.array_equal([event.value for event in events], expected, equal_nan=True)
    assert [event.step for event in events] == [*range(7)]
    told(tmp_path, track.Started(3), track.Measured({"train.loss": 9.0}, 4))
    events = read(tmp_path).Scalars("train/loss")
    assert [(event.step, event.value) for event in events][-2:] == [(3, -math.inf), (4, 9.0)]
    assert len(events) == 5


@pytest.mark.slow
def test_histograms_images_texts_and_hyperparameters(tmp_path):
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    histogram = track.Histogram(np.linspace(-1, 1, 5), [1, 0, 4, 2])
    values = {**VALUES, "histogram": histogram, "image": track.Image(pixels)}
    hyper = {"rate": 0.1, "rule": "adam", "n": np.int64(3)}
    told(tmp_path, track.Measured(values, 7), track.Measured({"image": 1.0}, 7, lane=2), hyper=hyper)
    found = read(tmp_path)
    (event,) = found.Histograms("histogram")
    assert event.step == 7
    assert event.histogram_value.num == 7
    assert event.histogram_value.bucket_limit == np.linspace(-1, 1, 5).tolist()
    assert event.histogram_value.bucket == [0, 1, 0, 4, 2]
    (event,) = found.Images("image")
    image = pytest.importorskip("PIL.Image")
    with image.open(io.BytesIO(event.encoded_image_string)) as file:
        assert np.array_equal(np.asarray(file), pixels)
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"] if "text" in tag}
    assert texts["text/text_summary"] == VALUES["text"].text
    assert texts["rows/text_summary"].startswith("| a | b |\n| --- | --- |\n| 1 | nan |")
    assert read(tmp_path / "lane2").Scalars("image")[0].value == 1.0
    assert "_hparams_/session_start_info" in found.summary_metadata


@pytest.mark.slow
def test_names_that_would_share_a_tag_do_not(tmp_path):
    told(tmp_path, track.Measured({"a.b": 1.0, "a/b": 2.0}, 1), track.Measured({"a.b": VALUES["histogram"]}, 2))
    found = read(tmp_path)
    assert {tag: found.Scalars(tag)[0].value for tag in found.Tags()["scalars"]} == {"a/b": 1.0, "a/b (scalar)": 2.0}
    assert len(found.Tags()["histograms"]) == 1


def test_scalars_open_no_socket_and_import_nothing_large(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    told(tmp_path, track.Measured({"x": 1.0}, 1))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size > 50


@pytest.mark.slow
def test_the_folder_is_removed_during_the_run(tmp_path):
    import shutil

    with track.tensorboard(tmp_path / "run")() as write:
        write([track.Entry({"x": 1.0}, 1)])
        shutil.rmtree(tmp_path / "run")
        write([track.Entry({"x": 2.0}, 2)])
    assert [(event.step, event.value) for event in read(tmp_path / "run").Scalars("x")] == [(2, 2.0)]


def test_a_wrong_hyperparameter_is_named():
    with pytest.raises(TypeError, match="'rates'"):
        track.tensorboard("f", hyper={"rates": [1, 2]})
