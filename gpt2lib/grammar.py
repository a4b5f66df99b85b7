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
NEWCOMER = " On the road they met"
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
RANKED = (NAMES, JOBS, THINGS, COLOURS, ANIMALS, HOMES, PLACES, TIMES, HABITS)
MOST_EVENTS, MOST_PAUSES = 4, 5  # so that every document ends


class Choice:
    """Phrases of which the world says one, and how probable each is.

    options: phrases, or {phrase: weight}. values: what the program is sent for each phrase;
    the phrase itself where not given. A phrase may mark the word before [ ] with a fact that
    it tells, as in " Hugo[holder kite]": a reader can then see how long ago a fact was told.
    [now holder kite] marks a fact that changes here, so that nothing told before determines it.
    task: the kind of task whose answer this phrase is.
    """

    def __init__(self, options: Iterable[str], values: Iterable | None = None, task: str = ""):
        weights = options if isinstance(options, dict) else dict.fromkeys(options, 1)
        total = fsum(weights.values())
        self.phrases = tuple(weights)
        self.probabilities = tuple(w / total for w in weights.values())
        self.values = self.phrases if values is None else tuple(values)
        self.task = task

    def entropy(self) -> float:
        """−Σ p ln p, in nats."""
        return -fsum(p * log(p) for p in self.probabilities)


Script = Generator[Choice, object, object]


def say(phrase: str, task: str = "") -> Choice:
    """A Choice of one: the world leaves nothing open here."""
    return Choice((phrase,), task=task)


def an(word: str) -> str:
    """The word with its article: " an orange", " a red"."""
    return f" an {word}" if word[0] in "aeiou" else f" a {word}"


@dataclass(eq=False)
class Person:
    """Somebody in a story."""

    name: str
    job: str = ""

    @property
    def she(self) -> str:
        return "she" if self.name in WOMEN else "he"

    @property
    def Her(self) -> str:
        return "Her" if self.name in WOMEN else "His"


@dataclass(eq=False)
class Thing:
    """Something in a story: whose it is, and who has it, or else where it lies."""

    noun: str
    colour: str
    owner: Person
    holder: Person | None
    place: str = ""

    def hand(self, to: Person, for_good: bool = False) -> None:
        """Somebody has it now; for good, it is theirs."""
        self.holder = to
        self.owner = to if for_good else self.owner


