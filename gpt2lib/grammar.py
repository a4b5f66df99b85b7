"""The grammar of Storyworld: one program that tells every document the world can tell.

`Grammar.document` is a generator. Wherever the document could go on in several ways it yields
a `Choice`, and is sent the value of the phrase that was said; in between it keeps in ordinary
variables who has what. It neither draws nor reads: storyworld.World does, with the same program.

No phrase of a Choice begins with another's, so a text can be read in one way only.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from math import fsum, log

WOMEN = ("Mia", "Nora", "Ada", "Ivy", "Lena", "Ruth", "Wren", "Olga")
MEN = ("Finn", "Hugo", "Otto", "Sam", "Leo", "Ned", "Tom", "Karl")
NAMES = (*WOMEN, *MEN)
JOBS = tuple("baker painter sailor teacher farmer weaver gardener potter miller doctor".split())
THINGS = tuple("kite lamp basket book drum key hat clock bell ring coat mirror".split())
COLOURS = tuple("red blue green yellow white black grey orange purple brown".split())
ANIMALS = tuple("cat bird horse goat fox hare".split())
HOMES = ("by the river", "near the harbour", "on the hill", "behind the church", "beside the lake")
PLACES = (
    *("in the forest", "on the bridge", "in the mill", "at the market", "in the tower"),
    *("by the well", "in the meadow", "under the oak", "on the beach", "in the cave"),
)
OPENINGS = {"Once there was a": 4, "Long ago there was a": 2, "This is the story of a": 1}
TIMES = (" Then", " The next day", " One morning", " Later", " In the evening", " After lunch")
ENDINGS = (" At last", " In the end")
PAUSES = {
    **{" It rained all night.": 3, " The wind was cold.": 3, " Nobody said a word.": 2},
    **{" Far away a bell rang.": 2, " The children were singing.": 2, " Everyone laughed.": 2},
    **{" Snow lay on the roofs.": 1, " The road was long.": 1, " The soup was still hot.": 1},
    **{" Somebody played the fiddle.": 1, " The bread smelled good.": 1},
}
HABITS = (
    *(" sang a song about the sea.", " was tired.", " looked at the sky."),
    *(" drank a cup of tea.", " told an old joke.", " waited for the rain to stop."),
)
CLOSINGS = (
    *(" Everyone was glad.", " That night they all slept well.", " It was a good day."),
    *(" They talked until the moon rose.", " And so the story ends."),
)
ZORB_VERBS = ("lost", "hid", "found", "saw", "sold", "painted")
RANKED = (WOMEN + MEN, JOBS, THINGS, COLOURS, ANIMALS, HOMES, PLACES, TIMES, HABITS)
MOST_EVENTS, MOST_PAUSES = 4, 5  # so that every document ends


class Choice:
    """Phrases of which the world says one: how probable each is, and what each means.

    values: what the program is sent for each phrase, the phrase itself where not given.
    mentions: for each phrase {offset of a piece: facts that it tells}, so that a reader can
    see how long ago a fact was told. task: the kind of task whose answer this phrase is part of.
    """

    def __init__(self, phrases: Iterable[str], weights=None, values=None, mentions=None, task=None):
        self.phrases = tuple(phrases)
        weights = tuple(weights) if weights is not None else (1,) * len(self.phrases)
        total = fsum(weights)
        self.probabilities = tuple(w / total for w in weights)
        self.values = self.phrases if values is None else tuple(values)
        self.mentions = mentions or ({},) * len(self.phrases)
        self.task = task

    def entropy(self) -> float:
        """−Σ p ln p, in nats."""
        return -fsum(p * log(p) for p in self.probabilities)


def say(phrase: str, mentions: dict | None = None, task: str | None = None) -> Choice:
    """A Choice of one: the world leaves nothing open here."""
    return Choice((phrase,), mentions=(mentions or {},), task=task)


def an(word: str) -> str:
    """The word with its article: " an orange", " a red"."""
    return f" an {word}" if word[0] in "aeiou" else f" a {word}"


Script = Generator[Choice, object, object]


@dataclass(eq=False)
class Person:
    """Somebody in a story."""

    name: str
    job: str

    @property
    def she(self) -> str:
        return "she" if self.name in WOMEN else "he"

    @property
    def her(self) -> str:
        return "her" if self.name in WOMEN else "his"


@dataclass(eq=False)
class Thing:
    """Something in a story: whose it is, and who has it, or else where it lies."""

    noun: str
    colour: str
    owner: Person
    holder: Person | None
    place: str = ""

    def full(self, article: str = " the") -> str:
        return f"{article} {self.colour} {self.noun}"

    def facts(self) -> dict:
        """What the pieces of full() tell."""
        return {1: (("colour", self.noun),), 2: (("thing", self.noun),)}


@dataclass
class Grammar:
    """One document in the telling. weight: how common each word is; zorb: English word → Zorb."""

    weight: dict[str, float]
    zorb: dict[str, str]
    people: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    home: str = ""

    def document(self) -> Script:
        """A story, then one of the tasks about it."""
        yield from self.opening()
        told, events, ending = [], 0, None
        while ending is None:
            move = yield self.next_sentence(told, events)
            if move in (" A", " An"):
                yield from self.animal(move)
            elif isinstance(move, Person):
                yield self.pick(HABITS)
            elif move == " On the road they met":
                yield from self.newcomer()
            elif move in TIMES:
                yield from self.event()
                events += 1
                continue
            elif move in ENDINGS:
                ending = yield from self.ending()
                continue
            told.append(move)
        yield Choice(CLOSINGS)
        yield from self.task(*ending)

    # ------------------------------------------------------------ choices

    def pick(self, words: Iterable[str], form: str = " {}", values=None, **kwargs) -> Choice:
        """One of the words, each as common as the world has it."""
        words = tuple(words)
        phrases = [w if w[0] == " " else form.format(w) for w in words]
        return Choice(phrases, [self.weight[w] for w in words], values or words, **kwargs)

    def pick_person(self, people: list[Person], form: str = " {}", **kwargs) -> Choice:
        """One of the people, each as probable as the next."""
        return Choice([form.format(p.name) for p in people], values=people, **kwargs)

    def pick_thing(self, things: list[Thing]) -> Choice:
        """One of the things, as "the kite" or, as often, "the red kite"."""
        short = [f" the {t.noun}" for t in things]
        facts = [{1: (("thing", t.noun),)} for t in things] + [t.facts() for t in things]
        return Choice(short + [t.full() for t in things], values=things * 2, mentions=facts)

    # ------------------------------------------------------------ the story

    def opening(self) -> Script:
        yield Choice(OPENINGS, OPENINGS.values())
        job = yield self.pick(JOBS)
        yield Choice((" named", " called"), (3, 1))
        hero = yield from self.person(job)
        self.home = yield self.pick(HOMES, ", who lived {}")
        yield say(".")
        yield say(f" {hero.she.capitalize()} had")
        yield from self.new_thing(hero)
        yield say(" and")
        yield from self.new_thing(hero)
        yield say(".")
        Her = hero.her.capitalize()
        yield Choice(
            (f" {Her} best friend was", f" {Her} neighbour was", f" One summer {hero.she} met")
        )
        friend = yield from self.person()
        job = yield self.pick(self.new_jobs(), ", a {}")
        friend.job = job
        yield Choice((" with", " who carried"))
        yield from self.new_thing(friend)
        yield say(".")

    def new_jobs(self) -> list[str]:
        return [j for j in JOBS if j not in [p.job for p in self.people]]

    def person(self, job: str = "") -> Script:
        names = [n for n in NAMES if n not in [p.name for p in self.people]]
        name = yield self.pick(names, mentions=[{0: (("job", n),)} for n in names])
        self.people.append(Person(name, job))
        return self.people[-1]

    def new_thing(self, owner: Person) -> Script:
        """Somebody has something: " an orange kite"."""
        colour = yield Choice(map(an, COLOURS), [self.weight[c] for c in COLOURS], COLOURS)
        nouns = [n for n in THINGS if n not in [t.noun for t in self.things]]
        facts = [{0: (("thing", n), ("colour", n), ("holder", n), ("owner", n))} for n in nouns]
        noun = yield self.pick(nouns, mentions=facts)
        self.things.append(Thing(noun, colour, owner, owner))

    def newcomer(self) -> Script:
        person = yield from self.person()
        person.job = yield self.pick(self.new_jobs(), ", the {}")
        yield say(".")

    def next_sentence(self, told: list, events: int) -> Choice:
        """How the next sentence begins: a pause in the story, something new, or its end."""
        options = {}  # phrase: (weight, value)
        if len(told) < MOST_PAUSES:
            options |= {p: (w, p) for p, w in PAUSES.items() if p not in told}
            options |= {" A": (4, " A"), " An": (0.4, " An")}
            options |= {f" {p.name}": (5 / len(self.people), p) for p in self.people}
            if len(self.people) == 2:
                options[" On the road they met"] = (3, " On the road they met")
        if events < MOST_EVENTS:
            options |= {t: (20 * self.weight[t] / (1 + events / 2), t) for t in TIMES}
        if events:
            options |= {e: (6, e) for e in ENDINGS}
        weights, values = zip(*options.values(), strict=True)
        return Choice(options, weights, values)

    def animal(self, article: str) -> Script:
        """A passer-by with a colour and a place, to be told apart from those that matter."""
        colours = [c for c in COLOURS if an(c).startswith(article.lower() + " ")]
        yield self.pick(colours)
        yield self.pick(ANIMALS)
        yield Choice((" slept", " sat", " waited"))
        yield self.pick(PLACES)
        yield say(".")

    def event(self) -> Script:
        """Something changes hands, or is lost, or is found."""
        who = yield self.pick_person(self.people)
        mine = [t for t in self.things if t.holder is who]
        theirs = [t for t in self.things if t.holder not in (who, None)]
        lost = [t for t in self.things if t.holder is None]
        verbs = {" gave": 3, " lent": 3, " lost": 3, " hid": 2} if mine else {}
        verbs |= {" borrowed": 3} if theirs else {}
        verbs |= {" swapped": 2} if mine and theirs else {}
        verbs |= {" found": 6} if lost else {}
        verb = yield Choice(verbs, verbs.values())
        thing = yield self.pick_thing({" borrowed": theirs, " found": lost}.get(verb, mine))
        if verb in (" gave", " lent"):
            others = [p for p in self.people if p is not who]
            facts = [("holder", thing.noun)] + [("owner", thing.noun)] * (verb == " gave")
            facts = [{1: tuple(facts)} for _ in others]
            thing.holder = yield self.pick_person(others, " to {}", mentions=facts)
            if verb == " gave":
                thing.owner = thing.holder
        elif verb == " borrowed":
            yield say(f" from {thing.holder.name}", {1: (("holder", thing.noun),)})
            thing.holder = who
        elif verb == " swapped":
            yield say(" for")
            facts = [{2: (("holder", t.noun), ("holder", thing.noun))} for t in theirs]
            other = yield Choice(
                [f" {t.holder.name}'s {t.noun}" for t in theirs], values=theirs, mentions=facts
            )
            thing.holder = thing.owner = other.holder
            other.holder = other.owner = who
        elif verb == " found":
            yield say(f" {thing.place}", {2: (("place", thing.noun),)})
            thing.holder = who
        else:
            facts = [{2: (("place", thing.noun), ("holder", thing.noun))} for _ in PLACES]
            thing.place = yield self.pick(PLACES, mentions=facts)
            thing.holder = None
        yield say(".")

    def ending(self) -> Script:
        """Somebody needs a thing again; how that ends follows from all that was told."""
        facts = [{0: (("seeker", ""),)} for _ in self.people]
        who = yield self.pick_person(self.people, mentions=facts)
        yield say(" needed")
        facts = [{1: (("sought", ""),)} for _ in self.things]
        thing = yield Choice(
            [f" the {t.noun}" for t in self.things], values=self.things, mentions=facts
        )
        She, colour = who.she.capitalize(), {2: (("colour", thing.noun),)}
        if thing.holder is who:
            yield say(f". {She} still had it")
            yield say(f", as {thing.colour} as ever.", colour)
            outcome = "still had it"
        elif thing.holder:
            name = thing.holder.name
            yield say(f". {She} went to")
            yield say(f" {name}", {0: (("holder", thing.noun),)})
            yield say(f", and there it was, {thing.colour} as ever.", {6: colour[2]})
            outcome = f"got it from {name}"
        else:
            yield say(f". {She} looked {thing.place}", {5: (("place", thing.noun),)})
            yield say(f", saw something {thing.colour} and took it home.", {3: colour[2]})
            outcome = f"found it {thing.place}"
        thing.holder = who
        return who, thing, outcome

    # ------------------------------------------------------------ the tasks

    def task(self, who: Person, thing: Thing, outcome: str) -> Script:
        """A summary, questions with answers, a dialogue, or lines in Zorb; then the end."""
        starts = {"\nTL;DR:": (3, "summary"), "\nQ:": (4, "questions"), "\nIn Zorb:": (3, "zorb")}
        starts |= {f"\n{p.name}:": (3 / len(self.people), p) for p in self.people}
        weights, values = zip(*starts.values(), strict=True)
        kind = yield Choice(starts, weights, values)
        if kind == "summary":
            facts = {0: (("seeker", ""),), 3: (("colour", thing.noun),), 4: (("sought", ""),)}
            text = f" {who.name} needed{thing.full()} and {outcome}."
            yield say(text, facts, task="summary")
            yield say("")
        elif kind == "questions":
            yield from self.questions()
        elif kind == "zorb":
            yield from self.translation()
        else:
            yield from self.dialogue(kind)

    def questions(self) -> Script:
        for left in (2, 1, 0):
            forms = {}  # question: (weight, answer, facts in the answer)
            for t in self.things:
                n, holder = t.noun, t.holder
                where = f" with {holder.name}" if holder else f" {t.place}"
                at = {1: (("holder", n),)} if holder else {2: (("place", n),)}
                has = f" {holder.name}" if holder else " nobody"
                forms |= {
                    f" Who has the {n}?": (1, has, {0: (("holder", n),)}),
                    f" Where is the {n}?": (1, where, at),
                    f" What colour is the {n}?": (1, f" {t.colour}", {0: (("colour", n),)}),
                    f" Who owns the {n}?": (1, f" {t.owner.name}", {0: (("owner", n),)}),
                }
            for p in self.people:
                fact = {0: (("job", p.name),)}
                forms[f" Who is the {p.job}?"] = (1, f" {p.name}", fact)
            weights, answers, facts = zip(*forms.values(), strict=True)
            answer, fact = yield Choice(forms, weights, zip(answers, facts, strict=True))
            yield say("\nA:")
            yield say(answer, fact, task="question")
            more = (yield Choice(("\nQ:", ""))) if left else (yield say(""))
            if not more:
                return

    def dialogue(self, who: Person) -> Script:
        """Who asks knows nothing; who answers knows all, and speaks of "me" and "you"."""
        other = yield Choice(
            *zip(*[(f" {p.name},", 1, p) for p in self.people if p is not who], strict=True)
        )
        asked, lead = [], " where is the {}?"
        while len(asked) < len(self.things):
            left = [t for t in self.things if t not in asked]
            forms = [lead.format(t.noun) for t in left]
            if asked:
                forms, left = [*forms, f" Thank you, {other.name}."], [*left, None]
            thing = yield Choice(forms, values=left)
            if thing is None:
                yield say("")
                return
            lead = " And the {}?"
            asked.append(thing)
            where = {who: "with you", other: "with me", None: thing.place}.get(
                thing.holder, f"with {thing.holder and thing.holder.name}"
            )
            yield say(f"\n{other.name}:")
            facts = {1: (("colour", thing.noun),)}
            yield say(f"{thing.full(' The')} is {where}.", facts, task="dialogue")
            yield say(f"\n{who.name}:")
        yield say(f" Thank you, {other.name}.")
        yield say("")

    def translation(self) -> Script:
        """Lines of English = Zorb. Zorb says thing, colour, place, who, and last what they did."""
        for left in (2, 1, 0):
            who = yield self.pick_person(self.people, "\n{}")
            verb = yield Choice([f" {v}" for v in ZORB_VERBS], values=ZORB_VERBS)
            thing = yield Choice([t.full() for t in self.things], values=self.things)
            place = yield self.pick(PLACES)
            yield say(" =")
            z = [self.zorb[w] for w in (thing.noun, thing.colour, place)]
            yield say(f" {' '.join(z)} {who.name} {self.zorb[verb]}", task="translation")
            more = (yield Choice((".", ""), (1, 1), (True, False))) if left else (yield say(""))
            if not more:
                return
