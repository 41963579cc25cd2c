// Latents as the `sample` signature draws them: the same seed, the same digits.
//
// TensorFlow's stateless_normal on the CPU: the generator Philox 4x32-10 (Salmon et al., Parallel
// Random Numbers: As Easy as 1, 2, 3, SC 2011), keyed by the scrambled seed, and Box-Muller in
// float32. `Math.fround` stands wherever TensorFlow rounds to float32; what is left differs by less
// than 1e-6 (tests/test_page.py).

const KEY = [0x3ec8f720, 0x02461e29]; // the key that TensorFlow scrambles seeds with
const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const WEYL = [0x9e3779b9, 0xbb67ae85];
const ROUNDS = 10;
const SMALLEST = Math.fround(1e-7); // whose logarithm is still finite
const TWO_PI = 2 * Math.PI;

/** Four random words of 32 bits for a counter of four words and a key of two. */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round += 1) {
    // BigInt, as products have 64 bits and a Number holds 53.
    const a = BigInt(MULTIPLIERS[0]) * BigInt(c0);
    const b = BigInt(MULTIPLIERS[1]) * BigInt(c2);
    [c0, c1, c2, c3] = [(high(b) ^ c1 ^ k0) >>> 0, low(b), (high(a) ^ c3 ^ k1) >>> 0, low(a)];
    k0 = (k0 + WEYL[0]) >>> 0;
    k1 = (k1 + WEYL[1]) >>> 0;
  }
  return [c0, c1, c2, c3];
}

function high(product) {
  return Number(product >> 32n);
}

function low(product) {
  return Number(product & 0xffffffffn);
}

/** The latent (latentDim,) of a seed, a whole number of 32 bits: Float32Array from N(0, 1). */
export function draw(seed, latentDim) {
  // The seed is the pair (seed, 0) of signed 64-bit numbers, as two words each.
  const sign = seed < 0 ? 0xffffffff : 0;
  const [k0, k1, high0, high1] = philox([seed >>> 0, sign, 0, 0], KEY);
  const latent = new Float32Array(latentDim);
  for (let block = 0; 4 * block < latentDim; block += 1) {
    const words = philox([block, 0, high0, high1], [k0, k1]);
    const normals = [...boxMuller(words[0], words[1]), ...boxMuller(words[2], words[3])];
    latent.set(normals.slice(0, latentDim - 4 * block), 4 * block);
  }
  return latent;
}

/** Two independent normals of two random words. */
function boxMuller(first, second) {
  const radius = Math.fround(
    Math.sqrt(Math.fround(-2 * Math.fround(Math.log(Math.max(uniform(first), SMALLEST))))),
  );
  const angle = Math.fround(TWO_PI * uniform(second));
  return [
    Math.fround(Math.fround(Math.sin(angle)) * radius),
    Math.fround(Math.fround(Math.cos(angle)) * radius),
  ];
}

/** A number in [0, 1) of a word's 23 lowest bits: the mantissa of a float32. */
function uniform(word) {
  return (word & 0x7fffff) / 2 ** 23;
}

/**
 * The latent at `way` in [0, 1] on the great circle from `start` to `end`, as
 * `tfgan_mnist.models.latents.interpolate`: a straight line would leave the sphere near which N(0, 1) lies.
 */
export function between(start, end, way) {
  const product = start.reduce((sum, value, i) => sum + value * end[i], 0);
  const cosine = product / Math.max(Math.hypot(...start) * Math.hypot(...end), 1e-12);
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
  let [a, b] = [1 - way, way];
  if (Math.sin(angle) >= 1e-6) {
    [a, b] = [Math.sin(a * angle) / Math.sin(angle), Math.sin(b * angle) / Math.sin(angle)];
  }
  return start.map((value, i) => a * value + b * end[i]);
}
