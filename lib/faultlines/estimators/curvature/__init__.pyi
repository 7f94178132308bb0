from .bounds import curvature_link as curvature_link
from .inputs import input_curvature as input_curvature
from .parameters import hessian_top as hessian_top
from .parameters import hessian_trace as hessian_trace
