// What comes next, as bars: outlined by the model, filled after the dials; the cut drawn.
"use strict";

const dialsOf = ({ temperature, topk, topp }) => ({ temperature, topK: topk, topP: topp });

// words: {text, p, after} each, likeliest first; a rule where what is cut begins.
function bars(words) {
  const scale = Math.max(...words.flatMap(({ p, after }) => [p, after]));
  return element("ol", { class: "bars", "aria-label": "the likeliest next tokens: by the model, and as it stands now" },
    ...words.map(({ text, p, after }, i) => element("li", {
      class: after > 0 ? "kept" : words[i - 1]?.after > 0 ? "cut first" : "cut",
      style: { "--before": (p / scale).toFixed(4), "--after": (after / scale).toFixed(4) },
    }, element("code", {}, shown(text)), element("span", { class: "bar" }),
    element("span", {}, `${percent(p)} → ${percent(after)}`))));
}

widgets.next = class extends Widget {
  answer(asked, model) {
    return model.ask("next", { text: asked.text, dials: dialsOf(asked), count: 12 });
  }

  picture({ words, kept, whole, mass }) {
    this.say(`Of ${whole} tokens ${kept} may come. The model held them ${percent(mass)} likely together.`);
    return [bars(words)];
  }
};
