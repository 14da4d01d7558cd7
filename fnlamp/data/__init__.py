"""Data: files, text and data sets in, batches out. Reading is a program that may fail with a typed fault, and runs no code of
the file's."""

from fnlamp.data.arrow import read_arrow as read_arrow
from fnlamp.data.arrow import read_parquet as read_parquet
from fnlamp.data.collate import stack as stack
from fnlamp.data.csv import read_csv as read_csv
from fnlamp.data.dataset import Arrays as Arrays
from fnlamp.data.dataset import Dataset as Dataset
from fnlamp.data.dataset import Subset as Subset
from fnlamp.data.dataset import Transformed as Transformed
from fnlamp.data.dataset import from_arrays as from_arrays
from fnlamp.data.dataset import random_split as random_split
from fnlamp.data.dataset import subset as subset
from fnlamp.data.dataset import with_transform as with_transform
from fnlamp.data.download import fetch as fetch
from fnlamp.data.folder import image_folder as image_folder
from fnlamp.data.grain import from_grain as from_grain
from fnlamp.data.idx import read_idx as read_idx
from fnlamp.data.image import ImageFiles as ImageFiles
from fnlamp.data.image import image_table as image_table
from fnlamp.data.image import read_image as read_image
from fnlamp.data.loader import loader as loader
from fnlamp.data.named import ImageSet as ImageSet
from fnlamp.data.named import NamedFault as NamedFault
from fnlamp.data.named import cifar10 as cifar10
from fnlamp.data.named import digits as digits
from fnlamp.data.named import fashion_mnist as fashion_mnist
from fnlamp.data.named import kmnist as kmnist
from fnlamp.data.named import mnist as mnist
from fnlamp.data.npy import map_npy as map_npy
from fnlamp.data.npy import read_npy as read_npy
from fnlamp.data.npy import read_npz as read_npz
from fnlamp.data.pickle import read_pickle as read_pickle
from fnlamp.data.safetensors import read_safetensors as read_safetensors
from fnlamp.data.table import Table as Table
from fnlamp.data.text.bpe import BpeCodec as BpeCodec
from fnlamp.data.text.bpe import train_bpe as train_bpe
from fnlamp.data.text.codec import ByteCodec as ByteCodec
from fnlamp.data.text.codec import CharacterCodec as CharacterCodec
from fnlamp.data.text.codec import Codec as Codec
from fnlamp.data.text.codec import WordCodec as WordCodec
from fnlamp.data.text.codec import byte_codec as byte_codec
from fnlamp.data.text.codec import character_codec as character_codec
from fnlamp.data.text.codec import word_codec as word_codec
from fnlamp.data.text.language_model import language_model_batches as language_model_batches
from fnlamp.data.text.masked import masked_batches as masked_batches
from fnlamp.data.text.padding import padded_batches as padded_batches
from fnlamp.data.text.store import read_codec as read_codec
from fnlamp.data.text.store import read_text as read_text
from fnlamp.data.text.store import save_codec as save_codec
from fnlamp.data.transform import at as at
from fnlamp.data.transform import compose as compose
from fnlamp.data.transform import normalize as normalize
from fnlamp.data.transform import to_float as to_float
from fnlamp.data.workers import Workers as Workers
from fnlamp.data.workers import processes as processes
from fnlamp.data.workers import threads as threads
from fnlamp.elsewhere import LOADERS as _LOADERS
from fnlamp.elsewhere import elsewhere as _elsewhere

# Set, not written out: type checkers would take any name for one of the module.
globals()["__getattr__"] = _elsewhere(__name__, _LOADERS)
