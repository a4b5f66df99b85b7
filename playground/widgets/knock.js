// Take heads out, and see what the model still knows.
"use strict";

widgets.knock = class extends Widget {
  async answer({ text, off, words }, model) {
    const asked = words.split(/[\s,;.]+/).filter(Boolean).map((name) => ` ${name}`);
    const alone = await this.once(`${text}\n${asked}`, () => model.ask("heads", { text, words: asked }));
    return { off, alone, now: await model.ask("next", { text, off, count: 6 }) };
  }

  picture({ off, alone, now }) {
    const cells = (p) => p.map((value) => element("td", {
      class: "positive", style: { "--weight": value.toFixed(3) },
    }, percent(value)));
    const table = element("table", { class: "heads" },
      element("caption", {}, "how likely each of these is next"),
      element("thead", {}, element("tr", {}, element("td"),
        ...alone.names.map((name) => element("th", { scope: "col" }, shown(name))))),
      element("tbody", {},
        element("tr", {}, element("th", { scope: "row" }, "whole"), ...cells(alone.whole)),
        ...alone.heads.map(({ head, p }) => element("tr", {}, element("th", { scope: "row" }, `no ${head}`), ...cells(p)))));
    const best = now.words.reduce((a, b) => (b.after > a.after ? b : a));
    this.say(`${off.length ? `Without ${off.join(", ")} it says` : "The whole model says"} ` +
      `“${word(best.text)}”, by ${percent(best.after)}.` +
      (now.forgot ? " The text is longer than the window: its end is read." : ""));
    return alone.names.length ? [bars(now.words), table] : [bars(now.words)];
  }
};
