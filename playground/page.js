// The widgets of a page. Each is a form, a view and a line that says what the view shows; a class
// in widgets/ says what is its own:
//
//   answer(asked, model)   ask the model, by the fields of the form
//   picture(answer)        the elements of the view; say() writes the line below it
//   NAME()                 what the button NAME does
//
// Until somebody stays near, the view is a still, the picture of the form as it stands; the
// model's script is loaded then, and once. All of it works from file:// too, where a page may not
// fetch: so data come as scripts, and the worker is made from text.
"use strict";

const widgets = {}; // by name, from the files in widgets/

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== undefined));
  return node;
}

// A token as it can be read: blanks and ends of lines made visible.
function shown(text) {
  return text === "" ? "end" : text.replaceAll(" ", "␣").replaceAll("\n", "↵");
}

// The same within a text: only ends of lines are made visible.
const word = (text) => (text === "" ? "end" : text.replaceAll("\n", "↵").trim() || "␣");

// A row of words as buttons: tell(i) when one is pointed at; hold(i) when one is clicked or reached
// by Tab or the arrow keys, and the row comes back to that one.
function rowOf(buttons, held, tell, hold = () => {}) {
  const settle = (i) => {
    buttons.forEach((button, j) => { button.tabIndex = j === i ? 0 : -1; });
    held = i;
    hold(i);
    tell(i);
  };
  buttons.forEach((button, i) => {
    button.tabIndex = i === (held ?? 0) ? 0 : -1;
    button.addEventListener("pointerenter", () => tell(i));
    button.addEventListener("focus", () => settle(i));
    button.addEventListener("click", () => settle(i));
    button.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (buttons[to]) {
        event.preventDefault();
        buttons[to].focus();
      }
    });
  });
  return element("p", { class: "row-of-words", onpointerleave: () => tell(held) }, ...buttons);
}

const percent = (p) => (p > 0 && p < 0.0005 ? "<0.1%" : `${(100 * p).toFixed(1)}%`);

const within = (value, low, high) => Math.min(high, Math.max(low, value));

const loading = {}; // address → promise

function loadScript(address) {
  loading[address] ??= new Promise((resolve, reject) => {
    document.head.append(element("script", {
      src: address,
      onload: resolve,
      onerror: () => {
        delete loading[address]; // so that one can try again
        reject(new Error("The model could not be loaded. Is the network there? Any change tries again."));
      },
    }));
  });
  return loading[address];
}

// The model of this page, in a worker.
class Storyteller {
  static #one;

  static async load(where) {
    await loadScript(`${where}/storyteller.js`);
    Storyteller.#one ??= new Storyteller(where, globalThis.storyteller);
    await Storyteller.#one.ready;
    return Storyteller.#one;
  }

  constructor(where, { source, weights, ...parts }) {
    this.where = where;
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
    this.ready = this.ask("load", { ...parts, weights: bytes }, () => {}, [bytes]);
  }

  // The last message of the answer; heard is called with those before it.
  ask(what, details = {}, heard = () => {}, moved = []) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, heard });
      this.worker.postMessage({ id, ask: what, ...details }, moved);
    });
  }

  // GPT-2's own vocabulary, which is loaded when it is first asked for.
  async gpt2Vocabulary() {
    await loadScript(`${this.where}/gpt2-vocabulary.js`);
    this.vocabulary ??= this.ask("vocabulary", { name: "gpt2", merges: globalThis.gpt2Merges });
    await this.vocabulary;
  }
}

class Widget {
  constructor(root) {
    this.root = root;
    [this.form, this.view, this.line] = ["form", ".view", ".line"].map((c) => root.querySelector(c));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", ({ target }) => {
      this.showFields();
      if (target.dataset.quiet === undefined) this.refresh(); // a seed changes nothing yet
    });
    for (const button of this.form.querySelectorAll("button")) {
      button.addEventListener("click", () => this.safely(() => this[button.name]()));
    }
    for (const near of ["pointerdown", "focusin"]) root.addEventListener(near, () => this.wake());
    let stay; // who only passes by need not load anything
    root.addEventListener("pointerenter", () => { stay = setTimeout(() => this.wake(), 300); });
    root.addEventListener("pointerleave", () => clearTimeout(stay));
    this.showFields();
    this.form.hidden = false;
  }

  // What stands in the form, by name; numbers as numbers, a list for boxes that may be ticked.
  get asked() {
    const said = {};
    for (const { name, type, value, checked, min, max } of this.form.elements) {
      if (type === "checkbox") said[name] = [...(said[name] ?? []), ...(checked ? [value] : [])];
      else if (type === "radio") said[name] = checked ? value : said[name];
      else if (type === "number") said[name] = Math.round(within(+value, +min, +max || Infinity));
      else if (name) said[name] = type === "range" ? +value : value;
    }
    return said;
  }

  // What was asked for this text, asked once.
  once(key, ask) {
    if (this.key !== key) [this.key, this.kept] = [key, ask()];
    return this.kept;
  }

  // The value beside each dial, and the text where print shows it.
  showFields() {
    const given = this.root.querySelector(".given");
    if (given) given.textContent = `${this.asked.text} …`;
    for (const dial of this.form.querySelectorAll("input[type=range]")) {
      dial.nextElementSibling.textContent = dial.dataset.off === dial.value ? "off" : dial.value;
    }
  }

  async model() {
    const wait = setTimeout(() => this.say("Loading the model …"), 200);
    try {
      return await Storyteller.load(this.root.dataset.scripts);
    } finally {
      clearTimeout(wait);
    }
  }

  say(text) {
    this.line.textContent = text;
  }

  async safely(act) {
    try {
      await act();
    } catch (error) {
      this.key = this.kept = undefined;
      this.view.replaceChildren(); // no picture of another text
      this.say(error.message);
    }
  }

  wake() {
    this.awake ??= this.refresh();
    return this.awake;
  }

  // Ask again. One question at a time: what was asked in between is the next one, and the newest.
  refresh() {
    this.due = true;
    this.asking ??= this.keepAsking();
    return this.asking;
  }

  async keepAsking() {
    this.view.ariaBusy = "true";
    while (this.due) {
      this.due = false;
      await this.safely(async () => {
        const answer = await this.answer(this.asked, await this.model());
        if (!this.due) this.view.replaceChildren(...this.picture(answer));
      });
    }
    this.view.removeAttribute("aria-busy");
    this.asking = undefined;
  }

  // Exchange the text and the other one that the form has.
  swap() {
    const [text, button] = [this.form.elements.text, this.form.elements.swap];
    [text.value, button.dataset.other] = [button.dataset.other, text.value];
    this.showFields();
    return this.refresh();
  }
}

document.addEventListener("DOMContentLoaded", () => {
  for (const root of document.querySelectorAll(".widget[data-widget]")) root.widget = new widgets[root.dataset.widget](root);
});
