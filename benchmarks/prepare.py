"""How fast text becomes a corpus, beside a bare loop of the tokenizer's library; and its memory.

    python benchmarks/prepare.py TEXT.parquet                 rates, in CPU seconds of one process
    python benchmarks/prepare.py TEXT.parquet --gigabytes 10  memory, a synthetic corpus by a pipe

The bare loops call `encode_batch`, and `encode_batch_fast`, which leaves offsets out, on the same
texts by the megabyte and keep nothing. Turns are interleaved and the shortest of each counts,
since the machine may be shared.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.study.corpus import CorpusConfig

_BATCH = 1 << 20


def section(path: Path, cache: Path, **keys: object) -> CorpusConfig:
    """Return the corpus of one file."""
    return CorpusConfig.model_validate(
        {"source": "files", "paths": [str(path)], "cache": cache, "workers": 1, **keys}
    )


def batches(path: Path) -> Iterator[list[str]]:
    """Yield the texts of a Parquet file by the megabyte."""
    batch: list[str] = []
    size = 0
    for rows in pq.ParquetFile(path).iter_batches(256, columns=["text"]):
        for text in rows.column("text").to_pylist():
            batch.append(text)
            size += len(text)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def rates(path: Path, vocab_size: int, turns: int) -> None:
    """Print CPU seconds of preparations and of bare loops."""
    texts = list(batches(path))
    size = sum(len(text.encode()) for batch in texts for text in batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = {"train": "bpe", "vocab_size": vocab_size}
        begun = time.process_time()
        trained = prepare(section(path, folder / "bpe", tokenizer=training))
        print(f"with a {vocab_size:,} BPE trained on it: {time.process_time() - begun:.1f} s")
        file = trained / "tokenizer.json"
        backend = Tokenizer.from_file(str(file))
        loops = {"bare": backend.encode_batch, "fast": backend.encode_batch_fast}
        best = dict.fromkeys(("bytes", "bpe", *loops), float("inf"))
        for turn in range(turns):
            for what in best:
                begun = time.process_time()
                if what in loops:
                    for batch in texts:
                        loops[what](batch, add_special_tokens=False)
                else:
                    tokenizer = "bytes" if what == "bytes" else str(file)
                    prepare(section(path, folder / f"{what}{turn}", tokenizer=tokenizer))
                best[what] = min(best[what], time.process_time() - begun)
                print(
                    f"turn {turn} {what:6} {size / 1e6 / (time.process_time() - begun):6.2f} MB/s"
                )
    print(f"bytes {size / 1e6 / best['bytes']:.1f} MB a CPU second")
    rate = {what: f"{size / 1e6 / seconds:.2f}" for what, seconds in best.items()}
    print(f"bpe {rate['bpe']}, encode_batch {rate['bare']}, encode_batch_fast {rate['fast']}")
    print(f"ratio to encode_batch {best['bare'] / best['bpe']:.3f}, "
          f"to encode_batch_fast {best['fast'] / best['bpe']:.3f}")  # fmt: skip


def synthetic(path: Path, size: int) -> Iterator[bytes]:
    """Yield lines of 1 to 5 kB, all different: numbered pieces of the text, `size` bytes."""
    text = b" ".join(text.encode() for batch in batches(path) for text in batch)
    text = text.replace(b"\n", b" ")
    rng = random.Random(0)
    done = number = 0
    while done < size:
        start, length = rng.randrange(len(text) - 5000), rng.randrange(1000, 5000)
        # No characters that the cut went through.
        piece = text[start : start + length].decode("utf-8", "ignore").encode()
        line = b"%d %b\n" % (number, piece)
        done += len(line)
        number += 1
        yield line


def memory(path: Path, gigabytes: float, workers: int, cache: Path) -> None:
    """Print the largest resident memory of all processes, by tenth of the way."""
    script = (
        "import sys; from quokka_ray.cli.main import main; "
        "sys.exit(main(['prepare', '--corpus', '-', *sys.argv[1:]]))"
    )
    call = [
        sys.executable, "-c", script, "--workers", str(workers),
        "--set", f"corpus.cache={cache}", "--json",
    ]  # fmt: skip
    size = int(gigabytes * 1e9)
    process = subprocess.Popen(
        call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdin is not None
    peaks: list[int] = []
    shared_out = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal shared_out
        root = psutil.Process(process.pid)
        looks = 0
        while not ended.wait(0.25):
            total = proportional = 0
            try:
                for one in [root, *root.children(recursive=True)]:
                    total += one.memory_info().rss
                    # Dear, since the kernel walks all pages: every tenth time.
                    if looks % 10 == 0:
                        proportional += one.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
            looks += 1
            peaks[-1] = max(peaks[-1], total)
            shared_out = max(shared_out, proportional)

    begun = time.monotonic()
    peaks.append(0)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    done = 0
    for line in synthetic(path, size):
        process.stdin.write(line)
        done += len(line)
        if done > len(peaks) * size / 10:
            print(f"{done / 1e9:5.1f} GB read, peak {peaks[-1] / 1e6:,.0f} MB, "
                  f"{done / 1e6 / (time.monotonic() - begun):.1f} MB/s", flush=True)  # fmt: skip
            peaks.append(0)
    process.stdin.close()
    assert process.stdout is not None
    card = process.stdout.read()
    process.wait()
    ended.set()
    watcher.join()
    print(f"writing both sides: peak {peaks[-1] / 1e6:,.0f} MB")
    print(card.decode()[:400])
    print(f"{done / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s, "
          f"largest resident memory of all processes {max(peaks) / 1e6:,.0f} MB, with shared "
          f"pages counted once {shared_out / 1e6:,.0f} MB")  # fmt: skip
    TokenCorpus.open(next(cache.glob("files-*")))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, help="Parquet with a column `text`")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, help="measure memory on so much synthetic text")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.gigabytes:
        with tempfile.TemporaryDirectory() as cache:
            memory(options.text, options.gigabytes, options.workers, Path(cache))
    else:
        # One thread for both, so that CPU seconds compare.
        os.environ["RAYON_NUM_THREADS"] = "1"
        rates(options.text, options.vocab_size, options.turns)


if __name__ == "__main__":
    main()
