// Point at a word and see whom it looks at, in the chosen head, and in all of them.
"use strict";

widgets.looks = class extends Widget {
  answer({ text }, model) {
    return this.once(text, () => model.ask("look", { text }));
  }

  // The head is the form's; the word that is held is remembered while it is the same one.
  picture({ tokens, weights }) {
    if (this.held?.text !== tokens[this.held?.at]) this.held = undefined;
    const names = tokens.map((text, t) => (t === 0 ? "start" : word(text)));
    const words = names.map((name, t) => element("button", {
      type: "button",
      class: tokens[t].startsWith(" ") || t === 1 ? "word apart" : "word",
    }, name));
    const rows = Object.keys(weights).map((head) => [head, element("td")]);
    const table = element("table", { class: "heads" },
      element("caption", {}, "where it looks most, head by head"),
      element("tbody", {}, ...rows.map(([head, cell]) => element("tr", {}, element("th", { scope: "row" }, head), cell))));

    const most = (row) => [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3)
      .filter((s) => row[s] >= 0.005).map((s) => `“${names[s]}” ${row[s].toFixed(2)}`).join(", ");
    const tell = (t) => {
      const head = this.asked.head;
      const row = weights[head][t];
      words.forEach((button, s) => {
        button.style.setProperty("--weight", Math.sqrt(row[s] ?? 0).toFixed(3)); // so that small ones show
        button.classList.toggle("looking", s === t);
        button.classList.toggle("later", s > t);
        button.setAttribute("aria-pressed", s === t);
      });
      for (const [name, cell] of rows) cell.textContent = most(weights[name][t]);
      this.say(`In head ${head}, “${names[t]}” looks at ${most(row)}.`);
    };
    const held = this.held?.at ?? tokens.length - 1;
    tell(held);
    const row = rowOf(words, held, tell, (t) => { this.held = { at: t, text: tokens[t] }; });
    return this.root.dataset.all === undefined ? [row] : [row, table];
  }
};
