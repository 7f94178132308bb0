from .attention import Attention as Attention
from .attention import Mechanism as Mechanism
from .attention import SoftmaxMechanism as SoftmaxMechanism
from .recorder import LayerRecord as LayerRecord
from .recorder import Tape as Tape
from .recorder import record as record
from .vit import Block as Block
from .vit import ViT as ViT
