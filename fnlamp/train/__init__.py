"""Training programs: described with `epochs`, run by an executor."""

from fnlamp.fault import TrainFault as TrainFault
from fnlamp.train.epochs import epochs as epochs
from fnlamp.train.evaluate import Evaluation as Evaluation
from fnlamp.train.evaluate import evaluate as evaluate
from fnlamp.train.execute import Fused as Fused
from fnlamp.train.execute import Stepwise as Stepwise
from fnlamp.train.factory import LoopContext as LoopContext
from fnlamp.train.state import EpochReport as EpochReport
from fnlamp.train.state import Trained as Trained
from fnlamp.train.state import TrainState as TrainState
from fnlamp.train.supervised import Supervised as Supervised
from fnlamp.train.supervised import supervised as supervised
