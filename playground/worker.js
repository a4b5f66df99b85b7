// The model in a thread of its own, so that the page never freezes. It is started with the text of
// gpt2.js, storyworld.js and this file, and spoken to in messages: {id, ask, …} → {id, …}, for
// "write" many.
"use strict";

let model;
let world;
const tokenizers = {}; // by name; the model's own is "storyteller"
let writing = 0; // the id of the text that is being written; another number stops it

const asks = {
  load({ config, merges, weights, words }) {
    model = new gpt2.GPT(config, gpt2.readSafetensors(weights));
    world = words;
    tokenizers.storyteller = new gpt2.Tokenizer(merges);
    return { vocabulary: config.vocab_size, window: config.n_positions };
  },

  vocabulary({ name, merges }) {
    tokenizers[name] = new gpt2.Tokenizer(merges);
    return {};
  },

  tokens({ text, vocabulary = "storyteller" }) {
    const tokenizer = tokenizers[vocabulary];
    return { tokens: tokenizer.encode(text).map((id) => ({ id, ...seen(id, tokenizer) })) };
  },

  // The likeliest next tokens, each with its probability, what the dials leave of it, and what it
  // has without the heads in off.
  // Among them are those that are likeliest in the end. Of a long text the last tokens are read.
  next({ text, dials = {}, count = 8, off = [] }) {
    const ids = beginning(text);
    const before = gpt2.probabilities(readAll(ids).logits);
    const after = gpt2.probabilities(readAll(ids, { off: new Set(off) }).logits, dials);
    const cut = before.map((p, i) => (after[i] > 0 ? p : 0));
    const shown = new Map([...likeliest(before, count), ...likeliest(after, 3)].map((w) => [w.id, w]));
    const words = [...shown.keys()].map((id) => ({ ...shown.get(id), p: before[id], after: after[id] }));
    return {
      words: words.sort((a, b) => b.p - a.p),
      forgot: ids.length > model.config.n_positions,
      kept: after.reduce((n, p) => n + (p > 0), 0),
      whole: after.length,
      mass: cut.reduce((a, b) => a + b, 0),
    };
  },

  // The probabilities of some next words, or of their first tokens: by the whole model, and without
  // each head alone.
  heads({ text, words }) {
    const { n_layer: L, n_head: H } = model.config;
    const ids = beginning(text);
    const tokens = words.map((word) => tokenizers.storyteller.encode(word));
    const wanted = tokens.map(([first]) => first);
    const without = (off) => {
      const p = gpt2.probabilities(readAll(ids, { off: new Set(off) }).logits);
      return wanted.map((id) => p[id]);
    };
    const each = Array.from({ length: L * H }, (_, n) => `${Math.floor(n / H)}.${n % H}`);
    const names = tokens.map(([first, ...rest]) => seen(first).text + (rest.length ? "…" : ""));
    return { names, whole: without([]), heads: each.map((head) => ({ head, p: without([head]) })) };
  },

  // Who looks at whom: weights[head][t][s], head as "layer.head".
  look({ text }) {
    const ids = within(text);
    const weights = {};
    readAll(ids, {
      see(name, numbers) {
        const [, layer, head] = name.match(/^h\.(\d+)\.attn\.weights\.(\d+)$/) ?? [];
        if (head) (weights[`${layer}.${head}`] ??= []).push([...numbers]);
      },
    });
    return { tokens: ids.map((id) => seen(id).text), weights };
  },

  // Every tensor on the way, row by row: {name: [[…], …]}, with the ids and the next words.
  walk({ text }) {
    const ids = within(text);
    const tensors = {};
    readAll(ids, { see: (name, numbers) => (tensors[name] ??= []).push([...numbers]) });
    const next = tensors.logits.map((logits) => likeliest(gpt2.softmax(logits), 1)[0]);
    return { ids, tokens: ids.map((id) => seen(id).text), tensors, next };
  },

  // By piece: −ln p by the model (the sum over its tokens) and by the world, and what each of the
  // two held likely instead.
  surprisal({ text }) {
    const { storyteller } = tokenizers;
    within(text);
    const pieces = [...gpt2.piecesOf(text), ""];
    const told = storyworld.read(world, pieces);
    const cache = model.newCache();
    let logits = model.step(storyteller.eot, cache);
    return {
      pieces: pieces.map((piece) => {
        const { value } = told.next();
        const p = gpt2.softmax(logits);
        let nats = 0;
        const ids = piece === "" ? [storyteller.eot] : storyteller.encode(piece);
        for (const id of ids) {
          nats -= Math.log(gpt2.softmax(logits)[id]);
          if (id !== storyteller.eot) logits = model.step(id, cache);
        }
        const options = [...(value?.options ?? [])].sort((a, b) => b[1] - a[1]);
        return {
          text: piece,
          tokens: ids.length,
          model: nats,
          world: value?.nats,
          modelSays: likeliest(p, 4),
          worldSays: options.slice(0, 4).map(([option, share]) => ({ text: option, p: share })),
          choices: options.length,
        };
      }),
    };
  },

  story({ seed }) {
    return { text: storyworld.tell(world, gpt2.randomNumbers(seed)) };
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
    const decoder = new TextDecoder(); // half a character waits for its other half
    const begin = performance.now();
    let heard = begin; // when other messages last had their turn
    let n = 0;
    while (n < count && writing === id) {
      const next = gpt2.draw(gpt2.probabilities(logits, dials), random());
      if (next === tokenizers.storyteller.eot) return { ended: true, forgot, n, seconds: since(begin) };
      const bytes = new Uint8Array(tokenizers.storyteller.bytesOf(next));
      postMessage({ id, token: decoder.decode(bytes, { stream: true }) });
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
    return { ended: false, forgot, n, seconds: since(begin) };
  },
};

function beginning(text) {
  return [tokenizers.storyteller.eot, ...tokenizers.storyteller.encode(text)];
}

// The same for what must be seen whole.
function within(text) {
  const ids = beginning(text);
  const window = model.config.n_positions;
  if (ids.length > window) throw new Error(`The text has ${ids.length} tokens, the window ${window}.`);
  return ids;
}

function readAll(ids, options) {
  const cache = model.newCache();
  let logits;
  for (const id of ids.slice(-model.config.n_positions)) logits = model.step(id, cache, options);
  return { logits, cache };
}

// A token as one can show it: its text, or its bytes where they are no whole character.
function seen(id, tokenizer = tokenizers.storyteller) {
  if (id === tokenizer.eot) return { text: "", bytes: 0 };
  const bytes = tokenizer.bytesOf(id);
  const text = tokenizer.decode([id]);
  const hex = (b) => (b < 128 ? String.fromCharCode(b) : `\\x${b.toString(16)}`);
  return { text: text.includes("\ufffd") ? bytes.map(hex).join("") : text, bytes: bytes.length };
}

function likeliest(p, count) {
  const order = Array.from(p.keys()).sort((a, b) => p[b] - p[a] || a - b);
  return order.slice(0, count).map((id) => ({ id, text: seen(id).text, p: p[id] }));
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
