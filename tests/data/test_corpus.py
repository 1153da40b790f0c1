import itertools

import pytest

from adaspec_rl.data.corpus import DOMAINS, SPLITS, documents, split_of
from adaspec_rl.data.word_problems import conversations


def test_every_domain_has_text_in_every_split():
    for domain, split in itertools.product(DOMAINS, SPLITS):
        first = next(iter(documents(domain, split)))
        assert len(first.strip()) > 20


def test_splits_share_no_document():
    for domain in ("code", "prose"):
        texts = {split: set(documents(domain, split)) for split in SPLITS}
        for one, other in itertools.combinations(SPLITS, 2):
            assert not texts[one] & texts[other]
    names = [f"module{number}.py" for number in range(3000)]
    shares = {split: sum(split_of(n) == split for n in names) / 3000 for split in SPLITS}
    assert shares["fit"] == pytest.approx(0.86, abs=0.03)
    assert shares["test"] == pytest.approx(0.05, abs=0.02)


def test_word_problems_are_determined_by_their_seed_and_right():
    first, again, other = (list(itertools.islice(conversations(seed), 50)) for seed in (1, 1, 2))
    assert first == again and not set(first) & set(other)
    sums = 0
    for text in first:
        for line in text.splitlines():
            for piece in line.replace(" and ", ", ").split(", "):
                left, equals, right = piece.partition(" = ")
                words = left.split()[-5:]
                operation = [word for word in words if word in "+-*/" or word.isdigit()]
                if equals and len(operation) in (3, 5):
                    assert eval(" ".join(operation)) == int(right.split()[0].strip(".,"))  # noqa: S307
                    sums += 1
    assert sums > 150


@pytest.mark.parametrize(("domain", "split"), [("poetry", "fit"), ("code", "all")])
def test_unknown_names_are_refused(domain, split):
    with pytest.raises(ValueError, match="expected one of"):
        documents(domain, split)
