from .kernel import first_order_influence as first_order_influence
from .kernel import loo_influence as loo_influence
from .kernel import representer_influence as representer_influence
