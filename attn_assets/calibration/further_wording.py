"""Still more kinds of work, a third set of words: how well unseen kinds are told rises with how many were seen."""

from __future__ import annotations

import json
from random import Random

from attn_assets.calibration.background import styled_document
from attn_assets.calibration.prompts import Family

_WHO = ("Oskar", "Paula", "Ravi", "Selma", "Theo", "Uma", "Viktor", "Wanda", "Xenia", "Yusuf", "Zoe", "Bruno")
_WHAT = ("saddle", "anchor", "pillow", "barrel", "flute", "sledge", "basket", "telescope", "apron", "puppet")
_WHERE = ("Split", "Bruges", "Cork", "Dakar", "Esbjerg", "Funchal", "Ghent", "Hanau")


def _values(rng: Random) -> dict[str, object]:
    x, y = rng.sample(_WHAT, 2)
    return {
        "id": rng.randint(1, 999), "owner": rng.choice(_WHO), x: {"at": rng.choice(_WHERE), "n": rng.randint(1, 9)},
        "list": [rng.randint(1, 99), y, None], "ok": rng.random() < 0.5,
    }  # fmt: skip


def _commented(rng: Random, number: int, tokens: int) -> str:
    text = json.dumps(_values(rng), indent=1).replace(",\n", ", // why?\n", 1).replace("}", ", }", 1)
    ask = (
        "Strip the comments and stray commas so that strict JSON is left:\n{x}",
        "{x}\n\nStrict mode complains about that. Output what strict mode would accept.",
        "Convert from JSON5 to plain JSON.\n{x}\n",
    )
    return ask[number % 3].replace("{x}", text)


def _line_json(rng: Random, number: int, tokens: int) -> str:
    rows = [json.dumps(_values(rng)) for _ in range(2 + (tokens > 150))]
    rows[0] = rows[0].replace('"', "", 1)
    rows[-1] = rows[-1][: -rng.randint(1, 4)]
    ask = (
        "Two records of this stream are damaged. Emit all of them, one valid object a line.\n{x}",
        "Put these into one array and mend whatever is not valid on the way:\n{x}",
        "{x}\n\nSay nothing, only print the records with their quotes and braces complete.",
    )
    return ask[number % 3].replace("{x}", "\n".join(rows))


def _lisp(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_WHAT, 2)
    text = f"(define ({x} a b) (if (> a {rng.randint(2, 60)}) (list a (* b {rng.randint(2, 9)}) '({y}) (cons b '()"
    ask = (
        "Match the parentheses of this Lisp and print it:\n{x}",
        "{x}\nHow many ')' are missing at the end? Write the expression with them.",
        "Reprint, closing each list that was opened: {x}",
    )
    return ask[number % 3].replace("{x}", text)


def _attributes(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_WHAT, 2)
    text = f'<div class="{x} id={y}><a href=\'/{x}/{rng.randint(1, 99)}>{y}</a><img src="{x}.png" alt={y}"</div'
    ask = (
        "Put the quotes of the attributes right and close the tags:\n{x}",
        "A browser shows this wrongly because of its syntax. The right source is:\n{x}",
        "{x}\n\nValidate the HTML above and hand it back without mistakes.",
    )
    return ask[number % 3].replace("{x}", text)


