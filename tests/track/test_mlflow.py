"""MLflow's own client writes; its store of files is read by hand."""

import math

import pytest
from outcomes import needs, value
from telling import VALUES

from fnlamp import track
from fnlamp.effect import Effect

pytestmark = [needs("mlflow"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_metrics_parameters_and_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    events = [track.Measured({"train.loss": step / 3, 'odd "name"': 1.0}, step) for step in range(1500)]
    events += [track.Measured({**VALUES, "x": math.nan}, 3, lane=1)]
    program = Effect.asks(lambda runtime: [runtime.tell(event) for event in events] and None)
    store = tmp_path / "store"
    writer = track.mlflow(f"file://{store}", experiment="mine", run_name="first", hyper={"rate": 0.1})
    assert not value(track.tracked(program, writer)).warnings
    (run,) = [path.parent for path in store.glob("*/*/metrics")]
    rows = [line.split() for line in (run / "metrics" / "train.loss").read_text().splitlines()]
    assert [(float(x), int(step)) for _, x, step in rows] == [(step / 3, step) for step in range(1500)]
    assert (run / "metrics" / "lane1" / "x").read_text().split()[1] == "nan"
    assert (run / "params" / "rate").read_text() == "0.1"
    assert [path.name for path in (run / "metrics").iterdir() if path.name.startswith("odd")] == ["odd _name_"]
    assert (run / "artifacts" / "lane1" / "text" / "000000000003.txt").read_text() == VALUES["text"].text
    assert "end_time" in (run / "meta.yaml").read_text()
