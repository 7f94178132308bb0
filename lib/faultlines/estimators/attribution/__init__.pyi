from .attribute import METHODS as METHODS
from .attribute import attribute as attribute
from .attribute import pixel_map as pixel_map
from .gradient import gradient as gradient
from .gradient import input_x_gradient as input_x_gradient
