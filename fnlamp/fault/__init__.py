"""Expected failures as values: frozen dataclasses named as facts. Each says what it expected, what it got, where, what to do.

Pure code raises them inside a `FaultError`; `Effect.checked` turns that into a `Failure`. This package imports nothing else of
fnlamp, so every other package may use a fault.
"""

from fnlamp.fault.array import DtypeMismatch as DtypeMismatch
from fnlamp.fault.array import PredictionMismatch as PredictionMismatch
from fnlamp.fault.array import ShapeMismatch as ShapeMismatch
from fnlamp.fault.array import SizesMismatch as SizesMismatch
from fnlamp.fault.base import Fault as Fault
from fnlamp.fault.base import FaultError as FaultError
from fnlamp.fault.base import located as located
from fnlamp.fault.base import printable as printable
from fnlamp.fault.checkpoint import FileTooNew as FileTooNew
from fnlamp.fault.checkpoint import FolderInUse as FolderInUse
from fnlamp.fault.checkpoint import NoCheckpoint as NoCheckpoint
from fnlamp.fault.checkpoint import NotStorable as NotStorable
from fnlamp.fault.checkpoint import ProgramDiffers as ProgramDiffers
from fnlamp.fault.checkpoint import RunExists as RunExists
from fnlamp.fault.checkpoint import StateMismatch as StateMismatch
from fnlamp.fault.config import ConfigError as ConfigError
from fnlamp.fault.config import CyclicFields as CyclicFields
from fnlamp.fault.config import FormulaFailed as FormulaFailed
from fnlamp.fault.config import MissingValue as MissingValue
from fnlamp.fault.config import NotAnOverride as NotAnOverride
from fnlamp.fault.config import TypeMismatch as TypeMismatch
from fnlamp.fault.config import UnknownField as UnknownField
from fnlamp.fault.config import UnknownNeed as UnknownNeed
from fnlamp.fault.config import UnknownOption as UnknownOption
from fnlamp.fault.download import ChecksumMismatch as ChecksumMismatch
from fnlamp.fault.download import DownloadFailed as DownloadFailed
from fnlamp.fault.export import NotExportable as NotExportable
from fnlamp.fault.export import WrongPlatform as WrongPlatform
from fnlamp.fault.extra import ExtraMissing as ExtraMissing
from fnlamp.fault.extra import NoDisplay as NoDisplay
from fnlamp.fault.file import BadCell as BadCell
from fnlamp.fault.file import FileCorrupt as FileCorrupt
from fnlamp.fault.file import FileFault as FileFault
from fnlamp.fault.file import FileMissing as FileMissing
from fnlamp.fault.file import FileUnwritable as FileUnwritable
from fnlamp.fault.file import OutOfMemory as OutOfMemory
from fnlamp.fault.file import TooLarge as TooLarge
from fnlamp.fault.file import UnknownClass as UnknownClass
from fnlamp.fault.loading import BufferReused as BufferReused
from fnlamp.fault.loading import HiddenRandomness as HiddenRandomness
from fnlamp.fault.loading import ItemFailed as ItemFailed
from fnlamp.fault.loading import LoadFault as LoadFault
from fnlamp.fault.loading import NotPicklable as NotPicklable
from fnlamp.fault.loading import NotRereadable as NotRereadable
from fnlamp.fault.loading import ResourceExhausted as ResourceExhausted
from fnlamp.fault.loading import WorkerLost as WorkerLost
from fnlamp.fault.text import CodecFailed as CodecFailed
from fnlamp.fault.text import UnknownToken as UnknownToken
from fnlamp.fault.training import BatchTooSmall as BatchTooSmall
from fnlamp.fault.training import Broken as Broken
from fnlamp.fault.training import ClassesDiffer as ClassesDiffer
from fnlamp.fault.training import EmptyEpoch as EmptyEpoch
from fnlamp.fault.training import Interrupted as Interrupted
from fnlamp.fault.training import LabelOutOfRange as LabelOutOfRange
from fnlamp.fault.training import NonFinite as NonFinite
from fnlamp.fault.training import NotDifferentiable as NotDifferentiable
from fnlamp.fault.training import NoWeight as NoWeight
from fnlamp.fault.training import PlanFault as PlanFault
from fnlamp.fault.training import ResumedElsewhere as ResumedElsewhere
from fnlamp.fault.training import SaveFault as SaveFault
from fnlamp.fault.training import StepsExceeded as StepsExceeded
from fnlamp.fault.training import TrainFault as TrainFault
