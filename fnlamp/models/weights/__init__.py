"""Other people's weights: torch state dicts by name into the same architectures here, and back."""

from fnlamp.models.weights.bert import bert as bert
from fnlamp.models.weights.bert import masked_language_model as masked_language_model
from fnlamp.models.weights.bert import sentence_classifier as sentence_classifier
from fnlamp.models.weights.gpt2 import gpt2 as gpt2
from fnlamp.models.weights.layer import of_layer as of_layer
from fnlamp.models.weights.llama import llama as llama
from fnlamp.models.weights.resnet import resnet as resnet
from fnlamp.models.weights.resnet import torchvision_resnet as torchvision_resnet
from fnlamp.models.weights.state_dict import Weights as Weights
from fnlamp.models.weights.vit import vit as vit
