// Hover a word and see whom it looks at, in the chosen head; or the same word in every head.
"use strict";

widgets.looks = class extends Widget {
  answer({ text }, model) {
    return model.ask("look", { text });
  }

  // The head is the form's; which word looks is remembered here.
  picture({ tokens, weights }) {
    this.chosen = Math.min(this.chosen ?? tokens.length - 1, tokens.length - 1);
    const names = tokens.map((text, t) => (t === 0 ? "start" : word(text)));
    const words = names.map((name, t) => element("button", {
      type: "button",
      class: tokens[t].startsWith(" ") || t === 1 ? "word apart" : "word",
      onpointerenter: () => choose(t),
      onfocus: () => choose(t),
      onclick: () => choose(t),
    }, name));
    const rows = Object.keys(weights).map((head) => [head, element("td")]);
    const table = element("table", { class: "heads" },
      element("caption", {}, "where it looks most, head by head"),
      element("tbody", {}, ...rows.map(([head, cell]) => element("tr", {}, element("th", { scope: "row" }, head), cell))));

    const most = (row) => [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3)
      .filter((s) => row[s] >= 0.005).map((s) => `${names[s]} ${row[s].toFixed(2)}`).join(", ");
    const choose = (t) => {
      this.chosen = t;
      const head = this.asked.head;
      const row = weights[head][t];
      words.forEach((word, s) => {
        word.style.setProperty("--weight", (row[s] ?? 0).toFixed(3));
        word.classList.toggle("looking", s === t);
        word.classList.toggle("later", s > t);
        word.setAttribute("aria-pressed", s === t);
      });
      for (const [name, cell] of rows) cell.textContent = most(weights[name][t]);
      this.say(`In head ${head}, “${names[t]}” looks at ${most(row)}.`);
    };
    choose(this.chosen);
    const all = this.root.dataset.all === undefined ? [] : [table];
    return [element("p", { class: "words" }, ...words), ...all];
  }
};
