"""One program in several processes: joined, met at barriers with a deadline, left without hanging."""

from fnlamp.scale.cluster import Cluster as Cluster
from fnlamp.scale.cluster import cluster as cluster
