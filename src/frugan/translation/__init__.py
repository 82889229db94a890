"""Whole folders through a translator, and the page that shows what came out."""

from frugan.translation.folder import Options, Result, Translated, translate_folder
from frugan.translation.gallery import Compared, compare, write_gallery

__all__ = ["Compared", "Options", "Result", "Translated", "compare", "translate_folder", "write_gallery"]
