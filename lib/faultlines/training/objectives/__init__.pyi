from .adversarial import Adversarial as Adversarial
from .cross_entropy import CrossEntropy as CrossEntropy
from .input_gradient import InputGradient as InputGradient
from .jasmin import JaSMin as JaSMin
from .jasmin import jasmin as jasmin
from .map_entropy import MapEntropy as MapEntropy
from .objective import Objective as Objective
from .score_norm import ScoreNorm as ScoreNorm
