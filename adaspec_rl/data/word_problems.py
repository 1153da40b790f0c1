"""Question-and-answer word problems with worked steps, from a seeded generator.

These are the dialogue domain of the embedded corpus. Sentence frames are predictable; names and
quantities are not, and the arithmetic is hard for a small model. So drafting pays in some places
and not in others.
"""

import random
from collections.abc import Callable, Iterator

NAMES = """Ada Amir Anna Bela Carlos Chen Dara Elif Emma Farid Grace Hana Hugo Ines Ivan Jonas Karim
Lena Liam Lucia Maria Mina Nadia Noah Olga Omar Paula Priya Quinn Rosa Samir Sofia Tariq Tessa Uma
Victor Wanda Yusuf Zoe""".split()
PLACES = """market school library farm bakery harbour museum station office garden workshop
theatre""".split()
ITEMS = """apples books candles coins cookies cups eggs flowers lemons letters marbles mugs oranges
pencils plates postcards seeds shells stamps stickers stones tickets toys""".split()
CONTAINERS = "bags baskets boxes crates drawers jars shelves trays".split()
VEHICLES = "bus train lorry ferry tram cyclist van".split()
OPENERS = [
    "Let us work it out step by step.",
    "We can solve this in steps.",
    "Start with what is known.",
    "Here is one way to see it.",
    "Take it one step at a time.",
]

Problem = tuple[str, list[str], str]  # question, worked steps, answer sentence


def _plural(count: int, noun: str) -> str:
    singular = "shelf" if noun == "shelves" else "box" if noun == "boxes" else noun[:-1]
    return f"{count} {singular if count == 1 else noun}"


def _give_and_take(rng: random.Random) -> Problem:
    name, friend = rng.sample(NAMES, 2)
    item, place = rng.choice(ITEMS), rng.choice(PLACES)
    have, more = rng.randint(8, 90), rng.randint(3, 60)
    give = rng.randint(2, have + more - 1)
    total = have + more
    question = rng.choice(
        [
            f"{name} has {have} {item}. At the {place}, {name} gets {more} more and then gives "
            f"{give} to {friend}. How many {item} does {name} have now?",
            f"On Monday {name} has {have} {item}. On Tuesday {name} buys {more} {item} at the "
            f"{place}. On Wednesday {friend} takes {give} of them. How many are left?",
        ]
    )
    steps = [
        f"{name} begins with {have} {item}.",
        f"After getting {more} more there are {have} + {more} = {total} {item}.",
        f"After giving {give} to {friend} there are {total} - {give} = {total - give} {item}.",
    ]
    return question, steps, f"{name} has {_plural(total - give, item)}."


def _containers(rng: random.Random) -> Problem:
    name = rng.choice(NAMES)
    item, container, place = rng.choice(ITEMS), rng.choice(CONTAINERS), rng.choice(PLACES)
    each, number, loose = rng.randint(3, 24), rng.randint(2, 15), rng.randint(1, 20)
    packed = each * number
    question = (
        f"There are {number} {container} at the {place}. Each holds {each} {item}, and {name} "
        f"brings {loose} more {item}. How many {item} are there in all?"
    )
    steps = [
        f"The {container} hold {number} * {each} = {packed} {item}.",
        f"Together with the {loose} that {name} brings, that makes "
        f"{packed} + {loose} = {packed + loose} {item}.",
    ]
    return question, steps, f"There are {_plural(packed + loose, item)} in all."


def _sharing(rng: random.Random) -> Problem:
    name = rng.choice(NAMES)
    item = rng.choice(ITEMS)
    people, share, rest = rng.randint(3, 12), rng.randint(2, 18), 0
    rest = rng.randint(0, people - 1)
    total = people * share + rest
    question = (
        f"{name} shares {total} {item} equally among {people} children and keeps what is left "
        f"over. How many {item} does each child get, and how many does {name} keep?"
    )
    steps = [
        f"{people} * {share} = {people * share}, and {people} * {share + 1} = "
        f"{people * (share + 1)} would be too many.",
        f"So each child gets {_plural(share, item)}.",
        f"What is left over is {total} - {people * share} = {rest}.",
    ]
    return question, steps, f"Each child gets {share} and {name} keeps {rest}."


