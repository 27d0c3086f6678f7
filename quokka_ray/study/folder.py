"""The study's folder: what lies where, and who may write in it."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from quokka_ray.atomic import write_text_atomically
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.loader import dump_study, load_study

_LOCK = ".driver.lock"
_STUDY = "study.yaml"

# What a resume may change: none of these decides the result of a run.
_FREE_ON_RESUME = (
    "storage",
    "resources",
    "budget",
    "corpus.cache",
    "corpus.store",
    "corpus.workers",
    "corpus.licence",
    "training.sharding",
)


class StudyFolder:
    """An open study: its paths, and the lock that keeps a second driver out.

    Made by `open_folder`. The lock ends with `close`, with the `with` block, or with the process.
    """

    def __init__(self, root: Path, lock: FileLock) -> None:
        self.root = root
        self._lock = lock

    @property
    def study_yaml(self) -> Path:
        """The resolved configuration."""
        return self.root / _STUDY

    @property
    def plan_csv(self) -> Path:
        """What was planned before anything started."""
        return self.root / "plan.csv"

    @property
    def ledger(self) -> Path:
        """The append-only record, the one source of truth."""
        return self.root / "ledger.jsonl"

    @property
    def runs_csv(self) -> Path:
        """The ledger as a run table."""
        return self.root / "runs.csv"

    @property
    def trajectories(self) -> Path:
        """Folder of all trajectories."""
        return self.root / "trajectories"

    def trajectory(self, trajectory_id: str) -> Path:
        """Return the folder of one trajectory; it need not exist yet."""
        return self.trajectories / trajectory_id

    @property
    def tensorboard(self) -> Path:
        """Log directory for TensorBoard."""
        return self.root / "tensorboard"

    @property
    def laws(self) -> Path:
        """Folder of the numbered laws."""
        return self.root / "laws"

    @property
    def ray(self) -> Path:
        """Ray Tune's own state."""
        return self.root / "ray"

    @property
    def optuna_journal(self) -> Path:
        """Optuna's storage, a projection of the ledger."""
        return self.root / "optuna.journal"

    def close(self) -> None:
        """Let another driver in."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_folder(config: StudyConfig, *, resume: bool, overwrite: bool) -> StudyFolder:
    """Return the study's folder, made, locked, and with `config` saved in it.

    Args:
        config: The study; `config.folder` is where it lives.
        resume: Go on with the study that is there. Only storage, resources, budget and
            where the corpus is kept may differ from it.
        overwrite: Delete the study that is there, and nothing that is not one.

    Raises:
        ConfigurationError: the folder holds something, and neither flag was given; or what it
            holds is no study, or another one; or there is nothing to resume.
        MachineError: the storage cannot be written, or another driver holds the folder.
    """
    if resume and overwrite:
        raise ConfigurationError("--resume keeps the study and --overwrite deletes it: choose one")
    config = config.model_copy(update={"corpus": config.corpus.absolute()})
    root = config.folder
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:/", str(config.storage)):
        raise ConfigurationError(
            f"storage: {config.storage} is an object store; name a folder of a file system, "
            "such as a mounted one"
        )
    if root.exists() and not root.is_dir():
        raise ConfigurationError(f"{root} is a file; set another name or storage")
    # Looked at before the lock is made, so that a refused folder stays as it was.
    _check_use(root, resume=resume, overwrite=overwrite)
    with _storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = _locked(root)
    try:
        _check_use(root, resume=resume, overwrite=overwrite)  # another driver was perhaps first
        folder = StudyFolder(root, lock)
        if resume:
            _require_same_study(saved_study(root), config, root)
        with _storage_errors(root):
            if overwrite:
                _clear(root)
            write_text_atomically(folder.study_yaml, dump_study(config))
            for made in (folder.trajectories, folder.tensorboard, folder.laws, folder.ray):
                made.mkdir(exist_ok=True)
    except BaseException:
        lock.release()
        raise
    return folder


def seen_folder(root: Path) -> StudyFolder:
    """Return a study's folder to read in: it need not exist, and its lock is not taken."""
    return StudyFolder(root, FileLock(root / _LOCK, thread_local=False))


def holds_another(config: StudyConfig) -> str | None:
    """Return how the study in `config.folder` differs, where `config` cannot go on with it."""
    if not (config.folder / _STUDY).is_file():
        return None
    config = config.model_copy(update={"corpus": config.corpus.absolute()})
    try:
        _require_same_study(saved_study(config.folder), config, config.folder)
    except ConfigurationError as error:
        return str(error)
    return None


def saved_study(
    folder: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> StudyConfig:
    """Return the study that `folder` holds, at the place where it lies now.

    Args:
        folder: A study's folder; one that was moved or renamed is read as it now lies.
        overrides: Changes, `section.key=value`.
        environ: Variables to read; None: none, since the file is resolved already.

    Raises:
        ConfigurationError: there is no study in it, or its file cannot be read.
    """
    if not (folder / _STUDY).is_file():
        raise ConfigurationError(f"{folder} holds no study: {_STUDY} is missing")
    place = folder.absolute()
    here = folder.parent if folder.name == place.name else place.parent
    study = load_study([folder / _STUDY], overrides, environ or {})
    return study.model_copy(update={"storage": here, "name": place.name})


def _check_use(root: Path, *, resume: bool, overwrite: bool) -> None:
    try:
        content = [path for path in root.iterdir() if path.name != _LOCK] if root.is_dir() else []
    except OSError as error:
        raise MachineError(f"storage {root} cannot be read: {error.strerror}") from None
    if not content:
        if resume:
            raise ConfigurationError(
                f"there is no study in {root} to resume; start it with: quokka-ray search STUDY"
            )
        return
    if not (root / _STUDY).is_file():
        raise ConfigurationError(
            f"{root} holds files but no study ({_STUDY} is missing); they are left alone: "
            "set another name or storage"
        )
    if not resume and not overwrite:
        raise ConfigurationError(
            f"{root} already holds a study; go on with it (quokka-ray resume "
            f"{shlex.quote(str(root))}), delete it (quokka-ray search STUDY --overwrite), "
            "or set another name (--set name=NAME)"
        )


@contextlib.contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise MachineError(f"storage {root} cannot be written: {reason}") from None


def _locked(root: Path) -> FileLock:
    lock = FileLock(root / _LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise MachineError(
            f"another search is running in {root} (it holds {root / _LOCK}); "
            "wait for it or stop it first"
        ) from None
    return lock


def _clear(root: Path) -> None:
    # The study file goes last: a folder that was half deleted is still known as a study.
    content = [path for path in root.iterdir() if path.name not in (_LOCK, _STUDY)]
    for path in content:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (root / _STUDY).unlink(missing_ok=True)


def _require_same_study(saved: StudyConfig, config: StudyConfig, root: Path) -> None:
    before, now = _flat(saved.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    changed = [
        f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in _FREE_ON_RESUME)
    ]
    if changed:
        raise ConfigurationError(
            f"{root} holds a study that differs in {'; '.join(changed)}. A resume may change "
            "storage, resources and budget only: undo the change, or set another name"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
