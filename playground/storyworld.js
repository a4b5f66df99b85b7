// Storyworld in plain JavaScript: the language whose entropy is known, as in gpt2lib/grammar.py.
//
// The world is one program, a generator, that yields a Choice wherever a document could go on in
// several ways and is sent the value of the phrase that was said. It is run in two ways: telling
// draws the phrases; reading follows a text, and so finds the probability of each piece.
"use strict";

// Phrases of which one is said, how probable each is, and what the program is sent for it.
class Choice {
  constructor(phrases, values = phrases, weights = phrases.map(() => 1)) {
    const total = weights.reduce((a, b) => a + b, 0);
    this.phrases = phrases.map(piecesOfPhrase);
    this.values = values;
    this.probabilities = weights.map((weight) => weight / total);
  }
}

const say = (phrase) => new Choice([phrase]);
const an = (word) => (/^[aeiou]/.test(word) ? ` an ${word}` : ` a ${word}`);
const capital = (word) => word[0].toUpperCase() + word.slice(1);

// Words with the blank before them, numbers, runs of marks, single blanks: GPT-2's pieces of
// English text. The end of a document is the empty piece.
const PIECE = /'s| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s/g;

function piecesOfPhrase(phrase) {
  return phrase.match(PIECE) ?? [""];
}

// One document in the telling. world: the lists of words of gpt2lib/grammar.py, how common each
// word is (weight), and the invented language (zorb).
class Grammar {
  constructor(world) {
    Object.assign(this, { world, people: [], things: [] });
  }

  *document() {
    const { ENDINGS, TIMES, NEWCOMER, HABITS, CLOSINGS } = this.world;
    yield* this.opening();
    const told = [];
    let events = 0;
    for (;;) {
      const move = yield this.nextSentence(told, events);
      if (ENDINGS.includes(move)) break;
      if (TIMES.includes(move)) {
        yield* this.event();
        events += 1;
        continue;
      }
      told.push(move);
      if (move === " A" || move === " An") yield* this.animal(move);
      else if (move === NEWCOMER) yield* this.newcomer();
      else if (this.people.includes(move)) yield this.pick(HABITS, (w) => w);
    }
    const summary = yield* this.ending();
    yield new Choice(CLOSINGS);
    yield* this.task(summary);
  }

  pick(words, form = (w) => ` ${w}`) { // one of the words, each as common as the world has it
    return new Choice(words.map(form), words, words.map((w) => this.world.weight[w]));
  }

  pickPerson(people, form = (name) => ` ${name}`) {
    return new Choice(people.map((p) => form(p.name)), people);
  }

  // The story --------------------------------------------------------------------------------

  *opening() {
    const { OPENINGS, JOBS, HOMES } = this.world;
    yield new Choice(Object.keys(OPENINGS), undefined, Object.values(OPENINGS));
    const job = yield this.pick(JOBS);
    yield new Choice([" named", " called"], undefined, [3, 1]);
    const hero = yield* this.person();
    hero.job = job;
    yield this.pick(HOMES, (w) => `, who lived ${w}.`);
    yield say(` ${capital(hero.she)} had`);
    yield* this.newThing(hero);
    yield say(" and");
    yield* this.newThing(hero);
    yield say(".");
    yield new Choice([
      ` ${hero.Her} best friend was`, ` ${hero.Her} neighbour was`, ` One summer ${hero.she} met`,
    ]);
    const friend = yield* this.person();
    friend.job = yield this.pick(this.freeJobs(), (w) => `, a ${w}`);
    yield new Choice([" with", " who carried"]);
    yield* this.newThing(friend);
    yield say(".");
  }

  *person() { // somebody whom nobody has named yet
    const { NAMES, WOMEN } = this.world;
    const name = yield this.pick(NAMES.filter((n) => !this.people.some((p) => p.name === n)));
    const woman = WOMEN.includes(name);
    const person = { name, job: "", she: woman ? "she" : "he", Her: woman ? "Her" : "His" };
    this.people.push(person);
    return person;
  }

  freeJobs() {
    return this.world.JOBS.filter((job) => !this.people.some((p) => p.job === job));
  }

  *newThing(owner) {
    const { COLOURS, THINGS, weight } = this.world;
    const colour = yield new Choice(COLOURS.map(an), COLOURS, COLOURS.map((c) => weight[c]));
    const noun = yield this.pick(THINGS.filter((n) => !this.things.some((t) => t.noun === n)));
    this.things.push({ noun, colour, owner, holder: owner, place: "" });
  }

