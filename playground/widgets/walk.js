// Step through the model: shape and numbers of every tensor for one short text.
"use strict";

const MEANING = {
  wte: "the token table's row for each token",
  wpe: "the position table's row for each place, whatever stands there",
  embed: "their sum: the stream, which every block reads and adds to",
  ln_1: "the stream, each row brought to mean 0 and variance 1, then gain and bias",
  "attn.q": "queries, what each place looks for; head 0 has the first half of the columns, head 1 the second",
  "attn.k": "keys, what each place can be found by",
  "attn.v": "values, what each place hands over",
  "attn.scores": "q · k / √D: a row for who looks, a column for who is looked at; nobody looks ahead",
  "attn.weights": "their softmax: every row adds up to 1",
  "attn.heads": "the averages of the values by these weights, both heads side by side",
  attn: "after c_proj: what attention adds to the stream",
  mid: "the stream after that addition",
  ln_2: "the stream, brought to mean 0 and variance 1 again, with a gain and a bias of its own",
  "mlp.c_fc": "each row alone, into a space four times as wide",
  "mlp.neurons": "after the GELU: what is well below 0 is next to nothing now",
  mlp: "after c_proj, back to C: what the MLP adds to the stream",
  h: "the stream after this block",
  ln_f: "the last LayerNorm",
  logits: "times the token table, turned over: a number for every token that might come next",
};

// "h.2.attn.scores.1" → "attn.scores", "h.2" → "h".
const kind = (name) => name.replace(/^h\.\d+\./, "").replace(/^h\.\d+$/, "h").replace(/(\.\d+)$/, "");

widgets.walk = class extends Widget {
  answer({ text }, model) {
    if (this.text !== text) [this.text, this.walked] = [text, model.ask("walk", { text })];
    return this.walked;
  }

  picture({ ids, tokens, tensors, next }) {
    const name = this.asked.tensor;
    const rows = tensors[name];
    const wide = rows.at(-1).length;
    const square = /scores|weights/.test(name);
    const columns = square || wide <= 9 ? [...Array(wide).keys()] : [0, 1, 2, 3, 4, 5, 6, 7, wide - 1];
    const largest = Math.max(...rows.flatMap((row) => columns.map((c) => Math.abs(row[c] ?? 0))));
    const names = tokens.map((text, t) => (t === 0 ? "start" : shown(text)));
    const cell = (value) => (value === undefined ? element("td", { class: "masked" }) : element("td", {
      class: value < 0 ? "negative" : "positive",
      style: { "--weight": (Math.abs(value) / largest).toFixed(3) },
    }, value.toFixed(2)));
    const gap = (c) => !square && c === wide - 1 && wide > 9;
    const head = columns.flatMap((c) => [
      ...(gap(c) ? [element("td", {}, "…")] : []),
      element("th", { scope: "col" }, square ? names[c] : `${c}`),
    ]);
    const says = name === "logits" ? [element("th", { scope: "col" }, "likeliest next")] : [];
    const shape = `(${rows.length}, ${wide})`;
    this.say(`${name}, shape ${shape}: ${MEANING[kind(name)]}.`);
    return [element("div", { class: "numbers", tabindex: "0", role: "region", "aria-label": `numbers of ${name}` },
      element("table", {},
        element("thead", {}, element("tr", {}, element("td"), ...head, ...says)),
        element("tbody", {}, ...rows.map((row, t) => element("tr", {},
          element("th", { scope: "row" }, names[t], element("small", {}, ` ${ids[t]}`)),
          ...columns.flatMap((c) => [...(gap(c) ? [element("td", {}, "…")] : []), cell(row[c])]),
          ...(name === "logits" ? [element("td", {}, `${shown(next[t].text)} ${percent(next[t].p)}`)] : []))))))];
  }

  back() {
    return this.turn(-1);
  }

  forth() {
    return this.turn(1);
  }

  turn(by) {
    const list = this.form.elements.tensor;
    list.selectedIndex = Math.max(0, Math.min(list.length - 1, list.selectedIndex + by));
    return this.refresh();
  }
};
