"""Two tiny language models over one base, and a server that measures perplexity, so that a command need not load torch.

    train(folder)      base/ knows a little of both languages; animals/ and sums/ were trained on, each on one
    serving(socket)    whoever sends "MODEL PART" gets the perplexity on both languages: part search, or confirm

Letters are tokens. The two parts are different sentences of the same grammars.
"""

from __future__ import annotations

import contextlib
import random
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz .+="
LENGTH = 48  # letters in a sequence
CLIENT = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.connect(sys.argv[1])
    one.sendall(" ".join(sys.argv[2:]).encode() + b"\\n")
    print("perplexity:", one.makefile().readline().strip())
"""


def sentences(language: str, seed: int, letters: int) -> str:
    """So many letters of a language."""
    rng = random.Random(f"{language} {seed}")
    text = ""
    while len(text) < letters:
        if language == "animals":
            nouns, verbs = ("cat", "dog", "bird", "horse"), ("sees", "likes", "hears")
            text += f"the {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}. "
        else:
            numbers = ("one", "two", "three", "four", "five", "six")
            a, b = rng.randrange(3), rng.randrange(3)
            text += f"{numbers[a]} + {numbers[b]} = {numbers[a + b + 1]}. "
    return text[:letters]


def batch(text: str) -> Any:
    """The text as sequences of tokens."""
    import torch

    tokens = torch.tensor([LETTERS.index(letter) for letter in text])
    return tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch takes one core: more of them are slower on models so small, and are others' too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(folder: Path) -> None:
    """Write base/, animals/ and sums/."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    config = LlamaConfig(vocab_size=len(LETTERS), max_position_embeddings=LENGTH, **sizes)
    base = LlamaForCausalLM(config)
    both = [sentences(language, 0, LENGTH * 100) for language in ("animals", "sums")]
    fit(base, batch("".join(both)), steps=90, rate=5e-3)
    base.save_pretrained(folder / "base")
    for language in ("animals", "sums"):
        model = LlamaForCausalLM.from_pretrained(folder / "base")
        fit(model, batch(sentences(language, 1, LENGTH * 200)), steps=40, rate=2e-3)
        model.save_pretrained(folder / language)


def fit(model: Any, tokens: Any, *, steps: int, rate: float) -> None:
    import torch

    draws = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    for _ in range(steps):
        some = tokens[torch.randint(len(tokens), (16,), generator=draws)]
        model(input_ids=some, labels=some).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def perplexity(model: str, part: str) -> float:
    """Of a folder on both languages."""
    import torch
    from transformers import LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(model).eval()
    seed = {"search": 10, "confirm": 11}[part]
    losses = []
    for language in ("animals", "sums"):
        tokens = batch(sentences(language, seed, LENGTH * 40))
        with torch.no_grad():
            losses.append(loaded(input_ids=tokens, labels=tokens).loss)
    return float(torch.stack(losses).mean().exp())


@contextlib.contextmanager
def serving(socket: Path) -> Iterator[list[str]]:
    """Inside, perplexities are to be had at the socket. Gives what was asked for."""
    asked: list[str] = []

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().decode().strip()
            asked.append(line)
            self.wfile.write(f"{perplexity(*line.split()):.6f}\n".encode())

    with socketserver.UnixStreamServer(str(socket), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()
