"""Pre-train the small T5 that ships inside the package (``clbench/model/mini``) from plain text and text-to-text pairs.

    python scripts/pretrain_mini.py --text text.jsonl.gz --pairs pairs.jsonl.gz --minutes 90 --out clbench/model/mini

``--text`` files hold one ``{"text": ...}`` a line, ``--pairs`` files one ``{"source": ..., "target": ...}`` a line
(``.jsonl`` or ``.jsonl.gz``). No label of any benchmark task is needed: beside T5's span corruption and the given
pairs, the script derives pairs in the benchmark's prompt form from the text itself:

* ``word``, ``keywords``  which word (or pair of key words) was taken out of the text
* ``title``               which title belongs to the text (chosen or written)
* ``head``                what kind of thing a definition defines ("X is a village in ..." -> village)
* ``topic``               the name of the text's k-means cluster (TF-IDF, SVD; named by its top words)
* ``tone``                how favourable the text is, by a classifier trained on a seed lexicon of good and bad words
* ``same``                do two passages come from one text

Three things make so small a model learn: the token embeddings start from an SVD of the tokens' co-occurrences (PPMI),
every tensor's learning rate is scaled by its RMS (as Adafactor does), and batches are small while steps are many.

A run is resumable: ``--state DIR`` holds the tokenizer, the initial embeddings and the last checkpoint (weights,
optimizer, averages, step, generator); the same command continues from there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

log = logging.getLogger("pretrain_mini")

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS = [f"<extra_id_{i}>" for i in range(32)]
FIELD = re.compile(r"^([A-Za-z][A-Za-z0-9 ]{1,20}):\s*(.*)$")
WORD = re.compile(r"[A-Za-z]{3,}")
PERSONAL = re.compile(r"^Text: |\b(?:I|my|me)\b")
DEFINITION = re.compile(r"\b(?:is|was|are|were) (?:a|an|the|one of the) ([^.,;:()]{3,90})")
HEAD_ENDS = set(
    "in of by from that which located for and who on at born based known to with published released written directed "
    "endemic found native situated is was or as currently founded played performed recorded starring set created near "
    "produced under about belonging between serving operated whose where when during since".split()
)
VAGUE = set(
    "lot bit way part same one good great best first most thing kind type must little very real few fan big "
    "read".split()
)
NAMES_OF_FIELDS = (
    "title text question answer passage sentence paragraph word candidate option quora fullquote quot".split()
)
GOOD = set(
    "great good excellent love loved loves wonderful amazing best perfect perfectly fantastic awesome favorite "
    "beautiful enjoy enjoyed enjoyable delicious happy pleased superb brilliant recommend recommended friendly fun nice "
    "charming masterpiece outstanding delightful impressive pleasant helpful terrific touching hilarious fresh glad satisfied "
    "reliable fascinating moving thoughtful clever tasty incredible refreshing gorgeous powerful thank thanks".split()
)
BAD = set(
    "bad terrible awful worst waste wasted horrible poor poorly disappointed disappointing disappointment boring hate "
    "hated useless broken broke stupid rude annoying worse dull mess fails failed defective junk garbage crap cheap "
    "unfortunately disgusting lame ridiculous pathetic dirty gross overpriced mediocre bland tedious unwatchable "
    "refund returned regret avoid nasty sorry lousy unfunny frustrating dreadful weak painful slow cold wrong".split()
)
TONES = [
    ["awful", "poor", "fair", "good", "excellent"],
    ["strongly unfavourable", "unfavourable", "mixed", "favourable", "strongly favourable"],
    ["very unhappy", "unhappy", "indifferent", "happy", "very happy"],
]
QUESTIONS = {
    "word": ["Which word is missing from the text?", "Which word was taken out of the following paragraph?"],
    "keywords": ["What is the following paragraph about?", "Which words fit the text?", "What are the key words?"],
    "title": ["What is the title of the following paragraph?", "Which title fits the text?"],
    "head": ["What does the following paragraph describe?", "What kind of thing is it?", "Which kind is described?"],
    "topic": [
        "What is the topic of the text?",
        "What is the subject of the following paragraph?",
        "Which topic fits?",
        "What is it about?",
    ],
    "tone": ["How favourable is the text?", "What does the writer think of it?", "How does the writer rate it?"],
    "same": ["Do the two passages come from the same text?", "Do the first and the second passage belong together?"],
}
MIX = {
    "pairs": 0.15, "spans": 0.03, "word": 0.04, "keywords": 0.06, "title": 0.06, "head": 0.12, "topic": 0.24,
    "tone": 0.28, "same": 0.02,
}  # fmt: skip


@dataclass
class Pair:
    """One training example: a prompt and the text to generate."""

    task: str
    source: str
    target: str


# -------------------- reading and parsing
def read_rows(paths: Iterable[Path]) -> Iterator[dict]:
    """Yield the JSON objects of .jsonl or .jsonl.gz files."""
    for path in paths:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def parse_fields(text: str) -> dict[str, str]:
    """Split a text with lines such as ``Title: ...`` into its fields (none where the text has no such lines)."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        match = FIELD.match(line)
        if match:
            fields[match[1].lower()] = match[2].strip()
    return fields


