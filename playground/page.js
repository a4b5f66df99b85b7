// The playground: write with the model, all dials in one place.
// The model's script is loaded when it is first asked for, also from file://, where a page may
// not fetch; and the worker is made from text for the same reason.
"use strict";

class Storyteller {
  static #one;

  // The model of this page, loaded once; where: the folder of the scripts.
  static load(where) {
    Storyteller.#one ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${where}/storyteller.js`;
      script.onload = () => resolve(new Storyteller(globalThis.storyteller));
      script.onerror = () => reject(new Error("The model could not be loaded."));
      document.head.append(script);
    }).then(async (teller) => {
      await teller.ready;
      return teller;
    });
    return Storyteller.#one;
  }

  constructor({ source, config, tokenizer, weights }) {
    this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject, heard } = this.waiting.get(data.id);
      if (!data.last) heard(data);
      else {
        this.waiting.delete(data.id);
        if (data.error) reject(new Error(data.error));
        else resolve(data);
      }
    };
    const bytes = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0)).buffer;
    this.ready = this.ask("load", { config, tokenizer, weights: bytes }, () => {}, [bytes]);
  }

  // The last message of the answer; heard is called with those before it.
  ask(what, details = {}, heard = () => {}, moved = []) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, heard });
      this.worker.postMessage({ id, ask: what, ...details }, moved);
    });
  }
}

function playground(root) {
  const find = (name) => root.querySelector(`[name=${name}]`);
  const [out, bars, state] = ["out", "bars", "state"].map((c) => root.querySelector(`.${c}`));
  const where = root.dataset.scripts;
  let run = 0;

  function dials() {
    const read = { temperature: +find("temperature").value, topK: +find("topk").value, topP: +find("topp").value };
    for (const dial of root.querySelectorAll("input[type=range]")) {
      dial.nextElementSibling.textContent = dial.name === "topk" && +dial.value === 0 ? "off" : dial.value;
    }
    return read;
  }

  async function teller() {
    if (!Storyteller.loaded) state.textContent = "Loading the model …";
    const one = await Storyteller.load(where);
    Storyteller.loaded = true;
    return one;
  }

  // What comes next, as bars: outlined by the model, filled after the dials.
  async function look() {
    const one = await teller();
    const text = find("text").value + out.textContent;
    const { words, kept } = await one.ask("next", { text, dials: dials(), count: 8 });
    bars.replaceChildren(...words.map(({ text: word, before, after }) => {
      const row = document.createElement("li");
      const name = document.createElement("code");
      const bar = document.createElement("span");
      const share = document.createElement("span");
      name.textContent = JSON.stringify(word).slice(1, -1).replaceAll(" ", "␣");
      bar.className = "bar";
      bar.style.setProperty("--before", before);
      bar.style.setProperty("--after", after);
      share.textContent = `${(100 * before).toFixed(1)}% → ${(100 * after).toFixed(1)}%`;
      row.className = after > 0 ? "kept" : "cut";
      row.append(name, bar, share);
      return row;
    }));
    state.textContent = `Next: of all tokens ${kept} may come.`;
  }

  async function write() {
    const mine = ++run;
    try {
      const one = await teller();
      out.textContent = "";
      state.textContent = "Writing …";
      const details = { text: find("text").value, dials: dials(), seed: +find("seed").value, count: +find("count").value };
      const told = await one.ask("write", details, ({ token }) => {
        if (mine === run) out.textContent += token;
      });
      if (mine !== run) return;
      await look();
      const speed = Math.round(told.n / told.seconds);
      state.textContent = `${told.n} tokens, ${speed} a second${told.ended ? "; the story has ended" : ""}` +
        `${told.forgot ? "; its beginning is out of the window" : ""}. ${state.textContent}`;
    } catch (error) {
      state.textContent = error.message;
    }
  }

  find("write").addEventListener("click", write);
  find("stop").addEventListener("click", async () => {
    if (Storyteller.loaded) await (await teller()).ask("stop");
  });
  find("again").addEventListener("click", () => {
    find("seed").value = +find("seed").value + 1;
    write();
  });
  find("text").addEventListener("change", () => {
    out.textContent = "";
    look().catch((error) => { state.textContent = error.message; });
  });
  for (const dial of root.querySelectorAll("input[type=range]")) {
    dial.addEventListener("input", () => {
      dials();
      if (Storyteller.loaded) look().catch((error) => { state.textContent = error.message; });
    });
  }
  dials();
  root.hidden = false;
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".playground").forEach(playground);
});
