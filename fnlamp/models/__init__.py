"""Whole networks, one per file."""

from fnlamp.models import weights as weights
from fnlamp.models.bert import bert as bert
from fnlamp.models.bert import mask_tokens as mask_tokens
from fnlamp.models.bert import masked_language_model as masked_language_model
from fnlamp.models.bert import sentence_classifier as sentence_classifier
from fnlamp.models.gpt import gpt as gpt
from fnlamp.models.lstm_lm import lstm_lm as lstm_lm
from fnlamp.models.recurrent_seq2seq import recurrent_seq2seq as recurrent_seq2seq
from fnlamp.models.resnet import resnet as resnet
from fnlamp.models.seq2seq import seq2seq as seq2seq
from fnlamp.models.seq2seq import teacher_forcing as teacher_forcing
from fnlamp.models.transformer import transformer as transformer
from fnlamp.models.unet import unet as unet
from fnlamp.models.vit import vit as vit