def crop(text: str, words: int) -> str:
    """The first ``words`` words of a text, line breaks kept."""
    pieces = text.split(" ")
    return text if len(pieces) <= words else " ".join(pieces[:words])


def remove_words(text: str, words: Iterable[str], blank: str) -> str:
    """Replace every occurrence of the words (and simple plurals) by ``blank``."""
    pattern = r"\b(?:" + "|".join(re.escape(word) for word in words) + r")(?:s|'s)?\b"
    return re.sub(r" {2,}", " ", re.sub(pattern, blank, text, flags=re.IGNORECASE))


def definition_head(text: str) -> str | None:
    """The head noun of the first definition in a text: "X is a small village in Y" gives "village"."""
    match = DEFINITION.search(text)
    if not match:
        return None
    words: list[str] = []
    for word in match[1].split():
        if word.lower() in HEAD_ENDS:
            break
        words.append(word)
    return words[-1].lower() if words and words[-1].isalpha() and len(words[-1]) > 2 else None


# -------------------- derived knowledge
@dataclass
class Bank:
    """The texts and what was derived from them once: key words, heads, cluster names, tone."""

    texts: list[str]
    pairs: list[Pair]
    words: list[list[str]] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    titled: list[int] = field(default_factory=list)
    heads: dict[int, str] = field(default_factory=dict)
    head_names: list[str] = field(default_factory=list)
    clusters: list[dict[int, str]] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    toned: list[int] = field(default_factory=list)
    tone: dict[int, float] = field(default_factory=dict)

    @cached_property
    def head_rows(self) -> dict[str, list[int]]:
        """The texts of every kind of thing."""
        found: dict[str, list[int]] = {}
        for row, head in self.heads.items():
            found.setdefault(head, []).append(row)
        return found

    @cached_property
    def cluster_rows(self) -> list[list[int]]:
        """The texts of every clustering."""
        return [list(clusters) for clusters in self.clusters]


def add_words(bank: Bank, matrix, terms: np.ndarray, document_counts: np.ndarray) -> None:
    """Each text's best key words (by TF-IDF) and the vocabulary they come from, sorted by frequency."""
    usable = (document_counts >= 12) & (document_counts <= 0.04 * len(bank.texts))
    usable &= np.array([len(term) > 3 for term in terms])
    for row in range(matrix.shape[0]):
        begin, end = matrix.indptr[row], matrix.indptr[row + 1]
        columns, weights = matrix.indices[begin:end], matrix.data[begin:end]
        kept = usable[columns]
        best = columns[kept][np.argsort(-weights[kept])][:8]
        bank.words.append([str(terms[column]) for column in best])
    order = np.argsort(document_counts)
    bank.vocabulary = [str(terms[column]) for column in order if usable[column]]


def add_heads(bank: Bank) -> None:
    """The kinds of thing that the texts define; kinds met fewer than 15 times are dropped."""
    found = {row: definition_head(crop(bank.texts[row].split("\n", 1)[1], 30)) for row in bank.titled}
    counts = Counter(head for head in found.values() if head)
    kept = {head for head, count in counts.items() if count >= 8 and head not in VAGUE}
    bank.heads = {row: head for row, head in found.items() if head in kept}
    bank.head_names = sorted(kept, key=lambda head: -counts[head])
    log.info("heads: %d kinds in %d texts: %s", len(kept), len(bank.heads), ", ".join(bank.head_names[:12]))


def add_clusters(bank: Bank, matrix, terms: np.ndarray, rows: list[int], size: int, seed: int) -> None:
    """k-means clusters of some of the texts, each named by one or two of its most typical words."""
    part = matrix[rows]
    reduced = TruncatedSVD(96, random_state=seed).fit_transform(part)
    reduced /= np.linalg.norm(reduced, axis=1, keepdims=True) + 1e-9
    labels = MiniBatchKMeans(size, random_state=seed, n_init=3, batch_size=4096).fit_predict(reduced)
    overall = np.asarray(part.mean(axis=0)).ravel()
    names, used = [], set()
    for cluster in range(size):
        members = part[labels == cluster]
        typical = np.asarray(members.mean(axis=0)).ravel() - overall if members.shape[0] else -overall
        best = [str(terms[i]) for i in np.argsort(-typical)[:30] if terms[i] not in used]
        used.update(best[:2])
        names.append([best[0], " ".join(best[:2]), " & ".join(best[:2])][cluster % 3])
    bank.names.append(names)
    bank.clusters.append({row: names[label] for row, label in zip(rows, labels, strict=True)})
    log.info("clusters (%d): %s", size, "; ".join(names[:16]))


