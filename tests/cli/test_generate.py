"""`quokka-ray generate` on runs that really trained, for a moment."""

import json
import shutil

import pytest
import torch
from training.trajectories import MODEL, tiny_corpus, trajectory

from quokka_ray.campaign.ledger import Ledger
from quokka_ray.cli.generate import drawing, find_checkpoint
from quokka_ray.cli.main import main
from quokka_ray.corpus.prepare import prepare
from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.corpus.tokenizers import ByteTokenizer
from quokka_ray.diffusion.texts import Draft
from quokka_ray.study.config import CorpusConfig, DiffusionConfig, fit_to_kernel
from quokka_ray.training.run import train


def train_briefly(folder, corpus, name="run", **changes):
    """Train one tiny run of 20 steps and return its folder."""
    torch.set_num_threads(1)
    model = fit_to_kernel(MODEL, changes.get("diffusion", DiffusionConfig()))
    config = trajectory(corpus, steps=20, model=model)
    config = config.model_copy(update={"id": name, **changes})
    train(config, folder / name, report=lambda row: None)
    return folder / name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    return train_briefly(tmp_path_factory.mktemp("runs"), corpus)


def words_corpus(folder):
    """Prepare a corpus of a tokenizer that knows three words and no others."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "fox", "dog", "sees"]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "words.json"))
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"fox sees dog dog {' '.join(words[1:])} fox " * (60 + i))
    return TokenCorpus.open(
        prepare(
            CorpusConfig(
                source="files", paths=(str(folder / "*.txt"),), cache=folder / "cache",
                tokenizer=str(folder / "words.json"), validation_fraction=0.2,
            )
        )
    )  # fmt: skip


def call(capsys, *arguments):
    code = main(["generate", *map(str, arguments)])
    return code, *capsys.readouterr()


def answer(capsys, *arguments):
    code, out, err = call(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_stdout_is_the_text_and_nothing_else(run, capsys):
    code, out, err = call(capsys, run, "--prompt", "the fox", "--tokens", 20)
    assert (code, err) == (0, "")
    [text] = answer(capsys, run, "--prompt", "the fox", "--tokens", 20)["texts"]
    assert out == text["text"] + "\n"
    assert text["text"].startswith("the fox")
    assert len(text["tokens"]) == 27


@pytest.mark.parametrize("sampler", ["ancestral", "confidence", "blocks"])
def test_a_hole_anywhere_is_filled_and_the_prompt_kept(run, capsys, sampler):
    said = answer(capsys, run, "--prompt", "the fox {} and ü", "--tokens", 9, "--sampler", sampler)
    [text] = said["texts"]
    assert text["text"].startswith("the fox ")
    assert text["text"].endswith(" and ü")
    assert said["model_calls"] <= 9


def test_256_tokens_are_written_by_default_beyond_the_sequence_in_64_calls(run, capsys):
    said = answer(capsys, run)
    assert len(said["texts"][0]["tokens"]) == 256
    assert said["model_calls"] <= 64
    assert said["trained_tokens"] == 20 * 8 * 32


def test_the_seed_decides_the_texts(run, capsys):
    def texts(*how):
        return [text["text"] for text in answer(capsys, run, "--tokens", 24, *how)["texts"]]

    assert texts("--seed", 3, "--count", 3) == texts("--seed", 3, "--count", 3)
    assert texts("--seed", 3, "--count", 3)[0] == texts("--seed", 3)[0]
    assert len(set(texts("--seed", 3, "--count", 3))) == 3
    assert texts("--seed", 3) != texts("--seed", 4)
    cold = ("--temperature", 0, "--sampler", "confidence")
    assert texts(*cold, "--seed", 1) == texts(*cold, "--seed", 2)


def test_a_checkpoint_is_read_where_it_was_copied_to(run, tmp_path, capsys):
    [checkpoint] = (run / "checkpoints").iterdir()
    copy = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    code, _, err = call(capsys, copy)
    assert code == 2
    assert "has no config.json" in err
    shutil.copy(run / "config.json", copy)
    here = answer(capsys, checkpoint, "--tokens", 9)["texts"]
    assert answer(capsys, copy, "--tokens", 9)["texts"] == here


def test_a_studys_best_run_speaks_for_it(run, corpus, tmp_path, capsys):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    (tmp_path / "study.yaml").write_text("name: study\n")
    for name, loss in (("worse", 3.0), ("best", 1.0), ("lost", 0.5), ("unfinished", None)):
        folder = tmp_path / "trajectories" / name
        if name != "lost":
            shutil.copytree(run / "checkpoints", folder / "checkpoints")
        config = trajectory(corpus, steps=20).model_copy(update={"id": name})
        record = {"kind": "planned", "trajectory": name, "config": config.model_dump(mode="json")}
        ledger.append(record)
        if loss is not None:
            row = {"kind": "observation", "trajectory": name, "observation": name, "loss": loss}
            ledger.append(row)
    ledger.close()
    assert find_checkpoint(tmp_path).parts[-3] == "best"
    shutil.rmtree(tmp_path / "trajectories")
    code, _, err = call(capsys, tmp_path)
    assert code == 2
    assert "no finished run with a checkpoint" in err


def test_the_tokenizer_outlives_the_corpus(tmp_path, capsys):
    corpus = words_corpus(tmp_path)
    folder = train_briefly(tmp_path, corpus)
    shutil.rmtree(corpus.path)
    said = answer(capsys, folder, "--prompt", "fox {} dog", "--tokens", 3)["texts"][0]
    assert set(said["text"].split()) <= {"fox", "dog", "sees", "[UNK]"}
    code, _, err = call(capsys, folder, "--prompt", "fox zebra")
    assert code == 2
    assert "cannot express 'a' 'b' 'e' 'r' 'z'" in err
    (folder / "tokenizer.json").unlink()
    code, _, err = call(capsys, folder)
    assert code == 2
    assert f"the tokenizer {corpus.tokenizer_id} of run is not to be found" in err


@pytest.mark.parametrize("kernel", ["uniform", "hybrid", "none"])
def test_every_kernel_writes(tmp_path, corpus, capsys, kernel):
    objective = "next_token" if kernel == "none" else "elbo"
    diffusion = DiffusionConfig(kernel=kernel, objective=objective)
    folder = train_briefly(tmp_path, corpus, diffusion=diffusion)
    said = answer(capsys, folder, "--prompt", "the fox ", "--tokens", 60)
    assert said["texts"][0]["text"].startswith("the fox ")
    assert said["model_calls"] <= 64
    if kernel == "none":
        code, _, err = call(capsys, folder, "--prompt", "the {} fox")
        assert code == 2
        assert "predicts the next token" in err


def test_what_cannot_be_used_is_said(run, tmp_path, capsys):
    def refusal(*arguments):
        code, out, err = call(capsys, *arguments)
        assert (code, out) == (2, "")
        return err

    assert "no folder" in refusal(tmp_path / "nothing")
    assert "no checkpoint, run or study" in refusal(tmp_path)
    assert "prompt has 33 tokens, and the model reads 32" in refusal(run, "--prompt", "x" * 33)
    assert "--tokens is 0" in refusal(run, "--tokens", 0)
    assert "top-p is 2" in refusal(run, "--top-p", 2)
    broken = shutil.copytree(run, tmp_path / "broken")
    [checkpoint] = (broken / "checkpoints").iterdir()
    (checkpoint / "COMPLETE").unlink()
    assert "COMPLETE" in refusal(checkpoint)
    assert "no complete checkpoint" in refusal(broken)
    (checkpoint / "COMPLETE").touch()
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    assert "does not hold the model" in refusal(broken)
    (broken / "config.json").write_text("{}")
    assert "no run's configuration" in refusal(broken)


def test_a_terminal_shows_the_text_settle_and_a_pipe_does_not(run, capsys, monkeypatch):
    plain = call(capsys, run, "--tokens", 20)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    code, out, err = call(capsys, run, "--tokens", 20)
    assert (code, out, "") == plain
    assert "step" in err


def test_unsettled_tokens_are_drawn_as_holes():
    tokens = [[ord("a"), 257, 257, ord("z")]]
    draft = Draft(tokens, [[True, False, False, True]], step=3, steps=64, model_calls=2)
    picture = drawing(draft, ByteTokenizer(), 1).plain
    assert picture == "a░░z\nstep  3 of 64, 2 model calls"
