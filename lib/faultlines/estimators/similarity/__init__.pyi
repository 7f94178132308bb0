from .correlation import cosine as cosine
from .correlation import spearman as spearman
from .kendall import kendall_tau as kendall_tau
from .spatial import mass_center_shift as mass_center_shift
from .spatial import ssim as ssim
from .top import topk_intersection as topk_intersection
