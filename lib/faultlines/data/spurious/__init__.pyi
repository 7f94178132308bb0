from .benchmark import SpuriousBenchmark as SpuriousBenchmark
from .benchmark import spurious_benchmark as spurious_benchmark
from .grouped import CLASSES as CLASSES
from .grouped import LOCATIONS as LOCATIONS
from .grouped import Cell as Cell
from .grouped import GroupedImages as GroupedImages
from .grouped import benchmark_cells as benchmark_cells
from .rendering import render_groups as render_groups
