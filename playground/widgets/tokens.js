// Type, and see the tokens.
"use strict";

widgets.tokens = class extends Widget {
  async answer({ text, vocabulary }, model) {
    if (vocabulary === "gpt2") await model.gpt2Vocabulary();
    return { text, ...(await model.ask("tokens", { text, vocabulary })) };
  }

  picture({ text, tokens }) {
    const bytes = new TextEncoder().encode(text).length;
    const each = tokens.length ? ` ${(bytes / tokens.length).toFixed(1)} bytes a token.` : "";
    this.say(`${tokens.length} tokens, ${[...text].length} characters, ${bytes} bytes.${each}`);
    return [element("ol", { class: "tokens", tabindex: "0", "aria-label": "the tokens, each with its id" }, ...tokens.map(
      (token) => element("li", {}, element("code", {}, shown(token.text)), element("small", {}, `${token.id}`)),
    ))];
  }
};
