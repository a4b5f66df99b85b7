// How surprising each word was, to the model and to the world that told the story.
"use strict";

widgets.surprisal = class extends Widget {
  answer({ text }, model) {
    return this.once(text, () => model.ask("surprisal", { text }));
  }

  picture({ pieces }) {
    const known = pieces.filter(({ world }) => Number.isFinite(world));
    const tokens = known.reduce((n, piece) => n + piece.tokens, 0);
    const mean = (key) => (known.reduce((sum, piece) => sum + piece[key], 0) / tokens).toFixed(2);
    const wrong = pieces.find(({ world }) => world === Infinity);
    const stops = wrong ? `The oracle stops at “${word(wrong.text)}”, which cannot be said here. ` : "";
    this.say(stops + (known.length === 0 ? "" : `${wrong ? "Up to there" : "In all"}, the model ` +
      `needs ${mean("model")} nats a token, the oracle ${mean("world")}.`));
    const words = pieces.map((piece) => element("button", {
      type: "button",
      class: `piece${piece === wrong ? " wrong" : ""}${piece.world === undefined ? " after" : ""}` +
        `${piece.model > ROOM ? " tall" : ""}${piece.world < 0.005 ? " sure" : ""}`,
      style: { "--model": height(piece.model), "--world": height(piece.world ?? 0) },
      "aria-label": `${word(piece.text)}: model ${piece.model.toFixed(2)}, oracle ${nats(piece.world)} nats`,
    }, element("span", { class: "columns" }), word(piece.text)));
    const said = (list) => list.map(({ text, p }) => `“${word(text)}” ${percent(p)}`).join(", ");
    const detail = element("p", { class: "detail", "aria-live": "polite" });
    const tell = (i) => {
      if (i === undefined) return;
      const piece = pieces[i];
      const some = piece.choices > 4 ? ` of ${piece.choices} that are possible` : "";
      const oracle = piece.worldSays.length ? ` The oracle: ${said(piece.worldSays)}${some}.` : "";
      detail.textContent = `“${word(piece.text)}”: model ${piece.model.toFixed(2)} nats, oracle ` +
        `${nats(piece.world)}. The model held likely: ${said(piece.modelSays)}.${oracle}`;
    };
    return [rowOf(words, undefined, tell), detail];
  }

  async story() {
    const model = await this.model();
    this.seed = (this.seed ?? 0) + 1;
    this.form.elements.text.value = (await model.ask("story", { seed: this.seed })).text;
    await this.refresh();
  }
};

const ROOM = 5; // nats, of a column; what is higher is marked
const nats = (value) => (value === undefined ? "unknown" : value === Infinity ? "∞" : value.toFixed(2));
const height = (value) => (Math.min(value, ROOM) / ROOM).toFixed(4);
