"""The driver: one search from study file to law, in one process, resumable after any end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from analysis.export import write_law
from analysis.fitting.fit import Fit
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.ending import Ending
from quokka_ray.campaign.ledger import read_rows
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.observer import Observer
from quokka_ray.cluster.interrupt import interruptible
from quokka_ray.cluster.local import run_locally
from quokka_ray.cluster.tune import run_on_ray
from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.corpus.mixture import MixtureCorpus
from quokka_ray.corpus.publishing import is_whole
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import Range, StudyConfig
from quokka_ray.study.folder import StudyFolder, open_folder
from quokka_ray.study.trajectory import TrajectoryConfig

VERIFIED_BYTES = 1 << 30
"""Files of a corpus up to this size are held against their hashes before a search: about
a second. Validation decides every loss and is among them; a larger file of training tokens is
left to `prepare --verify`."""

ObserverFactory = Callable[[StudyConfig, StudyFolder], Sequence[Observer]]


@dataclass(frozen=True)
class Outcome:
    """How a search ended.

    Attributes:
        campaign: The campaign, closed: its fit, counts and ledger can be read.
        law_folder: Where the law was written; None when there were too few runs for one.
        interrupted: Exit code of the signal that stopped the search; 0 without one.
    """

    campaign: Campaign
    law_folder: Path | None
    interrupted: int


@dataclass(frozen=True)
class Prepared:
    """A study whose corpus is ready and whose runs are priced: nothing was started yet."""

    corpus: TokenCorpus
    menu: Menu | DataMenu
    train_tokens: int
    """Tokens that a trial may read: where weights of a mixture are searched, whatever they are."""


def prepare_study(
    study: StudyConfig,
    progress: Callable[[str], None] | None = None,
    *,
    resume: bool = False,
) -> Prepared:
    """Prepare the corpus and price the runs.

    Args:
        study: The study.
        progress: Told what is being prepared, a line at a time.
        resume: Its runs so far decide which corpus it is: what they were trained on.

    Raises:
        ConfigurationError: The corpus, the ranges or the budget cannot be used.
    """
    corpus = _corpus_of(study, progress, _first_run(study) if resume else None)
    corpus.verify(VERIFIED_BYTES)
    # Too short a corpus is found here, not in the first trial.
    train_tokens, unique = corpus.train_tokens, study.search.most_unique
    if isinstance(corpus, MixtureCorpus) and study.corpus.searched_weights:
        ranges = study.corpus.weight_ranges
        wanted = study.search.unique_tokens
        fewest = int(wanted.low) if isinstance(wanted, Range) else wanted
        for count in (unique, fewest):
            train_tokens = corpus.train_tokens_within(ranges, study.model.seq_len, count)
    else:
        corpus.window_order(unique or train_tokens, study.model.seq_len, study.seed)
    corpus.validation_windows(
        study.model.seq_len, study.evaluation.sequences, study.evaluation.seed
    )
    menu = DataMenu if study.search.repeats else Menu
    return Prepared(corpus, menu(study, corpus.vocab_size, train_tokens), train_tokens)


def _corpus_of(
    study: StudyConfig, progress: Callable[[str], None] | None, before: TrajectoryConfig | None
) -> TokenCorpus:
    """Return the study's corpus; of a study that has runs, theirs, wherever its text is now."""
    if before is not None and is_whole(before.corpus):
        corpus = TokenCorpus.open(before.corpus)
        if corpus.hash == before.corpus_hash:
            return corpus
    corpus = TokenCorpus.open(prepare(study.corpus, progress=progress))
    if before is not None and corpus.hash != before.corpus_hash:
        raise ConfigurationError(
            f"{study.folder} was trained on corpus {before.corpus_hash}, which is not in "
            f"{before.corpus} any more, and what its text makes now is {corpus.hash}: a file, "
            "the tokenizer or the dataset's revision has changed. Put back the one or the other, "
            "or start a new study (--set name=NAME)"
        )
    return corpus


def _first_run(study: StudyConfig) -> TrajectoryConfig | None:
    rows = read_rows(study.folder / "ledger.jsonl")
    first = next((row for row in rows if row["kind"] == "planned"), None)
    return TrajectoryConfig.model_validate(first["config"]) if first else None


def run_search(
    study: StudyConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    executor: str = "ray",
    observers: ObserverFactory = lambda study, folder: (),
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a study's search to the end of its budget, or until a signal stops it.

    Args:
        study: The study; on a resume, with the budget and resources of the resume.
        resume: Go on with the study that the folder holds.
        overwrite: Delete the study that the folder holds.
        executor: `ray`, or `local`: one trial at a time in this process.
        observers: Makes what watches the campaign, once its folder is open.
        progress: Told what is being prepared, a line at a time.

    Raises:
        ConfigurationError: The study, its corpus or its folder cannot be used.
        MachineError: Storage is not writable, or the cluster has no room.
    """
    # Optuna announces every in-memory study; the sampler makes one at each ask.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prepared = prepare_study(study, progress, resume=resume)
    with open_folder(study, resume=resume, overwrite=overwrite) as folder:
        stop_file = folder.root / "stop"
        stop_file.unlink(missing_ok=True)
        campaign = Campaign(
            study, prepared.corpus, prepared.menu, folder, observers(study, folder)
        )
        campaign.start_plan.to_csv(folder.plan_csv, index=False)

        def stop() -> None:
            campaign.stop()
            stop_file.touch()

        try:
            with interruptible(stop) as interruption:
                run = run_on_ray if executor == "ray" else run_locally
                run(campaign, stop_file)
        finally:
            stop_file.unlink(missing_ok=True)
            campaign.close()
        law_folder = None
        if campaign.fit is not None:
            law_folder = _export(campaign.fit, folder, study, campaign.ending)
        return Outcome(campaign, law_folder, interruption.exit_code)


def _export(fit: Fit, folder: StudyFolder, study: StudyConfig, ending: Ending) -> Path:
    """Write the law as it stands into the next numbered folder of `laws/`."""
    number = 1 + max((int(path.name) for path in folder.laws.glob("[0-9]*")), default=0)
    target = folder.laws / f"{number:04d}"
    write_law(fit, target, study.target.flops, ending.as_dict(), study.target.unique_tokens)
    return target