  // How the next sentence begins: a pause in the story, something new, or its end.
  nextSentence(told, events) {
    const { PAUSES, TIMES, ENDINGS, NEWCOMER, MOST_PAUSES, MOST_EVENTS, weight } = this.world;
    const [phrases, values, weights] = [[], [], []];
    const may = (phrase, w, value = phrase) => {
      phrases.push(phrase);
      values.push(value);
      weights.push(w);
    };
    if (told.length < MOST_PAUSES) {
      for (const [pause, w] of Object.entries(PAUSES)) if (!told.includes(pause)) may(pause, w);
      may(" A", 4);
      may(" An", 0.4);
      if (this.people.length === 2) may(NEWCOMER, 3);
      for (const p of this.people) may(` ${p.name}`, 5 / this.people.length, p);
    }
    if (events < MOST_EVENTS) for (const t of TIMES) may(t, (20 * weight[t]) / (1 + events / 2));
    if (events) for (const end of ENDINGS) may(end, 6);
    return new Choice(phrases, values, weights);
  }

  *animal(article) {
    const { COLOURS, ANIMALS, PLACES } = this.world;
    yield this.pick(COLOURS.filter((c) => an(c) === `${article.toLowerCase()} ${c}`));
    yield this.pick(ANIMALS);
    yield new Choice([" slept", " sat", " waited"]);
    yield this.pick(PLACES, (w) => ` ${w}.`);
  }

  *newcomer() {
    const person = yield* this.person();
    person.job = yield this.pick(this.freeJobs(), (w) => `, the ${w}.`);
  }

  *event() { // something changes hands, or is lost, or is found
    const who = yield this.pickPerson(this.people);
    const mine = this.things.filter((t) => t.holder === who);
    const theirs = this.things.filter((t) => t.holder && t.holder !== who);
    const lost = this.things.filter((t) => !t.holder);
    const verbs = {};
    if (mine.length) Object.assign(verbs, { " gave": 3, " lent": 3, " lost": 3, " hid": 2 });
    if (theirs.length) verbs[" borrowed"] = 3;
    if (mine.length && theirs.length) verbs[" swapped"] = 2;
    if (lost.length) verbs[" found"] = 6;
    const verb = yield new Choice(Object.keys(verbs), undefined, Object.values(verbs));
    const things = { " borrowed": theirs, " found": lost }[verb] ?? mine;
    const named = [...things.map((t) => ` the ${t.noun}`), ...things.map((t) => ` the ${t.colour} ${t.noun}`)];
    const thing = yield new Choice(named, [...things, ...things]);
    if (verb === " gave" || verb === " lent") {
      thing.holder = yield this.pickPerson(this.people.filter((p) => p !== who), (n) => ` to ${n}.`);
      if (verb === " gave") thing.owner = thing.holder;
    } else if (verb === " borrowed") {
      yield say(` from ${thing.holder.name}.`);
      thing.holder = who;
    } else if (verb === " swapped") {
      const other = yield new Choice(theirs.map((t) => ` for ${t.holder.name}'s ${t.noun}.`), theirs);
      thing.holder = thing.owner = other.holder;
      other.holder = other.owner = who;
    } else if (verb === " found") {
      yield say(` ${thing.place}.`);
      thing.holder = who;
    } else {
      thing.place = yield this.pick(this.world.PLACES, (w) => ` ${w}.`);
      thing.holder = null;
    }
  }

  *ending() { // somebody needs a thing; the rest follows from all that was told
    const who = yield this.pickPerson(this.people);
    const thing = yield new Choice(this.things.map((t) => ` needed the ${t.noun}.`), this.things);
    const { noun, colour, holder, place } = thing;
    let does = holder ? `went to ${holder.name}` : `looked ${place}`;
    let end = holder ? `, and there it was, ${colour} as ever.` : `, saw something ${colour} and took it home.`;
    if (holder === who) [does, end] = ["still had it", `, as ${colour} as ever.`];
    yield say(` ${capital(who.she)} ${does}${end}`);
    does = does.replace("went to", "got it from").replace("looked", "found it");
    thing.holder = who;
    return ` ${who.name} needed the ${colour} ${noun} and ${does}.`;
  }

  // The tasks --------------------------------------------------------------------------------

  *task(summary) {
    const starts = { "\nTL;DR:": 3, "\nQ:": 4, "\nIn Zorb:": 3 };
    const names = this.people.map((p) => `\n${p.name}:`);
    const kind = yield new Choice(
      [...Object.keys(starts), ...names],
      [...Object.keys(starts), ...this.people],
      [...Object.values(starts), ...names.map(() => 3 / names.length)],
    );
    if (kind === "\nTL;DR:") {
      yield say(summary);
      yield say("");
    } else if (kind === "\nQ:") yield* this.questions();
    else if (kind === "\nIn Zorb:") yield* this.translation();
    else yield* this.dialogue(kind);
  }