def seed_balance(text: str) -> tuple[int, int]:
    """How many good and how many bad seed words a text holds; those of the title count three times."""
    good = bad = 0
    for number, line in enumerate(text.split("\n")):
        weight = 3 if number == 0 and line.startswith("Title:") else 1
        words = WORD.findall(line.lower())
        good += weight * sum(word in GOOD for word in words)
        bad += weight * sum(word in BAD for word in words)
    return good, bad


def add_tone(bank: Bank, seed: int) -> None:
    """A tone between 0 and 1 (its quantile) for every text with seed words, by a classifier that sees no seeds."""
    balance = [seed_balance(text) for text in bank.texts]
    bank.toned = [row for row, pair in enumerate(balance) if sum(pair) >= 2 and PERSONAL.search(bank.texts[row])]
    vectors = TfidfVectorizer(
        ngram_range=(1, 2), min_df=5, sublinear_tf=True, max_features=60000, stop_words=list(GOOD | BAD)
    ).fit_transform([bank.texts[row] for row in bank.toned])
    difference = np.array([balance[row][0] - balance[row][1] for row in bank.toned])
    clear = np.flatnonzero(difference)
    model = LogisticRegression(C=1.0, max_iter=300, random_state=seed).fit(vectors[clear], difference[clear] > 0)
    total = np.array([sum(balance[row]) for row in bank.toned])
    score = model.decision_function(vectors) + 1.5 * difference / np.sqrt(total + 1.0)
    quantile = score.argsort().argsort() / len(score)
    bank.tone = {row: float(value) for row, value in zip(bank.toned, quantile, strict=True)}
    agreement = model.score(vectors[clear], difference[clear] > 0)
    log.info("tone: %d texts, classifier agrees with the seeds on %.3f", len(clear), agreement)


def build_bank(texts: list[str], pairs: list[Pair], seed: int) -> Bank:
    """Derive everything the pair makers need from the unlabelled texts."""
    bank = Bank(texts, pairs)
    bank.titled = [row for row, text in enumerate(texts) if re.match(r"Title: \S.*\n[A-Z]\w+: *\S", text)]
    long = [row for row, text in enumerate(texts) if text.count(" ") >= 25]
    bank.drawn = long + 2 * bank.titled
    stop_words = sorted(ENGLISH_STOP_WORDS | set(NAMES_OF_FIELDS))
    vectorizer = TfidfVectorizer(
        token_pattern=r"[A-Za-z]{3,}", min_df=12, max_df=0.2, sublinear_tf=True, stop_words=stop_words
    )
    matrix = vectorizer.fit_transform(texts).tocsr()
    terms = vectorizer.get_feature_names_out()
    add_words(bank, matrix, terms, np.asarray((matrix > 0).sum(axis=0)).ravel())
    add_heads(bank)
    for rows, size in ((bank.titled, 14), (bank.titled, 40), (long, 30), (long, 100)):
        add_clusters(bank, matrix, terms, rows, size, seed)
    add_tone(bank, seed)
    log.info("%d texts, %d with a title, %d key words", len(texts), len(bank.titled), len(bank.vocabulary))
    return bank


# -------------------- pair makers
def ask(
    rng: random.Random, task: str, target: str, others: Iterable[str], text: str, options: bool = True, form: int = -1
) -> Pair:
    """A pair in the benchmark's prompt form; the options are shuffled, without options the answer is to be written.

    ``form`` fixes which wording asks, where an answer without options needs to know what kind of name is wanted.
    """
    question = rng.choice(QUESTIONS[task]) if options or form < 0 else QUESTIONS[task][form]
    if options:
        names = list(dict.fromkeys([target, *others]))
        rng.shuffle(names)
        question += " Choose one from the option. Option: " + ", ".join(names) + "."
    return Pair(task, f"{question}\n{text.strip()}\nAnswer:", target)


def pick(rng: random.Random, names: list[str], target: str, low: int = 2, high: int = 14) -> list[str]:
    """Up to ``high - 1`` distractors drawn from ``names``."""
    count = min(rng.randint(low, high) - 1, len(names) - 1)
    return [name for name in rng.sample(names, count) if name != target]


def recase(rng: random.Random, names: list[str]) -> list[str]:
    """All names in one randomly chosen casing."""
    style = rng.choice([str.lower, str.lower, str.title, str.capitalize])
    return [style(name) for name in names]


def passage_length(rng: random.Random) -> int:
    """How many words of a text a prompt shows."""
    return rng.choice([15, 25, 35, 45, 60])