def _shopping(rng: random.Random) -> Problem:
    name = rng.choice(NAMES)
    first, second = rng.sample(ITEMS, 2)
    n, p, m, q = (rng.randint(2, 9) for _ in range(4))
    cost = n * p + m * q
    paid = (cost // 10 + rng.randint(1, 3)) * 10
    question = (
        f"At the {rng.choice(PLACES)}, {first} cost {p} dollars each and {second} cost {q} dollars "
        f"each. {name} buys {n} {first} and {m} {second} and pays with {paid} dollars. "
        "How much change is there?"
    )
    steps = [
        f"The {first} cost {n} * {p} = {n * p} dollars.",
        f"The {second} cost {m} * {q} = {m * q} dollars.",
        f"Together that is {n * p} + {m * q} = {cost} dollars.",
        f"The change is {paid} - {cost} = {paid - cost} dollars.",
    ]
    return question, steps, f"{name} gets {paid - cost} dollars back."


def _journey(rng: random.Random) -> Problem:
    vehicle = rng.choice(VEHICLES)
    speed, hours, extra = rng.randint(2, 18) * 5, rng.randint(2, 9), rng.randint(5, 60)
    way = speed * hours
    question = (
        f"A {vehicle} travels at {speed} kilometres an hour for {hours} hours, then another "
        f"{extra} kilometres to the {rng.choice(PLACES)}. How far does it travel?"
    )
    steps = [
        f"In {hours} hours the {vehicle} covers {speed} * {hours} = {way} kilometres.",
        f"With the last {extra} kilometres that is {way} + {extra} = {way + extra} kilometres.",
    ]
    return question, steps, f"The {vehicle} travels {way + extra} kilometres."


def _ages(rng: random.Random) -> Problem:
    older, younger = rng.sample(NAMES, 2)
    age, gap, years = rng.randint(5, 40), rng.randint(2, 25), rng.randint(2, 20)
    question = (
        f"{younger} is {age} years old. {older} is {gap} years older than {younger}. How old will "
        f"{older} be in {years} years?"
    )
    steps = [
        f"{older} is {age} + {gap} = {age + gap} years old today.",
        f"In {years} years {older} will be {age + gap} + {years} = {age + gap + years}.",
    ]
    return question, steps, f"{older} will be {age + gap + years} years old."


def _comparison(rng: random.Random) -> Problem:
    a, b, c = rng.sample(NAMES, 3)
    item = rng.choice(ITEMS)
    base, factor, fewer = rng.randint(4, 30), rng.randint(2, 5), rng.randint(1, 4)
    second = base * factor
    third = second - fewer
    question = (
        f"{a} collects {base} {item}. {b} collects {factor} times as many as {a}, and {c} collects "
        f"{fewer} fewer than {b}. How many {item} do the three have together?"
    )
    steps = [
        f"{b} collects {base} * {factor} = {second} {item}.",
        f"{c} collects {second} - {fewer} = {third} {item}.",
        f"Together they have {base} + {second} + {third} = {base + second + third} {item}.",
    ]
    return question, steps, f"The three have {_plural(base + second + third, item)} together."


def _saving(rng: random.Random) -> Problem:
    name = rng.choice(NAMES)
    week, weeks, start = rng.randint(2, 15), rng.randint(3, 12), rng.randint(5, 50)
    goal = start + week * weeks
    question = (
        f"{name} has {start} dollars and saves {week} dollars every week. After how many weeks "
        f"does {name} have {goal} dollars?"
    )
    steps = [
        f"{name} still needs {goal} - {start} = {goal - start} dollars.",
        f"At {week} dollars a week that takes {goal - start} / {week} = {weeks} weeks.",
    ]
    return question, steps, f"{name} has {goal} dollars after {weeks} weeks."


FRAMES: list[Callable[[random.Random], Problem]] = [
    _give_and_take,
    _containers,
    _sharing,
    _shopping,
    _journey,
    _ages,
    _comparison,
    _saving,
]


def word_problem(rng: random.Random) -> tuple[str, str]:
    """One problem as `(question, worked answer)`, plain text without speaker labels."""
    question, steps, answer = rng.choice(FRAMES)(rng)
    numbered = rng.random() < 0.5
    lines = [f"{i}. {step}" if numbered else step for i, step in enumerate(steps, 1)]
    body = "\n".join(lines) if numbered else " ".join(lines)
    return question, f"{rng.choice(OPENERS)}\n{body}\nAnswer: {answer}"


def conversations(seed: int, turns: tuple[int, int] = (2, 6)) -> Iterator[str]:
    """An endless stream of conversations of several problems each, determined by `seed`."""
    rng = random.Random(seed)
    while True:
        pairs = (word_problem(rng) for _ in range(rng.randint(*turns)))
        yield "".join(f"Question: {question}\n{answer}\n\n" for question, answer in pairs)