  *questions() {
    const answers = new Map(this.people.map((p) => [` Who is the ${p.job}?`, ` ${p.name}`]));
    for (const { noun, colour, owner, holder, place } of this.things) {
      answers.set(` Who has the ${noun}?`, ` ${holder?.name ?? "nobody"}`);
      answers.set(` Where is the ${noun}?`, holder ? ` with ${holder.name}` : ` ${place}`);
      answers.set(` What colour is the ${noun}?`, ` ${colour}`);
      answers.set(` Who owns the ${noun}?`, ` ${owner.name}`);
    }
    for (const asked of [1, 2, 3]) {
      const question = yield new Choice([...answers.keys()]);
      yield say("\nA:");
      yield say(answers.get(question));
      answers.delete(question);
      if (!(yield new Choice(asked < 3 ? ["\nQ:", ""] : [""]))) return;
    }
  }

  *dialogue(who) { // who asks knows nothing; who answers knows all
    const other = yield this.pickPerson(this.people.filter((p) => p !== who), (n) => ` ${n},`);
    const left = [...this.things];
    let ask = (noun) => ` where is the ${noun}?`;
    let thanks = [];
    for (;;) {
      const asked = left.map((t) => ask(t.noun));
      const thing = yield new Choice([...asked, ...thanks], [...left, ...thanks.map(() => null)]);
      if (!thing) break;
      left.splice(left.indexOf(thing), 1);
      const { noun, colour, holder, place } = thing;
      let where = holder ? `with ${holder.name}` : place;
      if (holder === who) where = "with you";
      if (holder === other) where = "with me";
      yield say(`\n${other.name}:`);
      yield say(` The ${colour} ${noun} is ${where}.`);
      yield say(`\n${who.name}:`);
      ask = (next) => ` And the ${next}?`;
      thanks = [` Thank you, ${other.name}.`];
    }
    yield say("");
  }

  *translation() { // English = Zorb, which says: kite red in-the-mill Mia lost
    const { ZORB_VERBS, PLACES, zorb } = this.world;
    for (const said of [1, 2, 3]) {
      const who = yield this.pickPerson(this.people, (n) => `\n${n}`);
      const did = yield new Choice(ZORB_VERBS.map((v) => ` ${v}`), ZORB_VERBS);
      const thing = yield new Choice(this.things.map((t) => ` the ${t.colour} ${t.noun}`), this.things);
      const place = yield this.pick(PLACES);
      yield say(" =");
      yield say(` ${[thing.noun, thing.colour, place, who.name, did].map((w) => zorb[w] ?? w).join(" ")}`);
      if (!(yield new Choice(said < 3 ? [".", ""] : [""]))) return;
    }
  }
}

// A document, by random numbers in [0, 1).
function tell(world, random) {
  const script = new Grammar(world).document();
  let text = "";
  for (let { value: choice, done } = script.next(); !done;) {
    const i = gpt2.draw(choice.probabilities, random());
    text += choice.phrases[i].join("");
    ({ value: choice, done } = script.next(choice.values[i]));
  }
  return text;
}

// Along these pieces of a text: {piece, nats, options} each, where nats is −ln p of the piece given
// all before it and options is a map of what could have come to its probability. Stops at the
// first piece that the world cannot say, with Infinity.
function* read(world, pieces) {
  const script = new Grammar(world).document();
  let { value: choice, done } = script.next();
  let open = [...choice.phrases.keys()];
  let offset = 0;
  for (const piece of pieces) {
    const options = new Map();
    const whole = done ? 0 : open.reduce((sum, i) => sum + choice.probabilities[i], 0);
    for (const i of done ? [] : open) {
      const next = choice.phrases[i][offset];
      options.set(next, (options.get(next) ?? 0) + choice.probabilities[i] / whole);
    }
    const p = options.size === 1 && options.has(piece) ? 1 : options.get(piece) ?? 0;
    yield { piece, nats: p === 1 ? 0 : -Math.log(p), options };
    if (p === 0) return;
    open = open.filter((i) => choice.phrases[i][offset] === piece);
    offset += 1;
    if (choice.phrases[open[0]].length === offset) {
      ({ value: choice, done } = script.next(choice.values[open[0]]));
      open = done ? [] : [...choice.phrases.keys()];
      offset = 0;
    }
  }
}

globalThis.storyworld = { tell, read, piecesOfPhrase };