@dataclass
class Grammar:
    """One document in the telling. weight: how common each word is; zorb: English word → Zorb."""

    weight: dict[str, float]
    zorb: dict[str, str]
    people: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)

    def document(self) -> Script:
        """A story, then one of the tasks about it."""
        yield from self.opening()
        told, events = [], 0
        while (move := (yield self.next_sentence(told, events))) not in ENDINGS:
            if move in TIMES:
                yield from self.event()
                events += 1
                continue
            told.append(move)
            if move in (" A", " An"):
                yield from self.animal(move)
            elif move == NEWCOMER:
                yield from self.newcomer()
            elif isinstance(move, Person):
                yield self.pick(HABITS, "{}")
        summary = yield from self.ending()
        yield Choice(CLOSINGS)
        yield from self.task(summary)

    def pick(self, words: Iterable[str], form: str = " {0}", values=None) -> Choice:
        """One of the words, each as common as the world has it."""
        words = tuple(words)
        return Choice({form.format(w): self.weight[w] for w in words}, values or words)

    def pick_person(self, people: Iterable[Person], form: str = " {0}") -> Choice:
        """One of the people, each as probable as the next."""
        return Choice([form.format(p.name) for p in people], people)

    # ------------------------------------------------------------ the story

    def opening(self) -> Script:
        """Somebody with two things, and a friend with a third."""
        yield Choice(OPENINGS)
        job = yield self.pick(JOBS)
        yield Choice({" named": 3, " called": 1})
        hero = yield from self.person()
        hero.job = job
        yield self.pick(HOMES, ", who lived {0}.")
        yield say(f" {hero.she.capitalize()} had")
        yield from self.new_thing(hero)
        yield say(" and")
        yield from self.new_thing(hero)
        yield say(".")
        meeting = f" One summer {hero.she} met"
        yield Choice((f" {hero.Her} best friend was", f" {hero.Her} neighbour was", meeting))
        friend = yield from self.person()
        friend.job = yield self.pick(self.free_jobs(), ", a {0}")
        yield Choice((" with", " who carried"))
        yield from self.new_thing(friend)
        yield say(".")

    def person(self) -> Script:
        """Somebody whom nobody has named yet, by name."""
        known = [p.name for p in self.people]
        name = yield self.pick([n for n in NAMES if n not in known], " {0}[job {0}]")
        self.people.append(Person(name))
        return self.people[-1]

    def free_jobs(self) -> list[str]:
        return [j for j in JOBS if j not in [p.job for p in self.people]]

    def new_thing(self, owner: Person) -> Script:
        """Somebody has something: " an orange kite"."""
        colour = yield Choice({an(c): self.weight[c] for c in COLOURS}, COLOURS)
        nouns = [n for n in THINGS if n not in [t.noun for t in self.things]]
        facts = "[thing {0}][colour {0}][holder {0}][owner {0}]"
        noun = yield self.pick(nouns, " {0}" + facts)
        self.things.append(Thing(noun, colour, owner, owner))

    def next_sentence(self, told: list, events: int) -> Choice:
        """How the next sentence begins: a pause in the story, something new, or its end."""
        options, values = {}, []
        if len(told) < MOST_PAUSES:
            options |= {p: w for p, w in PAUSES.items() if p not in told}
            options |= {" A": 4, " An": 0.4}
            options |= {NEWCOMER: 3} if len(self.people) == 2 else {}
            values = [*options, *self.people]
            options |= {f" {p.name}": 5 / len(self.people) for p in self.people}
        then = {}
        if events < MOST_EVENTS:
            then |= {t: 20 * self.weight[t] / (1 + events / 2) for t in TIMES}
        if events:
            then |= dict.fromkeys(ENDINGS, 6)
        return Choice(options | then, [*values, *then])

    def animal(self, article: str) -> Script:
        """A passer-by with a colour and a place, to be told apart from those that matter."""
        yield self.pick(c for c in COLOURS if an(c).startswith(f"{article.lower()} "))
        yield self.pick(ANIMALS)
        yield Choice((" slept", " sat", " waited"))
        yield self.pick(PLACES, " {0}.")

    def newcomer(self) -> Script:
        """Somebody who joins the story, with a job that nobody else has."""
        person = yield from self.person()
        person.job = yield self.pick(self.free_jobs(), ", the {0}.")

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
        verb = yield Choice(verbs)
        things = {" borrowed": theirs, " found": lost}.get(verb, mine)
        short = [f" the {t.noun}[thing {t.noun}]" for t in things]
        full = [f" the {t.colour}[colour {t.noun}] {t.noun}[thing {t.noun}]" for t in things]
        thing = yield Choice(short + full, things * 2)
        n = thing.noun
        if verb in (" gave", " lent"):
            owner = f"[now owner {n}]" if verb == " gave" else ""
            others = [p for p in self.people if p is not who]
            to = yield self.pick_person(others, f" to {{0}}[now holder {n}]{owner}.")
            thing.hand(to, for_good=verb == " gave")
        elif verb == " borrowed":
            yield say(f" from {thing.holder.name}[holder {n}].")
            thing.hand(who)
        elif verb == " swapped":
            marks = "[now holder {0}][now owner {0}]".format
            other = yield Choice(
                [f" for {t.holder.name}{marks(n)}'s {t.noun}{marks(t.noun)}." for t in theirs],
                theirs,
            )
            thing.hand(other.holder, for_good=True)
            other.hand(who, for_good=True)
        elif verb == " found":
            yield say(f" {thing.place}[place {n}].")
            thing.hand(who)
        else:
            thing.place = yield self.pick(PLACES, f" {{0}}[place {n}][holder {n}].")
            thing.holder = None

    def ending(self) -> Script:
        """Somebody needs a thing; how that ends follows from all that was told. The summary."""
        who = yield self.pick_person(self.people, " {0}[who needed]")
        nouns = [f" needed the {t.noun}[what needed]." for t in self.things]
        thing = yield Choice(nouns, self.things)
        n, colour = thing.noun, f"{thing.colour}[colour {thing.noun}]"
        if thing.holder is who:
            does, end = "still had it", f", as {colour} as ever."
        elif thing.holder:
            name = f"{thing.holder.name}[holder {n}]"
            does, end = f"went to {name}", f", and there it was, {colour} as ever."
        else:
            does = f"looked {thing.place}[place {n}]"
            end = f", saw something {colour} and took it home."
        yield say(f" {who.she.capitalize()} {does}{end}")
        does = does.replace("went to", "got it from").replace("looked", "found it")
        thing.hand(who)
        return f" {who.name}[who needed] needed the {colour} {n}[what needed] and {does}."

    # ------------------------------------------------------------ the tasks

    def task(self, summary: str) -> Script:
        """A summary, questions with answers, a dialogue, or lines in Zorb; then the end."""
        starts = {"\nTL;DR:": 3, "\nQ:": 4, "\nIn Zorb:": 3}
        talk = {f"\n{p.name}:": 3 / len(self.people) for p in self.people}
        kind = yield Choice(starts | talk, [*starts, *self.people])
        if kind == "\nTL;DR:":
            yield say(summary, task="summary")
            yield say("")
        elif kind == "\nQ:":
            yield from self.questions()
        elif kind == "\nIn Zorb:":
            yield from self.translation()
        else:
            yield from self.dialogue(kind)

    def questions(self) -> Script:
        """One to three questions, no question twice."""
        answers = {f" Who is the {p.job}?": f" {p.name}[job {p.name}]" for p in self.people}
        for t in self.things:
            n, name = t.noun, t.holder.name if t.holder else ""
            answers |= {
                f" Who has the {n}?": f" {name or 'nobody'}[holder {n}]",
                f" Where is the {n}?": f" with {name}[holder {n}]"
                if name
                else f" {t.place}[place {n}]",
                f" What colour is the {n}?": f" {t.colour}[colour {n}]",
                f" Who owns the {n}?": f" {t.owner.name}[owner {n}]",
            }
        for asked in (1, 2, 3):
            question = yield Choice(answers.keys())
            yield say("\nA:")
            yield say(answers.pop(question), task="question")
            if not (yield Choice(("\nQ:", "") if asked < 3 else ("",))):
                return

    def dialogue(self, who: Person) -> Script:
        """Who asks knows nothing; who answers knows all, and speaks of "me" and "you"."""
        others = [p for p in self.people if p is not who]
        other = yield self.pick_person(others, " {0},")
        left, ask, thanks = list(self.things), " where is the {0}?", []
        while thing := (yield Choice([ask.format(t.noun) for t in left] + thanks, [*left, None])):
            left.remove(thing)
            n, name = thing.noun, thing.holder.name if thing.holder else ""
            where = {who: "with you", other: "with me", None: f"{thing.place}[place {n}]"}
            where = where.get(thing.holder, f"with {name}[holder {n}]")
            yield say(f"\n{other.name}:")
            yield say(f" The {thing.colour}[colour {n}] {n} is {where}.", task="dialogue")
            yield say(f"\n{who.name}:")
            ask, thanks = " And the {0}?", [f" Thank you, {other.name}."]
        yield say("")

    def translation(self) -> Script:
        """One to three lines of English = Zorb, which says: kite red in-the-mill Mia lost."""
        for said in (1, 2, 3):
            who = yield self.pick_person(self.people, "\n{0}")
            did = yield Choice([f" {v}" for v in ZORB_VERBS], ZORB_VERBS)
            thing = yield Choice([f" the {t.colour} {t.noun}" for t in self.things], self.things)
            place = yield self.pick(PLACES)
            words = [self.zorb.get(w, w) for w in (thing.noun, thing.colour, place, who.name, did)]
            yield say(" =")
            yield say(f" {' '.join(words)}", task="translation")
            if not (yield Choice((".", "") if said < 3 else ("",))):
                return
