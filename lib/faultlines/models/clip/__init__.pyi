from .checkpoints import load_clip as load_clip
from .convert import convert_checkpoint as convert_checkpoint
from .image import ImageTower as ImageTower
from .text import TextTower as TextTower
from .tokenizer import WordTokenizer as WordTokenizer
from .two_tower import CLIP as CLIP
from .two_tower import ZeroShot as ZeroShot
from .two_tower import contrastive_loss as contrastive_loss
