"""`generate`: text from a trained model. Text goes to stdout; how it settles shows on stderr."""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quokka_ray.cli.output import say
from quokka_ray.errors import ConfigurationError, MachineError

if TYPE_CHECKING:
    from quokka_ray.corpus.tokenizers import Tokenizer
    from quokka_ray.diffusion.texts import Draft

_LOGITS_AT_ONCE = 1 << 25


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "generate",
        help="write text with a trained model",
        description="Write text with a trained model. A prompt is continued, or filled in where "
        "it holds the mark {}. Text longer than the model's sequence is written in blocks, each "
        "seen with what stands around it.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a checkpoint's folder, a run's (its last checkpoint), or a study's (its best run)",
    )
    parser.add_argument(
        "--prompt", default="", help='text, such as "Once upon {} the end"; without {}: continued'
    )
    parser.add_argument(
        "--hole", default="{}", metavar="MARK", help="what marks a hole (default: {})"
    )
    parser.add_argument(
        "--tokens", type=int, default=256, help="tokens of the text in all (default: 256)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=64,
        help="denoising steps, at most one model call each (default: 64)",
    )
    parser.add_argument(
        "--sampler",
        choices=["ancestral", "confidence", "blocks"],
        default="ancestral",
        help="ancestral (the default): back along the noise; confidence: the surest tokens first; "
        "blocks: that, block by block",
    )
    parser.add_argument(
        "--block", type=int, default=32, metavar="N", help="tokens of a block (default: 32)"
    )
    parser.add_argument("--temperature", type=float, default=1.0,
                        help="0 takes the likeliest token (default: 1)")  # fmt: skip
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P",
        help="draw from the likeliest tokens of this mass (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--noise-removal",
        choices=["draw", "argmax"],
        default="draw",
        help="what the last ancestral step does with the noise that is left (default: draw)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument(
        "--count", type=int, default=1, metavar="N", help="texts to write (default: 1)"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0; unset: a GPU where there is one")
    parser.add_argument("--json", action="store_true", help="texts, token ids and costs as JSON")
    parser.set_defaults(func=run_generate)


def run_generate(options: argparse.Namespace) -> int:
    """Load the model, fill the prompt's holes, print the texts."""
    import torch

    from quokka_ray.diffusion.build import build_process
    from quokka_ray.diffusion.canvas import canvas_of
    from quokka_ray.diffusion.generation import generate
    from quokka_ray.diffusion.samplers import Sampling
    from quokka_ray.training.trained import load_model

    for name in ("tokens", "count"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"--{name} is {getattr(options, name)}; it must be 1 or more")
    sampling = Sampling(
        steps=options.steps,
        sampler=options.sampler,
        block=options.block,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        noise_removal=options.noise_removal,
    )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MachineError(f"device {device!r} was asked for, but torch sees no GPU; use cpu")
    checkpoint = find_checkpoint(options.checkpoint)
    model, tokenizer, config = load_model(checkpoint, device)
    canvas = canvas_of(options.prompt, options.tokens, tokenizer, hole=options.hole)
    seq_len = config.model.seq_len
    process = None
    if config.diffusion.kernel != "none":
        process = build_process(config.diffusion, config.vocab_size)
    at_once = max(1, _LOGITS_AT_ONCE // (min(len(canvas.holes), seq_len) * config.vocab_size))
    texts: list[dict[str, Any]] = []
    calls, begun = 0, time.monotonic()
    for first in range(0, options.count, at_once):
        drafts = generate(
            model,
            canvas,
            process,
            sampling,
            seq_len=seq_len,
            count=min(at_once, options.count - first),
            first=first,
            start_token=model.mask_id,
            notices_own=config.diffusion.objective == "quokka_uniform",
            device=device,
        )
        draft = _watched(drafts, tokenizer, options.count)
        calls += draft.model_calls
        for tokens in draft.tokens:
            texts.append({"text": text_of(tokens, tokenizer), "tokens": tokens.tolist()})
            if not options.json:
                say(("\n" if len(texts) > 1 else "") + texts[-1]["text"])
    if options.json:
        answer = {
            "checkpoint": str(checkpoint),
            "params": config.params,
            "trained_tokens": int(checkpoint.name) if checkpoint.name.isdigit() else config.tokens,
            "kernel": config.diffusion.kernel,
            "seed": options.seed,
            "written_tokens": options.tokens * options.count,
            "model_calls": calls,
            "seconds": time.monotonic() - begun,
            "texts": texts,
        }
        say(json.dumps(answer))
    return 0


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path means: itself, a run's last one, a study's best one.

    Raises:
        ConfigurationError: There is none.
    """
    from quokka_ray.training.trained import is_checkpoint, last_checkpoint

    if not path.is_dir():
        raise ConfigurationError(f"{path} is no folder; name a checkpoint, a run or a study")
    if (path / "study.yaml").is_file():
        return _best_checkpoint(path)
    if is_checkpoint(path):
        return path
    if (path / "config.json").is_file() or (path / "checkpoints").is_dir():
        return last_checkpoint(path)
    raise ConfigurationError(
        f"{path} is no checkpoint, run or study: it holds neither model.safetensors, "
        "config.json nor study.yaml"
    )


def _best_checkpoint(study: Path) -> Path:
    """Return the last checkpoint of the run with the lowest loss that has one."""
    from quokka_ray.campaign.ledger import Ledger
    from quokka_ray.training.checkpoints import latest_checkpoint

    ledger = Ledger(study / "ledger.jsonl", read_only=True)
    ledger.merge_metrics(sorted((study / "trajectories").glob("*")))
    losses = {
        state.config.id: state.last_observation["loss"]
        for state in ledger.trajectories.values()
        if state.last_observation is not None
    }
    for name in sorted(losses, key=lambda name: losses[name]):
        checkpoint = latest_checkpoint(study / "trajectories" / name / "checkpoints")
        if checkpoint is not None:
            return checkpoint
    raise ConfigurationError(
        f"{study} has no finished run with a checkpoint yet; name a run's folder, "
        "such as one of its trajectories/"
    )


def text_of(tokens: Any, tokenizer: "Tokenizer") -> str:
    """Return the text of token ids; an empty line stands where one document ends."""
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == tokenizer.end_of_document:
            documents.append([])
        else:
            documents[-1].append(int(token))
    return "\n\n".join(tokenizer.decode(document) for document in documents)


def _watched(drafts: Iterable["Draft"], tokenizer: "Tokenizer", count: int) -> "Draft":
    """Return the last draft; on a terminal's stderr show them all, and leave nothing there."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        *_, last = drafts
        return last
    with Live(console=console, transient=True, refresh_per_second=12) as live:
        for draft in drafts:
            live.update(drawing(draft, tokenizer, count))
    return draft


def drawing(draft: "Draft", tokenizer: "Tokenizer", count: int) -> Any:
    """Return the first text of a draft for the terminal: settled, or still open."""
    from rich.text import Text

    picture = Text()
    tokens, settled = draft.tokens[0], draft.settled[0]
    edges = [0, *(i for i in range(1, len(tokens)) if settled[i] != settled[i - 1]), len(tokens)]
    for first, end in itertools.pairwise(edges):
        if settled[first]:
            picture.append(text_of(tokens[first:end], tokenizer))
        else:
            picture.append("░" * (end - first), style="dim")
    width = int(math.log10(draft.steps)) + 1
    others = f", {count} texts" if count > 1 else ""
    picture.append(
        f"\nstep {draft.step:>{width}} of {draft.steps}, {draft.model_calls} model calls{others}",
        style="cyan",
    )
    return picture
