from .correlation import cosine as cosine
from .correlation import spearman as spearman
from .correlation import topk_intersection as topk_intersection
from .kendall import kendall_tau as kendall_tau
