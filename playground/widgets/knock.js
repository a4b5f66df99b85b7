// Take heads out, and see what the model still knows.
"use strict";

widgets.knock = class extends Widget {
  async answer({ text, off, words }, model) {
    const asked = words.split(/\s+/).filter(Boolean).map((word) => ` ${word}`);
    const key = JSON.stringify([text, asked]);
    if (this.key !== key) { // each head alone: asked once for a text
      [this.key, this.alone] = [key, model.ask("heads", { text, words: asked })];
    }
    return { off, asked, alone: await this.alone, now: await model.ask("next", { text, off, count: 6 }) };
  }

  picture({ off, asked, alone, now }) {
    const cells = (p) => p.map((value) => element("td", { class: "positive", style: { "--weight": value.toFixed(3) } }, percent(value)));
    const table = element("table", { class: "heads" },
      element("caption", {}, "how likely each of these words is next"),
      element("thead", {}, element("tr", {}, element("td"), ...asked.map((word) => element("th", { scope: "col" }, shown(word))))),
      element("tbody", {},
        element("tr", {}, element("th", { scope: "row" }, "whole"), ...cells(alone.whole)),
        ...alone.heads.map(({ head, p }) => element("tr", {}, element("th", { scope: "row" }, `no ${head}`), ...cells(p)))));
    this.say(off.length ? `Without ${off.join(", ")}: “${shown(best(now.words).text)}” is the likeliest of these.`
      : `The whole model says “${shown(now.words[0].text)}”.`);
    return [bars(now.words), table];
  }
};

const best = (words) => words.reduce((a, b) => (b.after > a.after ? b : a));
