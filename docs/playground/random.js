// torch's normal numbers of a CPU generator: MT19937 and Box–Muller in blocks of sixteen. The same seed is the same picture.
const SIZE = 624, SHIFT = 397, BLOCK = 16, BITS = 24;

/** MT19937 with a 32-bit seed: a function that gives the next 32 bits. @param {number} seed */
function twister(seed) {
  const state = new Uint32Array(SIZE);
  state[0] = seed;
  for (let i = 1; i < SIZE; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let next = SIZE;
  function renew() {
    for (let i = 0; i < SIZE; i++) {
      const joined = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    next = 0;
  }
  return () => {
    if (next === SIZE) renew();
    let bits = state[next++];
    bits ^= bits >>> 11;
    bits ^= (bits << 7) & 0x9d2c5680;
    bits ^= (bits << 15) & 0xefc60000;
    return (bits ^ (bits >>> 18)) >>> 0;
  };
}

/** Eight pairs of uniform numbers become normal ones, in place. @param {Float32Array} block */
function boxMuller(block) {
  for (let i = 0; i < BLOCK / 2; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[i])), angle = 2 * Math.PI * block[i + BLOCK / 2];
    block[i] = radius * Math.cos(angle);
    block[i + BLOCK / 2] = radius * Math.sin(angle);
  }
}

/**
 * torch.randn(count, generator=torch.Generator().manual_seed(seed)), for counts of sixteen and more.
 * @param {number} seed a whole number from 0; the lower 32 bits count
 * @param {number} count
 */
export function randn(seed, count) {
  const bits = twister(Number(BigInt(seed) & 0xffffffffn));
  const uniform = () => (bits() & (2 ** BITS - 1)) / 2 ** BITS;
  const numbers = Float32Array.from({ length: count }, uniform);
  for (let at = 0; at + BLOCK <= count; at += BLOCK) boxMuller(numbers.subarray(at, at + BLOCK));
  if (count % BLOCK) { // the last sixteen are drawn anew
    const last = numbers.subarray(count - BLOCK);
    last.forEach((_, i) => last[i] = uniform());
    boxMuller(last);
  }
  return numbers;
}
