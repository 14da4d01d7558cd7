"""Text: codecs, and batches for language models, for sequences of different lengths, and for BERT's tasks."""

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
