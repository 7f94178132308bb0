from .bounds import curvature_link as curvature_link
from .hessian_vector import HessianProduct as HessianProduct
from .inputs import input_curvature as input_curvature
from .inputs import input_hessian as input_hessian
from .krylov import lanczos as lanczos
from .parameters import hessian_top as hessian_top
from .parameters import hessian_trace as hessian_trace
from .parameters import hutchinson as hutchinson
