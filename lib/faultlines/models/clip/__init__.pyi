from .checkpoints import load_clip as load_clip
from .checkpoints import load_published as load_published
from .towers import ImageTower as ImageTower
from .towers import TextTower as TextTower
from .towers import WordTokenizer as WordTokenizer
from .two_tower import CLIP as CLIP
from .two_tower import ZeroShot as ZeroShot
from .two_tower import contrastive_loss as contrastive_loss
