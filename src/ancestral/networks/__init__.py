"""Networks as plain maps of tensors: they know no chain, no schedule, no data and no options file."""

from ancestral.networks.conv import ConvDecoder, ConvEncoder
from ancestral.networks.fourier import Fourier
from ancestral.networks.mlp import MLP
from ancestral.networks.time import TimeEmbedding, TimeMLP
from ancestral.networks.transformer import Transformer
from ancestral.networks.unet import UNet

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "Fourier", "TimeEmbedding", "TimeMLP", "Transformer", "UNet"]
