"""The `hub` source: a dataset that the `datasets` library can load, streamed row by row."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from quokka_ray.atomic import write_text_atomically
from quokka_ray.corpus.documents import Document
from quokka_ray.corpus.readers import Reader
from quokka_ray.corpus.streams import content_hash
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.corpus import CorpusConfig


class HubSource:
    """Rows of a dataset on the hub, or of a local folder that `datasets` can load.

    A branch or tag, or the newest state, is resolved to its commit, which is what is read, what
    the fingerprint is made of, and what the card names. Where `HF_HUB_OFFLINE` or
    `HF_DATASETS_OFFLINE` is set, the commit that was resolved last is taken, and the copy that
    `datasets` downloaded; a full commit is never looked up.

    Args:
        config: The dataset, its configuration, split, revision and columns.
        cache: Where resolved commits are remembered.

    Attributes:
        revision: The commit; None for a local folder, and before the fingerprint is asked for.

    Raises:
        ConfigurationError: while reading: no such dataset, configuration, split or column.
        MachineError: while reading: the hub cannot be reached.
    """

    rereadable = True

    def __init__(self, config: CorpusConfig, cache: Path) -> None:
        self._dataset = str(config.dataset)
        self.description = f"{self._dataset}, split {config.split}"
        self.skipped: Counter[str] = Counter()
        self.size: int | None = None
        self.done = 0
        self.revision: str | None = None
        self._config = config
        self._memory = cache / ".hub-commits.json"
        self._columns = {"text_column": config.text_column, "group_column": config.group_column}
        self._reader = Reader(
            "file", config.text_column, config.group_column, config.undecodable, self.skipped
        )
        folder = Path(self._dataset).expanduser()
        self._folder = folder if folder.is_dir() else None

    def fingerprint(self) -> str:
        """Return a hash of the dataset's commit, or of the local folder's content."""
        parts = [str(self._config.dataset_config), self._config.split]
        if self._folder is not None:
            for path in sorted(self._folder.rglob("*")):
                if path.is_file():
                    parts.append(path.relative_to(self._folder).as_posix())
                    parts.append(content_hash(path))
        else:
            self.revision = self.revision or self._commit()
            parts += [self._dataset, self.revision]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def documents(self) -> Iterator[Document]:
        """Yield the rows' texts."""
        self.skipped.clear()
        import datasets

        if self._folder is None:
            self.revision = self.revision or self._commit()
        try:
            rows = datasets.load_dataset(
                str(self._folder or self._dataset),
                name=self._config.dataset_config,
                split=self._config.split,
                revision=self.revision,
                streaming=self._folder is not None or (self._config.streaming and not offline()),
            )
            for number, row in enumerate(rows):
                for key, column in self._columns.items():
                    if column is not None and column not in row:
                        raise ConfigurationError(
                            f"corpus: {self._dataset}: there is no column {column!r}; the columns "
                            f"are {', '.join(row)} (set corpus.{key})"
                        )
                group = row[self._config.group_column] if self._config.group_column else None
                where = f"{self._dataset}, row {number}"
                yield from self._reader.row(row[self._config.text_column], group, where)
        except Exception as error:
            raise self._translated(error) from error

    def validation_documents(self) -> Iterator[Document]:
        """Yield nothing: the split sets rows apart."""
        return iter(())

    def _commit(self) -> str:
        """Return the commit that the revision means, asked of the hub by one process at a time."""
        named = self._config.revision
        if named is not None and re.fullmatch(r"[0-9a-f]{40}", named):
            return named
        key = f"{self._dataset}@{named or 'newest'}"
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._memory}.lock", thread_local=False):
            known = json.loads(self._memory.read_text("utf-8")) if self._memory.exists() else {}
            if offline() and key in known:
                return str(known[key])
            from huggingface_hub import HfApi

            try:
                found = str(HfApi().dataset_info(self._dataset, revision=named).sha)
            except Exception as error:
                raise self._translated(error) from error
            write_text_atomically(self._memory, json.dumps({**known, key: found}, indent=1))
        return found

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


def offline() -> bool:
    """Return whether the environment forbids the network, as the hub's libraries read it."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


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
