// Cosines and sines of rotary angles in fixed point of 192 bits: what `exact` angles are measured with. BigInt all the way, float64 at the end.
const bits = 192n;
const one = 1n << bits;

const multiply = (a: bigint, b: bigint): bigint => (a * b) >> bits;
const divide = (a: bigint, b: bigint): bigint => (a << bits) / b;

// Sum of term / n (n odd, signs alternating or not): atan and atanh of small x.
function oddSeries(x: bigint, alternating: boolean): bigint {
  const square = multiply(x, x);
  let power = x;
  let sum = 0n;
  for (let n = 1n; power !== 0n && power !== -1n; n += 2n) {
    sum += alternating && n % 4n === 3n ? -power / n : power / n;
    power = multiply(power, square);
  }
  return sum;
}

const pi = 16n * oddSeries(one / 5n, true) - 4n * oddSeries(one / 239n, true); // Machin
const ln2 = 2n * oddSeries(one / 3n, false);

function ln(x: bigint): bigint {
  let shift = 0n;
  while (x >= 2n * one) {
    x >>= 1n;
    shift += 1n;
  }
  return shift * ln2 + 2n * oddSeries(divide(x - one, x + one), false);
}

function exp(x: bigint): bigint {
  const halvings = x < 0n ? -((-x + ln2 - 1n) / ln2) : x / ln2;
  const rest = x - halvings * ln2;
  let term = one;
  let sum = 0n;
  for (let n = 1n; term !== 0n; n += 1n) {
    sum += term;
    term = multiply(term, rest) / n;
  }
  return halvings < 0n ? sum >> -halvings : sum << halvings;
}

/** theta^(-2j/R) times 2^192. `theta` is an integer. */
export function oracleFrequency(theta: number, pair: number, rotaryDim: number): bigint {
  return exp(-(ln(BigInt(theta) << bits) * BigInt(2 * pair)) / BigInt(rotaryDim));
}

/** A float64 times 2^192, exactly. */
export function oracleNumber(value: number): bigint {
  let scaled = value;
  let exponent = 0n;
  while (!Number.isInteger(scaled)) {
    scaled *= 2;
    exponent += 1n;
  }
  return exponent > bits ? (BigInt(scaled) << bits) >> exponent : BigInt(scaled) << (bits - exponent);
}

function toNumber(x: bigint): number {
  return Number(x >> (bits - 70n)) / 2 ** 70;
}

/** (cos, sin) of position * frequency, the frequency times 2^192. */
export function oracleCosSin(position: bigint, frequency: bigint): { cos: number; sin: number } {
  return oracleCosSinOf(position * frequency);
}

/** (cos, sin) of an angle in radians times 2^192. */
export function oracleCosSinOf(radians: bigint): { cos: number; sin: number } {
  const quarter = pi / 2n;
  let quadrant = (2n * radians + quarter) / (2n * quarter);
  if (radians < 0n) quadrant -= 1n; // division truncates; one quarter more or less does not matter
  const x = radians - quadrant * quarter;
  const square = multiply(x, x);
  let cosTerm = one;
  let sinTerm = x;
  let cos = 0n;
  let sin = 0n;
  for (let n = 1n; cosTerm !== 0n && cosTerm !== -1n; n += 2n) {
    cos += cosTerm;
    sin += sinTerm;
    cosTerm = -multiply(cosTerm, square) / (n * (n + 1n));
    sinTerm = -multiply(sinTerm, square) / ((n + 1n) * (n + 2n));
  }
  const c = toNumber(cos);
  const s = toNumber(sin);
  switch (((quadrant % 4n) + 4n) % 4n) {
    case 0n:
      return { cos: c, sin: s };
    case 1n:
      return { cos: -s, sin: c };
    case 2n:
      return { cos: -c, sin: -s };
    default:
      return { cos: s, sin: -c };
  }
}
