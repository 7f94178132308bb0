from .branches import tie_branches as tie_branches
from .jacobians import layer_gradients as layer_gradients
from .sensitivity import combined_norm as combined_norm
from .sensitivity import sensitivity_ratio as sensitivity_ratio
from .sensitivity import sensitivity_terms as sensitivity_terms
from .sensitivity import sensitivity_threshold as sensitivity_threshold
from .vector_jacobian import alignment_hutchinson as alignment_hutchinson
from .vector_jacobian import alignment_losspath as alignment_losspath
