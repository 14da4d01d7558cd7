"""One program in several processes: joined, met at barriers with a deadline, left without hanging."""

from fnlamp.scale.cluster import Cluster as Cluster
from fnlamp.scale.cluster import cluster as cluster
from fnlamp.scale.gather import gathered as gathered
from fnlamp.scale.ready import await_call as await_call
from fnlamp.scale.ready import await_ready as await_ready
from fnlamp.scale.rows import rows_of_process as rows_of_process
