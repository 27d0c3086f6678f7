"""Tables of other names."""

from analysis.importers.options import Imported, ImportOptions
from analysis.runs import read_table


def read(source: str, options: ImportOptions) -> Imported:
    """Read a CSV or Parquet table, or the `runs.csv` of a folder, as it is."""
    del options
    return Imported(read_table(source))
