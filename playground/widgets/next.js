// What comes next, as bars: outlined by the model, filled after the dials; the cut drawn.
"use strict";

const dialsOf = ({ temperature, topk, topp }) => ({ temperature, topK: topk, topP: topp });

// words: {text, p, after} each, likeliest first; a rule where what is cut begins.
function bars(words) {
  return element("ol", { class: "bars", "aria-label": "the likeliest next tokens: by the model, and as it stands now" },
    ...words.map(({ text, p, after }, i) => element("li", {
      class: after > 0 ? "kept" : words[i - 1]?.after > 0 ? "cut first" : "cut",
      style: { "--before": p.toFixed(4), "--after": after.toFixed(4) },
    }, element("code", {}, shown(text)), element("span", { class: "bar" }),
    element("span", {}, `${percent(p)} → ${percent(after)}`))));
}

widgets.next = class extends Widget {
  answer(asked, model) {
    return model.ask("next", { text: asked.text, dials: dialsOf(asked), count: 12 });
  }

  picture({ words, kept, whole, mass, forgot }) {
    this.say(`Of ${whole} tokens ${kept} may come; the model gave them ${percent(mass)} together.` +
      (forgot ? " The text is longer than the window: its end is read." : ""));
    return [bars(words)];
  }
};
