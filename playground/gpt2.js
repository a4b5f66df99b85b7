// GPT-2 in plain JavaScript: weights, tokenizer, forward pass, samplers. No dependency.
//
//   V vocabulary   T time   C channels   H heads, each D = C / H wide
//
// The names are those of chapter 8: wte wpe h ln_1 attn c_attn c_proj ln_2 mlp c_fc ln_f. A tensor
// is a Float32Array with a shape; a matrix is stored row by row, as safetensors has it.
"use strict";

// Weights ------------------------------------------------------------------------------------

// One number of 16 bits as a float: bf16 is the upper half of a float32.
const bits = new DataView(new ArrayBuffer(4));

function fromBF16(b) {
  bits.setUint32(0, b << 16);
  return bits.getFloat32(0);
}

function fromF16(b) {
  const sign = b & 0x8000 ? -1 : 1;
  const exponent = (b >> 10) & 31;
  const fraction = b & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// How wide a number is, in bytes, and how it is read.
const DTYPES = {
  F32: [4, (view, at) => view.getFloat32(at, true)],
  F16: [2, (view, at) => fromF16(view.getUint16(at, true))],
  BF16: [2, (view, at) => fromBF16(view.getUint16(at, true))],
  I8: [1, (view, at) => view.getInt8(at)],
};

// A safetensors file: eight bytes that say how long the header is, the header in JSON (name,
// dtype, shape, where), then the numbers, little end first. Names lose "transformer.".
// A matrix of int8 is whole numbers; its scales stand beside it as NAME_scale, one a row in the
// shape (n, 1) or one a column in the shape (1, m), and are multiplied in here.
function readSafetensors(buffer) {
  const view = new DataView(buffer);
  const length = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
    const size = shape.reduce((a, b) => a * b, 1);
    const [width, read] = DTYPES[dtype] ?? [];
    if (end - begin !== size * width) {
      throw new Error(`${name}: cannot read ${end - begin} bytes as ${size} numbers of ${dtype}.`);
    }
    const data = new Float32Array(size);
    for (let i = 0; i < size; i++) data[i] = read(view, 8 + length + begin + width * i);
    tensors[name.replace(/^transformer\./, "")] = { dtype, data, shape };
  }
  for (const [name, { dtype, data, shape: [n, m] }] of Object.entries(tensors)) {
    if (dtype !== "I8") continue;
    const scale = tensors[`${name}_scale`];
    if (scale?.data.length !== n && scale?.data.length !== m) {
      throw new Error(`${name}: whole numbers without ${n} or ${m} scales, ${name}_scale.`);
    }
    const byRow = scale.shape[0] === n;
    data.forEach((whole, i) => { data[i] = whole * scale.data[byRow ? Math.floor(i / m) : i % m]; });
  }
  return tensors;
}

// The model ------------------------------------------------------------------------------------

function layerNorm(x, { weight, bias }, epsilon) {
  const C = x.length;
  let mean = 0;
  for (const value of x) mean += value / C;
  let variance = 0;
  for (const value of x) variance += (value - mean) ** 2 / C;
  const scale = 1 / Math.sqrt(variance + epsilon);
  return x.map((value, i) => (value - mean) * scale * weight[i] + bias[i]);
}

// x of n numbers times a matrix (n, m), plus a bias: row by row, as the weights lie in memory.
function linear(x, { weight, bias }) {
  const m = bias.length;
  const y = Float32Array.from(bias);
  for (let i = 0; i < x.length; i++) {
    const row = i * m;
    for (let j = 0; j < m; j++) y[j] += x[i] * weight[row + j];
  }
  return y;
}

function gelu(x) {
  return x.map((v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))));
}

function softmax(scores) {
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const e = scores.map((s) => Math.exp(s - largest));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((value) => value / sum);
}

function add(x, y) {
  return x.map((value, i) => value + y[i]);
}