def make_word(bank: Bank, rng: random.Random) -> Pair | None:
    """A key word is removed everywhere and has to be chosen (sometimes written); distractors are about as frequent."""
    row = rng.choice(bank.drawn)
    text = crop(bank.texts[row], passage_length(rng))
    shown = [word for word in bank.words[row] if word in text.lower()]
    if not shown:
        return None
    word = rng.choice(shown)
    text = remove_words(text, [word], rng.choice([SENTINELS[0], ""]))
    others = [rng.choice(bank.words[rng.choice(bank.drawn)] or [word]) for _ in range(rng.randint(1, 13))]
    target, *rest = recase(rng, [word, *others])
    return ask(rng, "word", target, rest, text, options=rng.random() < 0.8)


def make_keywords(bank: Bank, rng: random.Random) -> Pair | None:
    """One or two key words of the text among those of other texts; mostly they are taken out of the text."""
    rows = [rng.choice(bank.drawn) for _ in range(rng.randint(2, 12))]
    count, glue = rng.choice([(1, " "), (2, " "), (2, " & "), (2, " and ")])
    text = crop(bank.texts[rows[0]], passage_length(rng))
    shown = [word for word in bank.words[rows[0]] if word in text.lower()]
    if len(shown) < 2:
        return None
    groups = [rng.sample(shown, count)]
    groups += [rng.sample(bank.words[row], count) for row in rows[1:] if len(bank.words[row]) >= 2]
    if rng.random() < 0.7:
        text = remove_words(text, groups[0], "")
    target, *rest = recase(rng, [glue.join(group) for group in groups])
    return ask(rng, "keywords", target, rest, text, options=rng.random() < 0.8)


def make_title(bank: Bank, rng: random.Random) -> Pair | None:
    """The title of a text: chosen among titles of other texts, or written."""
    if not bank.titled:
        return None
    rows = rng.sample(bank.titled, min(rng.randint(2, 7), len(bank.titled)))
    titles = [crop(bank.texts[row].split("\n")[0][7:].replace(",", ""), 6).strip() for row in rows]
    text = crop(bank.texts[rows[0]].split("\n", 1)[1], passage_length(rng))
    return ask(rng, "title", titles[0], titles[1:], text, options=rng.random() < 0.5) if titles[0] else None


def make_head(bank: Bank, rng: random.Random) -> Pair | None:
    """What kind of thing a text defines, with the word itself mostly taken out."""
    if len(bank.head_names) < 3:
        return None
    # rare kinds are drawn more often than their share: first a kind, then one of its texts
    row = rng.choice(bank.head_rows[rng.choice(bank.head_names)])
    head = bank.heads[row]
    text = crop(bank.texts[row], passage_length(rng))
    if rng.random() < 0.7:
        text = remove_words(text, [head], rng.choice([SENTINELS[0], ""]))
    if rng.random() < 0.4:
        return ask(rng, "head", head, [], text, options=False)
    target, *rest = recase(rng, [head, *pick(rng, bank.head_names, head)])
    return ask(rng, "head", target, rest, text)


def make_topic(bank: Bank, rng: random.Random) -> Pair | None:
    """The name of the text's cluster among other clusters' names, or written."""
    grain = rng.randrange(len(bank.names))
    row = rng.choice(bank.cluster_rows[grain])
    name = bank.clusters[grain][row]
    text = crop(bank.texts[row], passage_length(rng))
    if rng.random() < 0.4:
        return ask(rng, "topic", name, [], text, options=False, form=grain)
    target, *rest = recase(rng, [name, *pick(rng, bank.names[grain], name)])
    return ask(rng, "topic", target, rest, text)


