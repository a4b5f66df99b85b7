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
  "attn.scores": "q · k / √D, a row for who looks, a column for who is looked at; nobody looks ahead",
  "attn.weights": "the softmax of the scores: every row adds up to 1",
  "attn.heads": "the averages of the values by these weights, both heads side by side",
  attn: "after c_proj: what attention adds to the stream",
  mid: "the stream after that addition",
  ln_2: "the stream, brought to mean 0 and variance 1 again, with a gain and a bias of its own",
  "mlp.c_fc": "the MLP begins: each row alone, into a space four times as wide",
  "mlp.neurons": "after the GELU: what is well below 0 is next to nothing now",
  mlp: "after c_proj, back to C columns: what the MLP adds to the stream",
  h: "the stream after this block",
  ln_f: "the last LayerNorm",
  logits: "times the token table, transposed: a number for every token that might come next",
};

// "h.2.attn.scores.1" → "attn.scores", "h.2" → "h".
const kind = (name) => name.replace(/^h\.\d+$/, "h").replace(/^h\.\d+\./, "").replace(/\.\d+$/, "");
const fixed = (value) => value.toFixed(2).replace("-0.00", "0.00");

widgets.walk = class extends Widget {
  async answer({ text }, model) {
    if (this.key !== text) this.before = await this.kept; // what the text before had
    return this.once(text, () => model.ask("walk", { text }));
  }

  picture({ ids, tokens, tensors, next }) {
    const { tensor: list, back, forth } = this.form.elements;
    const name = list.value;
    back.disabled = list.selectedIndex === 0;
    forth.disabled = list.selectedIndex === list.length - 1;
    const rows = tensors[name];
    const old = this.before?.ids.length === ids.length ? this.before.tensors[name] : undefined;
    const wide = rows.at(-1).length;
    const square = /scores|weights/.test(name);
    const columns = square || wide <= 9 ? [...Array(wide).keys()] : [0, 1, 2, 3, 4, 5, 6, 7, wide - 1];
    const largest = Math.max(...rows.flatMap((row) => columns.map((c) => Math.abs(row[c] ?? 0))));
    const names = tokens.map((text, t) => (t === 0 ? "start" : word(text)));
    const cell = (value, before) => (value === undefined ? element("td", { class: "masked" }) : element("td", {
      class: `${value < 0 ? "negative" : "positive"}${before !== undefined && before !== value ? " changed" : ""}`,
      style: { "--weight": (Math.abs(value) / largest).toFixed(3) },
    }, fixed(value)));
    const gap = (c) => !square && c === wide - 1 && wide > 9;
    const dots = (c) => (gap(c) ? [element("td", {}, "…")] : []);
    const last = (tag, ...children) => (name === "logits" ? [element(tag, {}, ...children)] : []);
    const changed = old ? " What is not as in the text before is underlined." : "";
    this.say(`${name}, shape (${rows.length}, ${wide}): ${MEANING[kind(name)]}.${changed}`);
    return [element("div", { class: "numbers", tabindex: "0", role: "region", "aria-label": `numbers of ${name}` },
      element("table", {},
        element("thead", {}, element("tr", {}, element("td"),
          ...columns.flatMap((c) => [...dots(c), element("th", { scope: "col" }, square ? names[c] : `${c}`)]),
          ...last("th", "likeliest next"))),
        element("tbody", {}, ...rows.map((row, t) => element("tr", {},
          element("th", { scope: "row" }, names[t], element("small", {}, ` ${ids[t]}`)),
          ...columns.flatMap((c) => [...dots(c), cell(row[c], old?.[t][c])]),
          ...last("td", `${word(next[t].text)} ${percent(next[t].p)}`))))))];
  }

  back() {
    return this.turn(-1);
  }

  forth() {
    return this.turn(1);
  }

  turn(by) {
    const list = this.form.elements.tensor;
    list.selectedIndex = within(list.selectedIndex + by, 0, list.length - 1);
    return this.refresh();
  }
};
