from .catalogue import KNOWN as KNOWN
from .catalogue import KnownSet as KnownSet
from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .loading import load as load
from .survey import Availability as Availability
from .survey import available as available