def _short_news(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_WHO, 3)
    x, place = rng.choice(_WHAT), rng.choice(_WHERE)
    texts = (
        f"{a}, a baker from {place}, found a {x} on the tram. The driver, {b}, put it into her cab, and the baker "
        f"phoned {c}, whose name was written on it.",
        f"{b} and {c} both applied for the post in {place}. The younger applicant got it, and {a}, her rival's wife, "
        "congratulated her first.",
        f"{a} sold {b} a {x} that {c} had made. The buyer complained to the maker, who blamed the seller.",
    )
    ask = (
        "{t} Which names stand behind 'the driver', 'the buyer', 'her' and the like?",
        "Short report: {t}\nWho is who? Trace each description back to a person.",
        "{t}\n\nWhom does each underspecified phrase mean? Justify it from the sentence before.",
    )
    return ask[(number // 3) % 3].format(t=texts[number % 3])


def _ambiguous(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_WHO, 2)
    x, y = rng.sample(_WHAT, 2)
    texts = (
        f"{a} put the {x} on the {y} and then sold it.",
        f"{b} phoned {a} while he was cooking, and his soup boiled over.",
        f"The {x} scratched the {y}, for its edge was sharp, and now it looks ugly.",
        f"{a} saw {b} with her {x} when she came out of the shop.",
    )
    ask = (
        "{t} Which readings are there, and what does the pronoun mean in each?",
        "What is the likelier antecedent here, and why? {t}",
        "{t} Give two paraphrases, one for each person or thing that could be meant.",
    )
    return ask[(number // 2) % 3].format(t=texts[number % 4])


def _short_answers(rng: Random, number: int, tokens: int) -> str:
    a, b = rng.sample(_WHO, 2)
    x, y = rng.sample(_WHAT, 2)
    text = f"{a} keeps the {x} in {rng.choice(_WHERE)}; {b}, who is her nephew, repairs the {y} there on Sundays."
    ask = (
        "{t} Complete from this: The nephew's name is ..., his aunt's name is ..., he repairs ...",
        "Retrieve from the sentence who does what where: {t}",
        "{t} True or false, with the words that show it: she repairs something; he is her son.",
    )
    return ask[number % 3].format(t=text)


def _role_swap(rng: Random, number: int, tokens: int) -> str:
    a, b, c = rng.sample(_WHO, 3)
    x = rng.choice(_WHAT)
    text = (
        f"{a} taught {b} to mend a {x}. Years later the pupil hired the teacher, and {c}, who had laughed at both, "
        "had to ask them for work. They gave him some, but she did not pay him well."
    )
    ask = (
        "{t} Say who 'the pupil', 'the teacher', 'they', 'she' and 'him' are.",
        "Retell it from the view of the last person mentioned, with names only: {t}",
        "{t} Link each expression to the name it continues.",
    )
    return ask[number % 3].format(t=text)


def _file_tree(rng: Random, number: int, tokens: int) -> str:
    x, y, z = rng.sample(_WHAT, 3)
    ask = (
        f"Draw a directory tree with |-- and indentation: {x}/, {y}/ and {z}/, four files in each.",
        f"Show nested bullets, two spaces deeper a level: {x}, {y}, {z}; three levels, five entries each.",
        f"Write pseudo-code with loops inside loops, indented evenly, that counts every {x} in every {y}.",
    )
    return ask[number % 3]


def _sequences(rng: Random, number: int, tokens: int) -> str:
    k = rng.randint(2, 12)
    ask = (
        f"Begin with {k} and double it each time: twelve lines, each with its number in front.",
        f"List all odd numbers from {2 * k + 1} to {2 * k + 71}.",
        f"Count backwards by {k} from {k * 30}.",
        f"Write the first twenty Fibonacci-like terms that begin with {k}, {k + 1}, comma after each.",
    )
    return ask[number % 4]


def _grids(rng: Random, number: int, tokens: int) -> str:
    x, y, z = rng.sample(_WHAT, 3)
    ask = (
        f"A table, please, that compares {x}, {y} and {z} by price, weight, colour and age. Markdown "
        "and nothing around it.",
        f"Print a seating plan of six rows with eight seats each, row A: A1 A2 A3 and so on. Mark {rng.randint(2, 9)}.",
        f"Score sheet: | round | {x} | {y} | for rounds 1 to 14, with a made-up score in each cell.",
    )
    return ask[number % 3]


def _refrains(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_WHAT, 2)
    k = rng.randint(6, 14)
    ask = (
        f"Sing: {k} {x}s on the wall, {k} {x}s. Take one down, {k - 1} {x}s on the wall. All verses, please.",
        f"A stock list of sixteen entries in this format: 001 {x} ok / 002 {y} ok /",
        "Write the hours of a day in both notations: 00:00 = 12 am, 01:00 = 1 am, 02:00 = 2 am,",
        f"Alternate {x} and {y}, numbered, until number 36.",
    )
    return ask[number % 4]


def _conversation(rng: Random, number: int, tokens: int) -> str:
    text, question = styled_document(rng, tokens=max(tokens - 70, 90), style=number + 4)
    lines = [line for line in text.replace("\n\n", " ").split(". ") if line.strip()]
    turns = "\n".join(f"{'User' if k % 2 == 0 else 'Assistant'}: {line.strip()}" for k, line in enumerate(lines))
    ask = (
        "{d}\nUser: To come back to what was said far above: {q}",
        "Earlier in our chat:\n{d}\n\nNow, {q}",
        "Transcript of a support call\n{d}\n\nAn auditor asks: {q}",
    )
    return ask[number % 3].format(d=turns, q=question)


def _archive(rng: Random, number: int, tokens: int) -> str:
    count = max((tokens - 40) // 15, 6)
    days = [
        f"{1 + k} May: {rng.choice(_WHO)} brought a {rng.choice(_WHAT)} from {rng.choice(_WHERE)}, "
        f"number {rng.randint(100, 999)}."
        for k in range(count)
    ]
    day = rng.randint(1, max(count // 3, 2))
    ask = (
        "Diary of the lost property office.\n{d}\n\nWhat was brought on {n} May, by whom, and with which number?",
        "{d}\n\nReport everything that this journal says about {n} May.",
        "Please consult the entries.\n{d}\n\nThe entry of {n} May is wanted, together with the place of origin.",
    )
    return ask[number % 3].format(d="\n".join(days), n=day)


def _two_texts(rng: Random, number: int, tokens: int) -> str:
    first, question = styled_document(rng, tokens=max(tokens // 2 - 30, 70), style=number)
    second, _ = styled_document(rng, tokens=max(tokens // 2 - 30, 70), style=number + 7)
    ask = (
        "Text A:\n{a}\n\nText B:\n{b}\n\nOnly one of the two can tell: {q}",
        "Chapter one. {a}\n\nChapter two. {b}\n\nFrom chapter one: {q}",
        "{a}\n\n{b}\n\nWhat do the pages before say to this? {q}",
    )
    return ask[number % 3].format(a=first, b=second, q=question)


def _ideas(rng: Random, number: int, tokens: int) -> str:
    x, y = rng.sample(_WHAT, 2)
    ask = (
        f"What else could a {x} be good for? Let your mind run.",
        f"Compare love to a {y}, at length.",
        "What will we never find out?",
        f"Plan a party for a hundred ghosts in {rng.choice(_WHERE)}.",
    )
    return ask[number % 4]


def _voices(rng: Random, number: int, tokens: int) -> str:
    x, who = rng.choice(_WHAT), rng.choice(_WHO)
    ask = (
        f"Be an old {x} and grumble about the young.",
        f"Interview a river that has changed its course near {rng.choice(_WHERE)}.",
        f"Let {who} dream, and tell the dream without explaining it.",
        "Write the letter that nobody dared to send.",
    )
    return ask[number % 4]


def _whatever(rng: Random, number: int, tokens: int) -> str:
    x, place = rng.choice(_WHAT), rng.choice(_WHERE)
    ask = (
        "Say something that nobody expects.",
        f"How does it feel to arrive in {place} at night?",
        f"A myth, new and strange, about why the {x} has no shadow.",
        "What is beautiful about mistakes?",
    )
    return ask[number % 4]


FURTHER_FAMILIES = (
    Family(name="commented_json", zone="syntax_floor", make=_commented),
    Family(name="line_json", zone="syntax_floor", make=_line_json),
    Family(name="parentheses", zone="syntax_floor", make=_lisp),
    Family(name="attributes", zone="syntax_floor", make=_attributes),
    Family(name="descriptions", zone="semantic_bridge", make=_short_news),
    Family(name="ambiguous", zone="semantic_bridge", make=_ambiguous),
    Family(name="short_answers", zone="semantic_bridge", make=_short_answers),
    Family(name="roles", zone="semantic_bridge", make=_role_swap),
    Family(name="trees", zone="structure_ripple", make=_file_tree),
    Family(name="sequences", zone="structure_ripple", make=_sequences),
    Family(name="grids", zone="structure_ripple", make=_grids),
    Family(name="refrains", zone="structure_ripple", make=_refrains),
    Family(name="conversation", zone="long_range", make=_conversation, fills=True),
    Family(name="journal", zone="long_range", make=_archive, fills=True),
    Family(name="two_texts", zone="long_range", make=_two_texts, fills=True),
    Family(name="ideas", zone="diffuse", make=_ideas),
    Family(name="voices", zone="diffuse", make=_voices),
    Family(name="anything", zone="diffuse", make=_whatever),
)
