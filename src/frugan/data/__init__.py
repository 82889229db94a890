"""The data room: pictures in folders, zips and known sets become uint8 sets, sampled by position alone."""

from frugan.data.advice import Recommendation, recommend
from frugan.data.cache import CacheError, cache_folder, prepare
from frugan.data.dataset import Dataset, SourceFacts, from_arrays, split, to_float, to_uint8
from frugan.data.digests import Progress
from frugan.data.inspection import Report, inspect
from frugan.data.pair_inspection import PairAdvice, PairReport, inspect_pairs, recommend_pairs
from frugan.data.pictures import DataConfig, DataError, PictureError
from frugan.data.sampler import Sampler
from frugan.data.sources import Source, open_source
from frugan.data.streams import prepare_streams

__all__ = [
    "CacheError",
    "DataConfig",
    "DataError",
    "Dataset",
    "PairAdvice",
    "PairReport",
    "PictureError",
    "Progress",
    "Recommendation",
    "Report",
    "Sampler",
    "Source",
    "SourceFacts",
    "cache_folder",
    "from_arrays",
    "inspect",
    "inspect_pairs",
    "open_source",
    "prepare",
    "prepare_streams",
    "recommend",
    "recommend_pairs",
    "split",
    "to_float",
    "to_uint8",
]
