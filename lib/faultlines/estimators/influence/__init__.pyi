from .kernel import first_order_influence as first_order_influence
from .kernel import loo_influence as loo_influence
from .kernel import representer_influence as representer_influence
from .scores import hessian_scores as hessian_scores
from .scores import tracin_scores as tracin_scores
from .scores import trak_scores as trak_scores
from .sensitivity import Sensitivity as Sensitivity
from .sensitivity import influence_sensitivity as influence_sensitivity