class GPT {
  // config: n_layer n_head n_embd vocab_size n_positions layer_norm_epsilon, as in config.json.
  constructor(config, tensors) {
    Object.assign(this, { config, wte: tensors["wte.weight"].data, wpe: tensors["wpe.weight"].data });
    const pair = (name) => {
      const [weight, bias] = [tensors[`${name}.weight`], tensors[`${name}.bias`]];
      if (!weight || !bias) throw new Error(`The file has no ${name}: is it a GPT-2?`);
      return { weight: weight.data, bias: bias.data };
    };
    this.h = Array.from({ length: config.n_layer }, (_, i) => ({
      ln_1: pair(`h.${i}.ln_1`),
      attn: { c_attn: pair(`h.${i}.attn.c_attn`), c_proj: pair(`h.${i}.attn.c_proj`) },
      ln_2: pair(`h.${i}.ln_2`),
      mlp: { c_fc: pair(`h.${i}.mlp.c_fc`), c_proj: pair(`h.${i}.mlp.c_proj`) },
    }));
    this.ln_f = pair("ln_f");
  }

  // Keys and values of what was read, a list a block: one token more, one entry more.
  newCache() {
    return this.h.map(() => ({ k: [], v: [] }));
  }

  // Read one more token: the logits (V) of the one after it. The causal mask needs no code: what
  // comes later is not in the cache yet. see(name, numbers), if given, is shown every tensor on the
  // way, under the names of chapter 17; off is a set of heads, "layer.head", that bring nothing.
  step(id, cache, { see = () => {}, off = new Set() } = {}) {
    const { n_head: H, n_embd: C, layer_norm_epsilon: epsilon } = this.config;
    const t = cache[0].k.length;
    if (t >= this.config.n_positions) throw new Error(`The window of ${t} tokens is full.`);
    const D = C / H;
    const seen = (name, numbers) => { see(name, numbers); return numbers; };
    const token = seen("wte", this.wte.subarray(id * C, (id + 1) * C));
    const place = seen("wpe", this.wpe.subarray(t * C, (t + 1) * C));
    let x = seen("embed", add(token, place)); // (C)
    this.h.forEach(({ ln_1, attn, ln_2, mlp }, layer) => {
      const h = `h.${layer}`;
      const qkv = linear(seen(`${h}.ln_1`, layerNorm(x, ln_1, epsilon)), attn.c_attn); // (3C)
      const q = seen(`${h}.attn.q`, qkv.subarray(0, C));
      const { k, v } = cache[layer];
      k.push(seen(`${h}.attn.k`, qkv.slice(C, 2 * C)));
      v.push(seen(`${h}.attn.v`, qkv.slice(2 * C)));
      const heads = new Float32Array(C); // H averages of values, side by side
      for (let head = 0; head < H; head++) {
        const at = head * D;
        const scores = k.map((key) => {
          let score = 0;
          for (let d = at; d < at + D; d++) score += q[d] * key[d];
          return score / Math.sqrt(D);
        }); // (T)
        see(`${h}.attn.scores.${head}`, scores);
        const weights = seen(`${h}.attn.weights.${head}`, softmax(scores));
        if (off.has(`${layer}.${head}`)) continue;
        weights.forEach((weight, s) => {
          for (let d = at; d < at + D; d++) heads[d] += weight * v[s][d];
        });
      }
      see(`${h}.attn.heads`, heads);
      x = seen(`${h}.mid`, add(x, seen(`${h}.attn`, linear(heads, attn.c_proj))));
      const wide = linear(seen(`${h}.ln_2`, layerNorm(x, ln_2, epsilon)), mlp.c_fc); // (4C)
      const neurons = seen(`${h}.mlp.neurons`, gelu(seen(`${h}.mlp.c_fc`, wide)));
      x = seen(h, add(x, seen(`${h}.mlp`, linear(neurons, mlp.c_proj))));
    });
    x = seen("ln_f", layerNorm(x, this.ln_f, epsilon));
    const logits = new Float32Array(this.config.vocab_size); // the head is the token table
    for (let i = 0; i < logits.length; i++) {
      const row = i * C;
      for (let c = 0; c < C; c++) logits[i] += x[c] * this.wte[row + c];
    }
    return seen("logits", logits);
  }

