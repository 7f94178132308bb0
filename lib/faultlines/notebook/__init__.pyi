from .chapters import Chapter as Chapter
from .errors import UsageError as UsageError
from .freshness import State as State
from .freshness import freshness as freshness
from .parameters import Parameter as Parameter
from .project import Project as Project
from .provenance import Provenance as Provenance
from .runs import Runs as Runs
