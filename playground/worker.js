// The model in a thread of its own, so that the page never freezes. It is started with the text of
// gpt2.js and of this file, and spoken to in messages: {id, ask, …} → {id, …}, for "write" many.
"use strict";

let model;
let tokenizer;
let writing = 0; // the id of the text that is being written; another number stops it

const asks = {
  load({ config, tokenizer: json, weights }) {
    model = new gpt2.GPT(config, gpt2.readSafetensors(weights));
    tokenizer = new gpt2.Tokenizer(json);
    return { vocabulary: config.vocab_size, window: config.n_positions };
  },

  tokens({ text }) {
    return { tokens: tokenizer.encode(text).map((id) => ({ id, text: tokenizer.decode([id]) })) };
  },

  // The likeliest next tokens, with what the dials leave of each.
  next({ text, dials, count }) {
    const logits = readAll(beginning(text)).logits;
    const before = gpt2.probabilities(logits, {});
    const after = gpt2.probabilities(logits, dials);
    const order = Array.from(before.keys()).sort((a, b) => before[b] - before[a]).slice(0, count);
    return {
      words: order.map((i) => ({ text: tokenizer.decode([i]), before: before[i], after: after[i] })),
      kept: after.reduce((n, p) => n + (p > 0), 0),
    };
  },

  stop() {
    writing = 0;
    return {};
  },

  // One token a message, then {done}. On the way other messages are heard.
  async write({ id, text, dials, count, seed }) {
    writing = id;
    const random = gpt2.randomNumbers(seed);
    let ids = beginning(text);
    let { logits, cache } = readAll(ids);
    let forgot = ids.length > model.config.n_positions;
    const begin = performance.now();
    let heard = begin; // when other messages last had their turn
    let n = 0;
    while (n < count && writing === id) {
      const next = gpt2.draw(gpt2.probabilities(logits, dials), random());
      if (next === tokenizer.eot) return { done: true, ended: true, forgot, n, seconds: since(begin) };
      postMessage({ id, token: tokenizer.decode([next]) });
      ids.push(next);
      n += 1;
      if (cache[0].k.length === model.config.n_positions) { // full: go on from the later half
        ids = ids.slice(-model.config.n_positions / 2);
        forgot = true;
        ({ logits, cache } = readAll(ids));
      } else {
        logits = model.step(next, cache);
      }
      if (performance.now() - heard > 20) {
        await new Promise((resume) => setTimeout(resume));
        heard = performance.now();
      }
    }
    return { done: true, ended: false, forgot, n, seconds: since(begin) };
  },
};

function beginning(text) {
  return [tokenizer.eot, ...tokenizer.encode(text)];
}

function readAll(ids) {
  const cache = model.newCache();
  let logits;
  for (const id of ids.slice(-model.config.n_positions)) logits = model.step(id, cache);
  return { logits, cache };
}

function since(begin) {
  return (performance.now() - begin) / 1000;
}

onmessage = async ({ data }) => {
  try {
    postMessage({ id: data.id, ...(await asks[data.ask](data)), last: true });
  } catch (error) {
    postMessage({ id: data.id, error: error.message, last: true });
  }
};