  // The logits after each of these tokens, (T, V).
  forward(ids, options) {
    const cache = this.newCache();
    return ids.map((id) => this.step(id, cache, options));
  }
}

// The tokenizer -------------------------------------------------------------------------------

// GPT-2's pieces: a word with the space before it, a number, a run of marks, blanks.
const PIECES = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

function piecesOf(text) {
  return text.match(PIECES) ?? [];
}

// GPT-2 writes each byte as a character that can be seen: bytes that cannot get one above 255.
function byteLetters() {
  const seen = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(seen(b) ? b : next++));
}

class Tokenizer {
  // merges: pairs as "Ġ t", in the order in which they were learned. The ids are GPT-2's: the
  // bytes in the order of their letters, then what each merge makes, then <|endoftext|>.
  constructor(merges) {
    this.letters = byteLetters();
    this.bytes = new Map(this.letters.map((letter, b) => [letter, b]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    const words = [...[...this.letters].sort(), ...merges.map((pair) => pair.replace(" ", ""))];
    this.words = words; // id → word, and back
    this.ids = new Map(words.map((word, id) => [word, id]));
    this.eot = words.length;
  }

  // The bytes of a token.
  bytesOf(id) {
    if (id === this.eot) return Array.from(new TextEncoder().encode("<|endoftext|>"));
    return Array.from(this.words[id], (letter) => this.bytes.get(letter));
  }

  // Special tokens in a text are text.
  encode(text) {
    const ids = [];
    for (const piece of piecesOf(text)) {
      const bytes = new TextEncoder().encode(piece);
      let parts = Array.from(bytes, (b) => this.letters[b]);
      for (;;) { // merge the pair that was learned first, everywhere, until none is left
        let best = Infinity;
        let pair = null;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
          if (rank < best) [best, pair] = [rank, [parts[i], parts[i + 1]]];
        }
        if (!pair) break;
        const merged = [];
        for (let i = 0; i < parts.length; i++) {
          if (parts[i] === pair[0] && parts[i + 1] === pair[1]) merged.push(parts[i] + parts[++i]);
          else merged.push(parts[i]);
        }
        parts = merged;
      }
      ids.push(...parts.map((part) => this.ids.get(part)));
    }
    return ids;
  }

  decode(ids) {
    return new TextDecoder().decode(new Uint8Array(ids.flatMap((id) => this.bytesOf(id))));
  }
}

// Samplers --------------------------------------------------------------------------------------

// Probabilities (V) under temperature, then top-k, then top-p, in the order of chapter 14; what is
// cut has 0. Temperature 0 is the likeliest alone.
function probabilities(logits, { temperature = 1, topK = 0, topP = 1 } = {}) {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  const p = temperature > 0 ? softmax(Float64Array.from(logits, (z) => z / temperature)) : new Float64Array(logits.length);
  if (temperature <= 0) {
    p[order[0]] = 1;
    return p;
  }
  let kept = topK > 0 ? Math.min(topK, order.length) : order.length;
  let whole = 0;
  for (let i = 0; i < kept; i++) whole += p[order[i]];
  let sum = 0;
  let n = 0;
  const reached = () => n > 0 && topP < 1 && sum >= topP * whole;
  while (n < kept && !reached()) sum += p[order[n++]]; // the fewest that reach it
  for (const i of order.slice(n)) p[i] = 0;
  return p.map((value) => value / sum);
}

// Random numbers in [0, 1) from a seed, so that a text can be written again (mulberry32).
function randomNumbers(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Draw an index by probabilities p and a number u in [0, 1): where the running sum passes it.
function draw(p, u) {
  let sum = 0;
  let last = 0;
  for (let i = 0; i < p.length; i++) {
    if (p[i] > 0) last = i;
    sum += p[i];
    if (u < sum) return i;
  }
  return last; // u fell into what rounding has left
}

globalThis.gpt2 = {
  GPT, Tokenizer, readSafetensors, piecesOf, softmax, probabilities, randomNumbers, draw,
};
