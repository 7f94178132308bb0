from .attention import VARIANTS as VARIANTS
from .attention import attention_bound as attention_bound
from .jacobian import jacobian_norm as jacobian_norm
from .jacobian import logit_jacobian_norm as logit_jacobian_norm
from .local import layer_lipschitz as layer_lipschitz
from .local import local_lipschitz as local_lipschitz
