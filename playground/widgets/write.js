// The playground: write with the model, all dials in one place.
"use strict";

widgets.write = class extends widgets.next {
  told = ""; // of the last text, before what is said of the bars

  get out() {
    return this.root.querySelector(".out");
  }

  answer(asked, model) {
    const text = asked.text + this.out.textContent;
    return model.ask("next", { text, dials: dialsOf(asked), count: 8 });
  }

  say(text) {
    super.say(this.told + text);
  }

  // Another beginning: what was written belongs to the old one.
  refresh() {
    if (this.asked.text !== this.from) [this.told, this.out.textContent] = ["", ""];
    this.from = this.asked.text;
    return super.refresh();
  }

  async write() {
    const model = await this.model();
    const run = (this.run = (this.run ?? 0) + 1);
    this.asking += 1; // what was asked before is not drawn any more
    const asked = this.asked;
    this.from = asked.text;
    this.out.textContent = this.told = "";
    this.say("Writing …");
    const details = { text: asked.text, dials: dialsOf(asked), seed: asked.seed, count: asked.count };
    const { n, seconds, ended, forgot } = await model.ask("write", details, ({ token }) => {
      if (run === this.run) this.out.textContent += token;
    });
    if (run !== this.run) return;
    this.told = `${n} tokens, ${Math.round(n / seconds)} a second${ended ? "; the story has ended" : ""}` +
      `${forgot ? "; its beginning is out of the window" : ""}. `;
    await this.refresh();
  }

  async again() {
    this.form.elements.seed.value = this.asked.seed + 1;
    await this.write();
  }

  async stop() {
    await (await this.model()).ask("stop");
  }
};
