"""Train the quick start's recipe near its optima, and print losses, seed noise and speed.

    python benchmarks/recipe.py                                the books, 50 symbols
    python benchmarks/recipe.py --corpus python-stdlib --tokenizer bytes
    python benchmarks/recipe.py --cells 24@1e11 --seeds 4 --set lr=0.006 --set weight_power=1

A cell is WIDTH@FLOPS; FLOPs count (6 N + 12 * layers * width * seq_len) a token. Losses are in
bits per token of 512 validation sequences with 4 masks each, the same for all runs. The first
lines price the machine: what one thread reaches in a plain matrix product, and what share of it
a training step does. The last line holds the means against the ones that the recipe was made to
reach: at 3e10, 1e11 and 3e11 FLOPs, 3.405, 3.222 and 3.062 bits a character on the books.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch

from quokka_ray.campaign.menu import plan_run
from quokka_ray.campaign.menu import price as price_of
from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.model.counts import flops_per_token
from quokka_ray.model.shapes import depth_of, make_shape
from quokka_ray.study.config import CorpusConfig, StudyConfig
from quokka_ray.study.loader import load_study
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.loop import Trainer
from quokka_ray.training.run import train

HERE = Path(__file__).parent
BOOKS = HERE.parent.parent / "shared" / "corpora"
TARGETS = {3e10: 3.405, 1e11: 3.222, 3e11: 3.062}
STUDY = HERE.parent / "search_spaces" / "smoke.yaml"


def recipe(changes: list[str]) -> StudyConfig:
    """Return the quick start's study, each `key=value` change made in the section that has it."""
    study = load_study([STUDY], environ={})
    overrides = []
    for change in changes:
        key = change.partition("=")[0]
        parts = ("model", "training", "diffusion")
        owners = [part for part in parts if key in type(getattr(study, part)).model_fields]
        if not owners:
            raise SystemExit(f"no section of the recipe knows {key!r}")
        overrides.append(f"{owners[0]}.{change}")
    return load_study([STUDY], overrides, environ={})


def trajectory(corpus: TokenCorpus, cell: str, seed: int, changes: list[str]) -> TrajectoryConfig:
    """Return the run of one cell and seed."""
    width, _, budget = cell.partition("@")
    study = recipe(changes)
    shape = make_shape(int(width), depth_of(int(width)), study.model)
    rung = price_of(shape, study, corpus.vocab_size)
    per_token = 6 * rung.params + 12 * shape.layers * shape.d_model * study.model.seq_len
    return plan_run(
        f"{cell}-s{seed}",
        study,
        corpus,
        rung,
        tokens=max(1, round(float(budget) / per_token / rung.step_tokens)) * rung.step_tokens,
        unique_tokens=corpus.train_tokens,
        lr=study.training.lr,
        lr_schedule="wsd",
        seed=seed,
    )


def fastest(call, repeats: int = 5) -> float:
    """Return the least seconds that `call` took."""
    best = math.inf
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
    return best


def price(corpus: TokenCorpus, widths: list[int], changes: list[str]) -> None:
    """Print the exact FLOP/s of a training step over those of a large matrix product."""
    square = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / fastest(lambda: square @ square)
    print(f"one thread, fp32 matrix product of 1024: {peak / 1e9:.0f} GFLOP/s")
    for width in widths:
        config = trajectory(corpus, f"{width}@1e12", 0, changes)
        windows = corpus.window_order(config.unique_tokens, config.model.seq_len, 0)
        trainer = Trainer(config, windows, "cpu")

        def steps(count: int = 20, trainer: Trainer = trainer) -> None:
            for _ in range(count):
                trainer.advance()

        steps()
        seconds = fastest(steps) / 20
        exact = flops_per_token(config.shape, config.model, config.vocab_size)
        rate = exact * config.batch_tokens / seconds
        print(
            f"width {width:4d}  N {config.params:9,d}  {seconds * 1e3:6.2f} ms a step  "
            f"{config.batch_tokens / seconds:9,.0f} tokens/s  {rate / 1e9:6.1f} GFLOP/s  "
            f"{rate / peak:.3f} of the product"
        )


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus", default="books", help="books, python-stdlib, or a glob")
    parser.add_argument("--tokenizer", default=str(HERE / "books50_tokenizer.json"))
    parser.add_argument("--cells", nargs="+", default=["16@3e10", "24@1e11", "32@3e11"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--no-price", action="store_true", help="leave out the speed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    section: dict = {"tokenizer": options.tokenizer, "cache": options.cache}
    if options.corpus == "books":
        section |= {
            "source": "files",
            "paths": (str(BOOKS / "books-train.parquet"),),
            "validation_paths": (str(BOOKS / "books-validation.parquet"),),
        }
    elif options.corpus != "python-stdlib":
        section |= {"source": "files", "paths": (options.corpus,)}
    corpus = TokenCorpus.open(prepare(CorpusConfig(**section)))
    if not options.no_price:
        widths = sorted({int(cell.split("@")[0]) for cell in options.cells})
        price(corpus, widths, options.changes)
    summary = []
    for cell in options.cells:
        bits = []
        for seed in range(options.seeds):
            config = trajectory(corpus, cell, seed, options.changes)
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                outcome = train(config, Path(folder), report=lambda row: None)
                seconds = time.perf_counter() - begun
            bits.append(outcome.loss / math.log(2))
            print(
                f"{cell} seed {seed}: {bits[-1]:.4f} bits a token, {config.steps} steps, "
                f"{config.tokens / config.params:.0f} tokens a parameter, {seconds:.1f} s",
                flush=True,
            )
        mean = statistics.fmean(bits)
        noise = f" seed noise {statistics.stdev(bits) / mean:.1%}" if len(bits) > 1 else ""
        target = TARGETS.get(float(cell.split("@")[1])) if options.corpus == "books" else None
        aim = f" (aim {target}, {mean - target:+.3f})" if target else ""
        summary.append(f"{cell} {mean:.3f}{aim}{noise}")
    print("; ".join(summary))


if __name__ == "__main__":
    main()
