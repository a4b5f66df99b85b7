// The playground: write with the model, all dials in one place.
"use strict";

widgets.write = class extends widgets.next {
  told = ""; // of the last text, before what is said of the bars
  run = 0; // the number of the last text

  get out() {
    return this.root.querySelector(".new");
  }

  answer(asked, model) {
    const text = asked.text + this.out.textContent;
    return model.ask("next", { text, dials: dialsOf(asked), count: 8 });
  }

  say(text) {
    super.say(this.told + text);
  }

  // Another beginning: what was written, or is being written, belongs to the old one.
  refresh() {
    if (this.asked.text !== this.from) {
      if (this.run) this.safely(() => this.stop());
      this.begin(this.asked.text);
    }
    return super.refresh();
  }

  begin(text) {
    this.from = text;
    this.out.textContent = this.told = "";
    this.root.querySelector(".old").textContent = text;
    return ++this.run;
  }

  async write() {
    const model = await this.model();
    await this.asking;
    const { text, seed, count, ...dials } = this.asked;
    const run = this.begin(text);
    this.say("Writing …");
    const details = { text, dials: dialsOf(dials), seed, count };
    const { n, seconds, ended, forgot } = await model.ask("write", details, ({ token }) => {
      if (run === this.run) this.out.textContent += token;
    });
    if (run !== this.run) return;
    this.told = `${n} ${n === 1 ? "token" : "tokens"}${n > 1 ? `, ${Math.round(n / seconds)} a second` : ""}` +
      `${ended ? "; the story has ended" : ""}${forgot ? "; its beginning is out of the window" : ""}. `;
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
