// How surprising each word was, to the model and to the world that told the story.
"use strict";

widgets.surprisal = class extends Widget {
  answer({ text }, model) {
    return model.ask("surprisal", { text });
  }

  picture({ pieces }) {
    const known = pieces.filter(({ world }) => Number.isFinite(world));
    const sum = (key) => known.reduce((total, piece) => total + piece[key], 0);
    const tokens = known.reduce((n, piece) => n + piece.tokens, 0);
    const wrong = pieces.find(({ world }) => world === Infinity);
    const mean = (nats) => (nats / tokens).toFixed(2);
    const all = known.length === 0 ? "" : wrong ? "Up to there, " : "In all, ";
    this.summary = `${wrong ? `The world cannot say “${word(wrong.text)}” here. ` : ""}` +
      (all && `${all}model ${mean(sum("model"))} nats a token, world ${mean(sum("world"))}.`);
    const words = pieces.map((piece) => element("button", {
      type: "button",
      class: piece === wrong ? "piece wrong" : piece.world === undefined ? "piece after" : "piece",
      style: { "--model": height(piece.model), "--world": height(piece.world ?? 0) },
      "aria-label": `${word(piece.text)}: model ${piece.model.toFixed(2)}, world ${nats(piece.world)} nats`,
      onpointerenter: () => tell(piece),
      onfocus: () => tell(piece),
      onclick: () => tell(piece),
    }, element("span", { class: "columns" }), word(piece.text)));
    const said = (list) => list.map(({ text, p }) => `${word(text)} ${percent(p)}`).join(", ");
    const tell = (piece) => {
      const some = piece.choices > 4 ? ` of ${piece.choices} that are possible` : "";
      const world = piece.worldSays.length ? ` The world held likely: ${said(piece.worldSays)}${some}.` : "";
      this.say(`“${word(piece.text)}”: model ${piece.model.toFixed(2)} nats, world ${nats(piece.world)}. ` +
        `The model held likely: ${said(piece.modelSays)}.${world}`);
    };
    this.say(this.summary);
    return [element("p", { class: "pieces" }, ...words)];
  }

  async story() {
    const model = await this.model();
    this.seed = (this.seed ?? 0) + 1;
    this.form.elements.text.value = (await model.ask("story", { seed: this.seed })).text;
    await this.refresh();
  }
};

const nats = (value) => (value === undefined ? "unknown" : value === Infinity ? "∞" : value.toFixed(2));
const height = (value) => Math.min(value, 5).toFixed(3); // of a column, which has room for 5 nats
