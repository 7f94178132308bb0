from .kernel import influence_sensitivity as influence_sensitivity
from .kernel import loo_influence as loo_influence
from .scores import hessian_scores as hessian_scores
from .scores import tracin_scores as tracin_scores
from .scores import trak_scores as trak_scores