def make_tone(bank: Bank, rng: random.Random) -> Pair | None:
    """How favourable a text is, on a scale of two to five names; sometimes its seed words are taken out."""
    if not bank.toned:
        return None
    row = rng.choice(bank.toned)
    value = bank.tone[row]
    options = rng.random() < 0.6
    scale = rng.choice(TONES) if options else TONES[0]
    levels = rng.choice([[0, 4], [1, 3], [0, 2, 4], [1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    levels = levels if options else [0, 1, 2, 3, 4]
    target = scale[levels[min(int(value * len(levels)), len(levels) - 1)]]
    text = crop(bank.texts[row], rng.choice([25, 40, 55, 75]))
    if rng.random() < 0.2:
        text = remove_words(text, (GOOD | BAD) & set(WORD.findall(text.lower())) or {"nothing"}, "")
    return ask(rng, "tone", target, [scale[level] for level in levels], text, options)


def make_same(bank: Bank, rng: random.Random) -> Pair | None:
    """Do two passages come from one text?"""
    words = bank.texts[rng.choice(bank.drawn)].split(" ")
    if len(words) < 30:
        return None
    half, size = len(words) // 2, rng.choice([15, 25, 35])
    same = rng.random() < 0.5
    other = words[half:] if same else bank.texts[rng.choice(bank.drawn)].split(" ")
    text = f"first: {' '.join(words[:half][:size])}\nsecond: {' '.join(other[:size])}"
    yes, no = rng.choice([("yes", "no"), ("together", "apart"), ("same", "different")])
    return ask(rng, "same", yes if same else no, [yes, no], text)


def make_spans(bank: Bank, rng: random.Random) -> Pair | None:
    """T5's span corruption on words: about 15% of a window, in spans of one to four words."""
    words = bank.texts[rng.randrange(len(bank.texts))].split(" ")
    begin = rng.randrange(max(1, len(words) - 40))
    words = words[begin : begin + 40]
    source, target, position, sentinel = [], [], 0, 0
    while position < len(words):
        if rng.random() < 0.07 and sentinel < len(SENTINELS) - 1:
            span = rng.randint(1, 4)
            source.append(SENTINELS[sentinel])
            target += [SENTINELS[sentinel], *words[position : position + span]]
            position, sentinel = position + span, sentinel + 1
        else:
            source.append(words[position])
            position += 1
    return Pair("spans", " ".join(source), " ".join(target)) if target else None


def make_pairs(bank: Bank, rng: random.Random) -> Pair | None:
    """One of the given pairs."""
    return rng.choice(bank.pairs) if bank.pairs else None


MAKERS: dict[str, Callable[[Bank, random.Random], Pair | None]] = {
    "pairs": make_pairs, "spans": make_spans, "word": make_word, "keywords": make_keywords, "title": make_title,
    "head": make_head, "topic": make_topic, "tone": make_tone, "same": make_same,
}  # fmt: skip


def make_pool(bank: Bank, seed: str, count: int, mix: dict[str, float]) -> list[Pair]:
    """``count`` pairs drawn from the mixture; the seed alone decides which."""
    rng = random.Random(seed)
    names, weights = list(mix), list(mix.values())
    pool: list[Pair] = []
    while len(pool) < count:
        pair = MAKERS[rng.choices(names, weights)[0]](bank, rng)
        if pair is not None and pair.target:
            pool.append(pair)
    return pool


# -------------------- tokenizer
def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A BPE tokenizer whose pieces never cross words; digits, punctuation and line breaks are their own pieces."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace("\\n", "\n"),
            normalizers.Replace("\n", "\n "),
            normalizers.Prepend(" "),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]|\n|\s"), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Fuse(),
            decoders.Replace("\n▁", "\n"),
            decoders.Replace("▁", " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, EOS, UNK, *SENTINELS], initial_alphabet=alphabet, limit_alphabet=180,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer as a transformers object."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK, extra_special_tokens=SENTINELS,
        model_max_length=max_length, clean_up_tokenization_spaces=False,
    )  # fmt: skip


# -------------------- embeddings
def cooccurrences(streams: list[list[int]], size: int, window: int) -> torch.Tensor:
    """How often two tokens stand within ``window`` tokens of each other in one text (symmetric, dense)."""
    flat = np.concatenate([np.array([*stream, *([-1] * window)]) for stream in streams])
    counts = np.zeros(size * size, dtype=np.float32)
    for distance in range(1, window + 1):
        left, right = flat[:-distance], flat[distance:]
        kept = (left >= 0) & (right >= 0)
        cells, times = np.unique(left[kept] * size + right[kept], return_counts=True)
        counts[cells] += times
    matrix = torch.from_numpy(counts.reshape(size, size))
    return matrix + matrix.T


def svd_embeddings(tokenizer: Tokenizer, texts: list[str], width: int, window: int, noise: float) -> torch.Tensor:
    """Token vectors of RMS 1: SVD of the positive pointwise mutual information of case-folded tokens, plus noise."""
    size = tokenizer.get_vocab_size()
    folded: dict[str, int] = {}
    fold = np.array([folded.setdefault(tokenizer.id_to_token(i).lower(), len(folded)) for i in range(size)])
    streams = [fold[encoding.ids].tolist() for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    counts = cooccurrences(streams, len(folded), window)
    total = counts.sum(dtype=torch.float64).float()
    share = counts.sum(1, keepdim=True) / total
    context = counts.sum(0).pow(0.75)
    context = (context / context.sum()).unsqueeze(0)
    matrix = torch.log((counts / total).clamp_min(1e-12) / (share * context).clamp_min(1e-12)).clamp_min(0)
    left, values, _ = torch.svd_lowrank(matrix, q=width + 32, niter=4)
    vectors = left[:, 1 : width + 1] * values[1 : width + 1].sqrt()
    vectors = vectors - vectors.mean(0, keepdim=True)
    vectors = vectors / vectors.pow(2).mean(1, keepdim=True).sqrt().clamp_min(1e-6)
    seen = counts.sum(1) > 0
    vectors[~seen] = 0
    vectors = vectors[torch.from_numpy(fold)]
    vectors = vectors + noise * torch.randn(vectors.shape)
    return vectors / vectors.pow(2).mean(1, keepdim=True).sqrt()


# -------------------- model
def build_model(vocabulary: int, args: argparse.Namespace) -> T5ForConditionalGeneration:
    """A fresh T5 (gated-relu, tied embeddings, no dropout)."""
    config = T5Config(
        vocab_size=vocabulary, d_model=args.width, d_kv=args.head_width, num_heads=args.heads, d_ff=args.feed_forward,
        num_layers=args.layers, num_decoder_layers=args.decoder_layers, dropout_rate=0.0,
        feed_forward_proj="gated-relu", tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def build_optimizer(model: torch.nn.Module, args: argparse.Namespace, fused: bool) -> torch.optim.AdamW:
    """AdamW with one group a tensor, its learning rate scaled by the tensor's initial RMS."""
    groups = []
    for name, tensor in model.named_parameters():
        rate = args.embedding_rate if name.startswith("shared") else args.rate
        full = rate * max(0.01, tensor.detach().pow(2).mean().sqrt().item())
        groups.append({"params": [tensor], "lr": full, "full_lr": full})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)


def clip_ids(ids: list[int], limit: int) -> list[int]:
    """Cut the middle of a too long prompt: its end ("Answer:" and end of sequence) stays."""
    return ids if len(ids) <= limit else ids[: limit - 5] + ids[-5:]


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Right-padded integer matrix."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def batches(
    pool: list[Pair], tokenizer: Tokenizer, args: argparse.Namespace, seed: str
) -> list[dict[str, torch.Tensor]]:
    """Tokenized batches of similar length, in random order, each of about ``--tokens`` source tokens."""
    sources = [clip_ids(e.ids, args.max_source) for e in tokenizer.encode_batch([pair.source for pair in pool])]
    targets = [e.ids[: args.max_target] for e in tokenizer.encode_batch([pair.target for pair in pool])]
    order = sorted(range(len(pool)), key=lambda i: (len(targets[i]) > 9, len(sources[i])))
    made, begin = [], 0
    while begin < len(order):
        rows = order[begin : begin + args.batch]
        while len(rows) > 8 and len(rows) * len(sources[rows[-1]]) > args.tokens:
            rows = rows[:-1]
        begin += len(rows)
        inputs = pad([sources[i] for i in rows], 0)
        made.append(
            {
                "input_ids": inputs,
                "attention_mask": (inputs != 0).long(),
                "labels": pad([targets[i] for i in rows], -100),
            }
        )
    random.Random(seed).shuffle(made)
    return made


# -------------------- training
@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    block: int = 0
    index: int = 0

    def share(self, args: argparse.Namespace) -> float:
        """How much of the run is done, by steps or by minutes, whichever ends first."""
        by_steps = self.step / args.steps if args.steps else 0.0
        by_time = self.seconds / (60 * args.minutes) if args.minutes else 0.0
        return max(by_steps, by_time)


@dataclass
class Run:
    """Everything a training loop holds."""

    args: argparse.Namespace
    bank: Bank
    held: Bank
    tokenizer: Tokenizer
    model: T5ForConditionalGeneration
    optimizer: torch.optim.AdamW
    device: torch.device
    average: dict[str, torch.Tensor]
    progress: Progress = field(default_factory=Progress)
    stopped: bool = False

    def stop(self, *_: object) -> None:
        """Signal handler: save and end after the current step."""
        self.stopped = True


def save_checkpoint(run: Run) -> None:
    """Write weights, optimizer, averages, progress and generator to a temporary file, then rename it."""
    path = Path(run.args.state) / "checkpoint.pt"
    state = {
        "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "average": run.average,
        "progress": vars(run.progress), "rng": torch.get_rng_state(),
    }  # fmt: skip
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def load_checkpoint(run: Run) -> None:
    """Continue from the last checkpoint of the state folder, if there is one."""
    path = Path(run.args.state) / "checkpoint.pt"
    if not path.exists():
        return
    state = torch.load(path, map_location=run.device, weights_only=True)
    run.model.load_state_dict(state["model"])
    rates = [group["full_lr"] for group in run.optimizer.param_groups]
    run.optimizer.load_state_dict(state["optimizer"])
    for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
        group["full_lr"] = rate  # the command line decides, not the checkpoint
    run.average = state["average"]
    run.progress = Progress(**state["progress"])
    torch.set_rng_state(state["rng"].cpu())
    log.info("continuing from step %d (%.0f s)", run.progress.step, run.progress.seconds)


def update_average(run: Run, decay: float) -> None:
    """Exponential average of the weights; it is what gets evaluated and exported.

    The mean of the embeddings is drawn to zero on the way: adaptive steps let it drift, which changes no output
    probability but drowns what tells tokens apart.
    """
    with torch.no_grad():
        table = run.model.get_input_embeddings().weight
        table -= 0.02 * table.mean(0, keepdim=True)
        for name, tensor in run.model.named_parameters():
            run.average[name].lerp_(tensor.detach(), 1 - decay)


def averaged_model(run: Run) -> T5ForConditionalGeneration:
    """A copy of the model with the averaged weights."""
    model = T5ForConditionalGeneration(run.model.config).to(run.device)
    model.load_state_dict({**run.model.state_dict(), **run.average}, strict=False)
    model.tie_weights()
    return model.eval()


def export(run: Run, out: Path) -> None:
    """Write the averaged model (bf16 safetensors) and the tokenizer, each file renamed into place when complete."""
    temporary = Path(run.args.state) / "export"
    shutil.rmtree(temporary, ignore_errors=True)
    model = averaged_model(run).to(torch.bfloat16)
    model.generation_config.update(max_new_tokens=16, num_beams=1, do_sample=False)
    model.save_pretrained(temporary)
    wrap_tokenizer(run.tokenizer, 512).save_pretrained(temporary)
    config = json.loads((temporary / "config.json").read_text())
    config["dtype"] = "float32"  # stored in bf16 to save space, to be loaded and trained in float32
    (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    settings = json.loads((temporary / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # known to older releases of transformers as well
    (temporary / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for file in temporary.iterdir():
        shutil.copyfile(file, out / (file.name + ".tmp"))
        os.replace(out / (file.name + ".tmp"), out / file.name)


@torch.no_grad()
def evaluate(run: Run, each: int = 100) -> dict[str, float]:
    """Held-out exact match of the greedy answer (teacher-forced) for every maker, on texts and pairs held out."""
    model, scores = averaged_model(run), {}
    for task in MIX:
        try:
            pool = make_pool(run.held, f"held-{task}", each, {task: 1.0})
        except (IndexError, KeyError):
            continue
        right = total = 0
        for batch in batches(pool, run.tokenizer, run.args, "held"):
            batch = {name: tensor.to(run.device) for name, tensor in batch.items()}
            guess = model(**batch).logits.argmax(-1)
            match = (guess == batch["labels"]) | (batch["labels"] == -100)
            wanted = batch["labels"] != -100
            right += (match & wanted).sum().item() if task == "spans" else match.all(-1).sum().item()
            total += wanted.sum().item() if task == "spans" else len(match)
        scores[task] = round(right / total, 3)
    return scores


def train_step(run: Run, batch: dict[str, torch.Tensor]) -> float:
    """One optimizer step; the learning rate warms up over 200 steps and falls linearly to zero."""
    factor = min(1.0, (run.progress.step + 1) / 200) * max(0.0, 1.0 - run.progress.share(run.args))
    for group in run.optimizer.param_groups:
        group["lr"] = group["full_lr"] * factor
    batch = {name: tensor.to(run.device) for name, tensor in batch.items()}
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.args.bf16):
        loss = run.model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return loss.item()


def train(run: Run) -> None:
    """Train to the end of the budget; report, checkpoint and export on the way."""
    args, progress = run.args, run.progress
    losses: list[float] = []
    next_save = progress.seconds + args.save_seconds
    started = time.perf_counter() - progress.seconds
    while progress.share(args) < 1.0:
        seed = f"{args.seed}-{progress.block}"
        block = batches(make_pool(run.bank, seed, 64 * args.batch, MIX), run.tokenizer, args, seed)
        for batch in block[progress.index :]:
            losses.append(train_step(run, batch))
            progress.step += 1
            progress.index += 1
            if progress.step % 10 == 0:
                update_average(run, min(0.99, progress.step / (progress.step + 500)))
            progress.seconds = time.perf_counter() - started
            if run.stopped:
                save_checkpoint(run)
                return
            if progress.step % 250 == 0:
                log.info("step %d  %.0f s  loss %.3f", progress.step, progress.seconds, np.mean(losses[-250:]))
            if progress.seconds >= next_save or progress.share(args) >= 1.0:
                next_save = progress.seconds + args.save_seconds
                save_checkpoint(run)
                log.info("held out %s", json.dumps(evaluate(run)))
                export(run, Path(args.out))
            if progress.share(args) >= 1.0:
                return
        progress.block, progress.index = progress.block + 1, 0


# -------------------- main
def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", type=Path, required=True, help="files of unlabelled texts")
    parser.add_argument("--pairs", nargs="*", type=Path, default=[], help="files of text-to-text pairs")
    parser.add_argument("--out", default="mini-model", help="folder of the exported model")
    parser.add_argument("--state", default="mini-state", help="folder of tokenizer and checkpoint (for continuing)")
    parser.add_argument("--minutes", type=float, default=0, help="training time after which the run ends")
    parser.add_argument("--steps", type=int, default=0, help="steps after which the run ends")
    parser.add_argument("--save-seconds", type=float, default=300, help="time between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=12000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-width", type=int, default=32)
    parser.add_argument("--feed-forward", type=int, default=320)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--decoder-layers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate relative to each tensor's RMS")
    parser.add_argument("--embedding-rate", type=float, default=4e-3, help="the same for the token embeddings")
    parser.add_argument("--batch", type=int, default=16, help="most rows a batch")
    parser.add_argument("--tokens", type=int, default=2048, help="most source tokens a batch")
    parser.add_argument("--max-source", type=int, default=160)
    parser.add_argument("--max-target", type=int, default=40)
    parser.add_argument("--window", type=int, default=12, help="co-occurrence window of the initial embeddings")
    parser.add_argument("--noise", type=float, default=0.3, help="noise that tells apart tokens differing in case")
    parser.add_argument("--random-embeddings", action="store_true", help="start from random embeddings (to compare)")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: leave torch's default)")
    args = parser.parse_args()
    if not args.minutes and not args.steps:
        parser.error("give --minutes or --steps")
    return args


def load_data(args: argparse.Namespace) -> tuple[Bank, Bank]:
    """The training bank and a small held-out one (1% of the texts, 500 pairs)."""
    texts = [row["text"] for row in read_rows(args.text)]
    pairs = [Pair("pairs", row["source"], row["target"]) for row in read_rows(args.pairs)]
    random.Random(args.seed).shuffle(texts)
    random.Random(args.seed).shuffle(pairs)
    bank = build_bank(texts, pairs, args.seed)
    cut = max(1, len(texts) // 100)
    return split_bank(bank, cut, len(texts), 500, len(pairs)), split_bank(bank, 0, cut, 0, 500)


def split_bank(bank: Bank, begin: int, end: int, first_pair: int, last_pair: int) -> Bank:
    """The part of a bank made of the texts ``begin`` to ``end``, with rows renumbered."""

    def inside(rows: Iterable[int]) -> list[int]:
        return [row - begin for row in rows if begin <= row < end]

    heads = {row - begin: head for row, head in bank.heads.items() if begin <= row < end}
    present = set(heads.values())
    return Bank(
        texts=bank.texts[begin:end], pairs=bank.pairs[first_pair:last_pair], words=bank.words[begin:end],
        vocabulary=bank.vocabulary, titled=inside(bank.titled), heads=heads,
        head_names=[name for name in bank.head_names if name in present],
        clusters=[{row - begin: name for row, name in named.items() if begin <= row < end} for named in bank.clusters],
        names=bank.names, drawn=inside(bank.drawn), toned=inside(bank.toned),
        tone={row - begin: value for row, value in bank.tone.items() if begin <= row < end},
    )  # fmt: skip


def prepare_tokenizer(args: argparse.Namespace, bank: Bank) -> tuple[Tokenizer, torch.Tensor]:
    """Tokenizer and initial embeddings, from the state folder where an earlier start left them."""
    state = Path(args.state)
    state.mkdir(parents=True, exist_ok=True)
    path, vectors = state / "tokenizer.json", state / "embeddings.pt"
    if not path.exists():
        corpus = [*bank.texts, *(pair.source for pair in bank.pairs[::4])]
        train_tokenizer(corpus, args.vocabulary).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    if not vectors.exists():
        torch.save(svd_embeddings(tokenizer, bank.texts, args.width, args.window, args.noise), vectors)
    return tokenizer, torch.load(vectors, weights_only=True)


def main() -> None:
    """Read, derive, build, train, export."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bank, held = load_data(args)
    tokenizer, vectors = prepare_tokenizer(args, bank)
    log.info("tokenizer of %d pieces and embeddings ready", tokenizer.get_vocab_size())
    torch.manual_seed(args.seed)
    model = build_model(tokenizer.get_vocab_size(), args)
    if not args.random_embeddings:
        with torch.no_grad():
            model.shared.weight.copy_(vectors)
    model.to(device).train()
    log.info("%d parameters", sum(tensor.numel() for tensor in model.parameters()))
    average = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    run = Run(args, bank, held, tokenizer, model, build_optimizer(model, args, fused=True), device, average)
    load_checkpoint(run)
    signal.signal(signal.SIGTERM, run.stop)
    train(run)
    log.info("done: %d steps in %.0f s", run.progress.step, run.progress.seconds)


if __name__ == "__main__":
    main()
