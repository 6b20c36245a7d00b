"""Training sequences: text with statements hidden in it, and questions about them further on."""

import re
from collections import Counter

import numpy as np

# Weights of a token in the loss: of text, of statements and questions, of answers.
TEXT_WEIGHT, STATEMENT_WEIGHT, ANSWER_WEIGHT = 0.5, 0.2, 8.0


class Tasks:
    """Draws retrieval tasks. Keys are common words and names of the corpus itself."""

    def __init__(self, text):
        words = Counter(re.findall(r"\b[a-z]{4,9}\b", text[:20_000_000]))
        names = Counter(re.findall(r"\b[A-Z][a-z]{3,8}\b", text[:30_000_000]))
        self.words = [word for word, _ in words.most_common(4000)]
        self.names = [name for name, _ in names.most_common(3000)]

    def draw(self, random):
        """(statements, question, answer): the statements in their order, all before the question."""
        kind = random.random()
        if kind < 0.40:
            key, value = self._key(random), _string(random, "0123456789", 7)
            statement = f" The special magic number for {key} is {value}."
            return [statement], _ask(f"What is the special magic number for {key}?"), f" {value}\n"
        if kind < 0.55:
            key, value = self._key(random), _string(random, "0123456789abcdef", 8)
            return [f" The access code of {key} is {value}."], _ask(f"What is the access code of {key}?"), f" {value}\n"
        if kind < 0.70:
            person = random.choice(self.names) + " " + random.choice(self.names)
            place = random.choice(self.names)
            return [f" {person} lives in {place}."], _ask(f"Where does {person} live?"), f" {place}\n"
        if kind < 0.85:
            key = self._key(random)
            values = [_string(random, "0123456789", 5) for _ in range(3)]
            statements = [f" One of the tokens of {key} is {value}." for value in values]
            return statements, _ask(f"What are the tokens of {key}?"), f" {', '.join(values)}\n"
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        chain = [_string(random, letters, 3) for _ in range(random.choice([1, 2, 2, 3]))]
        value = _string(random, "0123456789", 5)
        statements = [f" VAR {chain[0]} = {value}."]
        statements += [f" VAR {name} = VAR {before}." for before, name in zip(chain, chain[1:])]
        return statements, _ask(f"What is the value of VAR {chain[-1]}?"), f" {value}\n"

    def _key(self, random):
        return random.choice(self.words) + " " + random.choice(self.words)


def make_sequence(random, length, text_ids, tasks, encode):
    """(tokens, weights) of length + 1: a window of text with tasks in random places, answers after their questions."""
    count = min(48, max(1, int(length / 4096 * random.choice([2, 4, 8, 12]))))
    events = []  # (place in 0 … 1, tokens, answer tokens or None)
    for statements, question, answer in [tasks.draw(random) for _ in range(count)]:
        asked = random.random() ** 0.5
        places = sorted(random.random() * asked for _ in statements)
        events += [(place, encode(statement), None) for place, statement in zip(places, statements)]
        events.append((asked, encode(question), encode(answer)))
    events.sort(key=lambda event: event[0])

    inserted = sum(len(tokens) + (0 if answer is None else len(answer)) for _, tokens, answer in events)
    body = max(64, length + 1 - inserted)
    start = random.randrange(0, len(text_ids) - body - 1)
    text = text_ids[start : start + body].astype(np.int64)
    pieces = []  # (tokens, weight)
    done = 0
    for place, tokens, answer in events:
        until = int(place * body)
        if until > done:
            pieces.append((text[done:until], TEXT_WEIGHT))
            done = until
        pieces.append((tokens, STATEMENT_WEIGHT))
        if answer is not None:
            pieces.append((answer, ANSWER_WEIGHT))
    pieces.append((text[done:], TEXT_WEIGHT))

    ids = np.concatenate([tokens for tokens, _ in pieces])
    weights = np.concatenate([np.full(len(tokens), weight, np.float32) for tokens, weight in pieces])
    missing = max(0, length + 1 - len(ids))
    ids = np.concatenate([ids, text[:missing]])[: length + 1]
    weights = np.concatenate([weights, np.full(missing, TEXT_WEIGHT, np.float32)])[: length + 1]
    return ids.astype(np.int16), weights.astype(np.float16)


def _ask(question):
    return f"\nQuestion: {question}\nAnswer:"


def _string(random, alphabet, length):
    return "".join(random.choice(alphabet) for _ in range(length))
