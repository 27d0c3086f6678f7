"""The `hub` source: a dataset that the `datasets` library can load, streamed row by row."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from quokka_ray.corpus.documents import Document
from quokka_ray.corpus.files import row_document
from quokka_ray.errors import ConfigurationError, MachineError


class HubSource:
    """Rows of a dataset on the hub, or of a local folder that `datasets` can load.

    Args:
        dataset: Repository id, or a folder.
        config: Name of the dataset's configuration; None: its only one.
        split: Which split to read.
        revision: Branch, tag or commit; None: the newest. A full commit needs no network when
            the corpus was prepared already.
        text_column: Column of the text.
        group_column: Column that keeps rows on one side of the validation split.

    Raises:
        ConfigurationError: while reading: no such dataset, configuration, split or column.
        MachineError: while reading: the hub cannot be reached.
    """

    def __init__(
        self,
        dataset: str,
        config: str | None,
        split: str,
        revision: str | None,
        text_column: str,
        group_column: str | None,
    ) -> None:
        self.description = f"{dataset}, split {split}"
        self.skipped: Counter[str] = Counter()
        self._dataset = dataset
        self._config = config
        self._split = split
        self._revision = revision
        self._text_column = text_column
        self._group_column = group_column
        self._folder = Path(dataset).expanduser() if Path(dataset).expanduser().is_dir() else None

    def fingerprint(self) -> str:
        """Return a hash of the dataset's commit, or of the local folder's content."""
        parts = [str(self._config), self._split]
        if self._folder is not None:
            for path in sorted(self._folder.rglob("*")):
                if path.is_file():
                    parts.append(path.relative_to(self._folder).as_posix())
                    with path.open("rb") as stream:
                        parts.append(hashlib.file_digest(stream, "blake2b").hexdigest())
        else:
            parts += [self._dataset, self._commit()]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def documents(self) -> Iterator[Document]:
        """Yield the rows' texts."""
        self.skipped.clear()
        import datasets

        try:
            rows = datasets.load_dataset(
                str(self._folder or self._dataset),
                name=self._config,
                split=self._split,
                revision=self._revision,
                streaming=True,
            )
            for number, row in enumerate(rows):
                where = f"{self._dataset}, row {number}"
                for key in ("text_column", "group_column"):
                    column = getattr(self, f"_{key}")
                    if column is not None and column not in row:
                        raise ConfigurationError(
                            f"corpus: {self._dataset}: there is no column {column!r}; the columns "
                            f"are {', '.join(row)} (set corpus.{key})"
                        )
                group = row[self._group_column] if self._group_column else None
                yield from row_document(
                    row[self._text_column], group, where, self._text_column, self.skipped
                )
        except Exception as error:
            raise self._translated(error) from error

    def validation_documents(self) -> Iterator[Document]:
        """Yield nothing: the split sets rows apart."""
        return iter(())

    def _commit(self) -> str:
        if self._revision is not None and re.fullmatch(r"[0-9a-f]{40}", self._revision):
            return self._revision
        from huggingface_hub import HfApi

        try:
            return str(HfApi().dataset_info(self._dataset, revision=self._revision).sha)
        except Exception as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        """Return `error` as one of ours: the call's fault, the machine's, or as it is."""
        if isinstance(error, (ConfigurationError, MachineError)):
            return error
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & _NOT_FOUND:
            return ConfigurationError(
                f"corpus: dataset {self._dataset} cannot be loaded: {first_line}"
            )
        if names & _UNREACHABLE:
            return MachineError(
                f"the hub cannot be reached for dataset {self._dataset} ({first_line}); "
                "name local files instead, or try again with a network"
            )
        return error


# By name: the classes live in several libraries, and which one raises changes between versions.
_NOT_FOUND = {
    "DatasetNotFoundError",
    "DataFilesNotFoundError",
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "GatedRepoError",
    "HFValidationError",
    "BadRequestError",
    "ValueError",
}
_UNREACHABLE = {
    "ConnectionError",
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "HfHubHTTPError",
    "TransportError",
    "RequestException",
    "TimeoutError",
    "OSError",
}
