// Conversions between dtypes against the definitions of the formats: every bit pattern decoded, every halfway case and its neighbours encoded,
// all pairs of dtypes on strided tensors.
import { describe, expect, test } from "bun:test";
import { Device, type DType, fromBfloat16, fromFloat8, type HostArray, Tensor, toBfloat16, toFloat8 } from "../../mod.ts";
import { bitsOf, decode, encode, exactly, type FloatDType, floatFormats, isFloat } from "../support/number_formats.ts";

const devices = Device.list().filter((info) => info.usable).map((info) => info.name as "cpu");
const narrow = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] as const satisfies readonly FloatDType[];
type Narrow = typeof narrow[number];
const all: readonly DType[] = ["float64", "float32", ...narrow, "int64", "int32", "uint8"];

// ---- bits ----------------------------------------------------------------------------------------------------------------------

/** The typed array of a dtype over elements given by their bits. */
function arrayOf(dtype: DType, codes: ArrayLike<bigint>): HostArray {
  const buffer = new ArrayBuffer(codes.length * bitsOf(dtype) / 8);
  const view = codeView(dtype, buffer);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i] ?? 0n;
    if (view instanceof BigUint64Array) view[i] = code;
    else view[i] = Number(code);
  }
  switch (dtype) {
    case "float64":
      return new Float64Array(buffer);
    case "float32":
      return new Float32Array(buffer);
    case "float16":
      return new Float16Array(buffer);
    case "bfloat16":
      return new Uint16Array(buffer);
    case "int64":
      return new BigInt64Array(buffer);
    case "int32":
      return new Int32Array(buffer);
    default:
      return new Uint8Array(buffer);
  }
}

function codeView(
  dtype: DType,
  buffer: ArrayBufferLike,
  offset = 0,
  bytes = buffer.byteLength,
): BigUint64Array | Uint32Array | Uint16Array | Uint8Array {
  switch (bitsOf(dtype)) {
    case 64:
      return new BigUint64Array(buffer, offset, bytes / 8);
    case 32:
      return new Uint32Array(buffer, offset, bytes / 4);
    case 16:
      return new Uint16Array(buffer, offset, bytes / 2);
    default:
      return new Uint8Array(buffer, offset, bytes);
  }
}

/** The bits of a tensor's elements in row-major order. */
function codesOf(tensor: Tensor): ArrayLike<number | bigint> {
  const data = tensor.readBlocking();
  return codeView(tensor.dtype, data.buffer, data.byteOffset, data.byteLength);
}

function isNaNCode(dtype: DType, code: bigint): boolean {
  return isFloat(dtype) && decode(dtype, code).kind === "nan";
}

/** What differs, the first few: elements must have these bits; null and a sign stand for any NaN of it. */
function differences(
  dtype: DType,
  actual: ArrayLike<number | bigint>,
  expected: readonly (bigint | "nan" | "-nan")[],
  name: (i: number) => string,
): string[] {
  const out: string[] = actual.length === expected.length ? [] : [`${actual.length} elements for ${expected.length}`];
  for (let i = 0; i < expected.length && out.length < 5; i++) {
    const got = BigInt(actual[i] ?? 0), want = expected[i] ?? 0n;
    const right = typeof want === "bigint"
      ? got === want
      : isNaNCode(dtype, got) && (got >> BigInt(bitsOf(dtype) - 1) === 1n) === (want === "-nan");
    if (!right) out.push(`${name(i)}: got 0x${got.toString(16)}, want ${typeof want === "bigint" ? "0x" + want.toString(16) : want}`);
  }
  return out;
}

/** What element `code` of a dtype becomes in another. */
function converted(from: DType, code: bigint, to: DType): bigint | "nan" | "-nan" {
  if (from === to) return code;
  const value = decode(from, code);
  return encode(to, value) ?? (value.negative ? "-nan" : "nan");
}

// ---- decoding ------------------------------------------------------------------------------------------------------------------

/** The value of a code, by the formula of the standard. */
function valueOf(dtype: Narrow, code: number): number {
  const { bits, precision, bias, largest, infinity } = floatFormats[dtype];
  const sign = code >> (bits - 1) ? -1 : 1, magnitude = code & (2 ** (bits - 1) - 1);
  if (infinity !== null && magnitude === Number(infinity)) return sign * Infinity;
  if (magnitude > Number(largest)) return NaN;
  const scale = 2 ** (precision - 1), field = Math.floor(magnitude / scale), fraction = (magnitude % scale) / scale;
  return sign * (field === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (field - bias));
}

function everyCode(dtype: Narrow): number[] {
  return Array.from({ length: 2 ** floatFormats[dtype].bits }, (_, code) => code);
}

/** Where two lists of numbers differ: the signs of zeros count, all NaNs are one. */
function unequal(actual: ArrayLike<number>, expected: readonly number[]): string[] {
  const out: string[] = actual.length === expected.length ? [] : [`${actual.length} elements for ${expected.length}`];
  for (let i = 0; i < expected.length && out.length < 5; i++) {
    if (!Object.is(actual[i], expected[i])) out.push(`[${i}]: got ${actual[i]}, want ${expected[i]}`);
  }
  return out;
}

describe.each(devices)("conversions on %s", (device) => {
  describe.each(narrow)("%s", (dtype) => {
    const codes = everyCode(dtype), values = codes.map((code) => valueOf(dtype, code));

    test("decodes every bit pattern", () => {
      const tensor = Tensor.from(arrayOf(dtype, codes.map(BigInt)), [codes.length], { dtype, device });
      expect(unequal(tensor.to("float64").readBlocking() as Float64Array, values)).toEqual([]);
      expect(unequal(tensor.to("float32").readBlocking() as Float32Array, values)).toEqual([]);
      // And back again: the same bits, but for the NaNs.
      const expected = codes.map((code) => Number.isNaN(values[code]) ? nanOf(dtype, code) : saturated(dtype, code));
      for (const wide of ["float64", "float32"] as const) {
        expect(differences(dtype, codesOf(tensor.to(wide).to(dtype)), expected, (i) => `0x${i.toString(16)}`)).toEqual([]);
      }
    });

    test("rounds every halfway case to even, its neighbours to the nearest", () => {
      const cases = halfwayCases(dtype);
      const source = Tensor.from(cases.values, [cases.values.length], { device });
      const name = (i: number): string => `${cases.values[i]}`;
      expect(differences(dtype, codesOf(source.to(dtype)), cases.codes, name)).toEqual([]);
      expect(differences(dtype, codesOf(Tensor.from([...cases.values], [cases.values.length], { dtype, device })), cases.codes, name))
        .toEqual([]);
      const singles = halfwayCases(dtype, true);
      const floats = Tensor.from(Float32Array.from(singles.values), [singles.values.length], { device });
      expect(differences(dtype, codesOf(floats.to(dtype)), singles.codes, (i) => `${singles.values[i]} (float32)`)).toEqual([]);
    });

    test("rounds integers once, those beyond 2^53 too", () => {
      const values = integerCases(dtype);
      const codes64 = values.map((value) => BigInt.asUintN(64, value));
      const tensor = Tensor.from(arrayOf("int64", codes64), [values.length], { device });
      const expected = codes64.map((code) => converted("int64", code, dtype));
      expect(differences(dtype, codesOf(tensor.to(dtype)), expected, (i) => `${values[i]}`)).toEqual([]);
      const small = values.filter((value) => BigInt.asIntN(32, value) === value);
      const ints = Tensor.from(Int32Array.from(small, Number), [small.length], { device });
      const smallExpected = small.map((value) => converted("int64", BigInt.asUintN(64, value), dtype));
      expect(differences(dtype, codesOf(ints.to(dtype)), smallExpected, (i) => `${small[i]} (int32)`)).toEqual([]);
    });

    test("what is beyond the largest value", () => {
      const { largest, overflow } = floatFormats[dtype];
      const step = valueOf(dtype, Number(largest)) - valueOf(dtype, Number(largest) - 1);
      const edge = valueOf(dtype, Number(largest)) + step / 2; // the first that rounds away, if the format went on
      const beyond = [edge, neighbour(edge, 1), edge * 2, 1e30 + edge, 1e300, Infinity];
      const values = [...beyond, neighbour(edge, -1), valueOf(dtype, Number(largest))];
      const expected = [...beyond.map(() => overflow), largest, largest];
      const sign = 1n << BigInt(bitsOf(dtype) - 1);
      for (const [flip, bit] of [[1, 0n], [-1, sign]] as const) {
        const tensor = Tensor.from(Float64Array.from(values, (value) => value * flip), [values.length], { device });
        expect(differences(dtype, codesOf(tensor.to(dtype)), expected.map((code) => code | bit), (i) => `${flip * (values[i] ?? 0)}`))
          .toEqual([]);
      }
    });
  });

  test("NaN keeps its sign, and in 16 bits the top of its payload, made quiet", () => {
    const payloads = [1n, 0x123456n, 0x3fffffn, 0x400000n, 0x5a5a5an, 0x7fffffn];
    const codes = payloads.flatMap((payload) => [0x7f800000n | payload, 0xff800000n | payload]);
    const tensor = Tensor.from(arrayOf("float32", codes), [codes.length], { device });
    const half = codes.map((code) => ((code >> 16n) & 0x8000n) | 0x7e00n | ((code >> 13n) & 0x3ffn));
    const bfloat = codes.map((code) => (code >> 16n) | 0x40n);
    const name = (i: number): string => `0x${codes[i]?.toString(16)}`;
    expect(differences("float16", codesOf(tensor.to("float16")), half, name)).toEqual([]);
    expect(differences("bfloat16", codesOf(tensor.to("bfloat16")), bfloat, name)).toEqual([]);
    expect(differences("float16", codesOf(tensor.to("float64").to("float16")), half, name)).toEqual([]);
    expect(differences("bfloat16", codesOf(tensor.to("float64").to("bfloat16")), bfloat, name)).toEqual([]);
    for (const dtype of ["float8_e4m3fn", "float8_e5m2", "float64"] as const) {
      const expected = codes.map((code) => code >> 31n ? "-nan" as const : "nan" as const);
      expect(differences(dtype, codesOf(tensor.to(dtype)), expected, name)).toEqual([]);
    }
  });

  test("float64 and int64 to float32, int64 to float64: halfway cases", () => {
    const doubles: number[] = [], integers: bigint[] = [];
    for (let i = 0; i < 2000; i++) {
      const single = Math.fround(random() * 2 ** (random() * 276 - 149)), bits = new Uint32Array(Float32Array.of(single).buffer)[0] ?? 0;
      const next = new Float32Array(Uint32Array.of(bits + 1).buffer)[0] ?? 0, middle = (single + next) / 2;
      doubles.push(middle, neighbour(middle, 1), neighbour(middle, -1), -middle, -neighbour(middle, 1), -neighbour(middle, -1));
      for (const precision of [24, 53]) {
        const shift = BigInt(Math.floor(random() * (63 - precision)));
        const top = (1n << BigInt(precision - 1)) | BigInt.asUintN(precision - 1, randomBits());
        const half = shift === 0n ? top : (top << shift) + (1n << (shift - 1n));
        for (const value of [half, half + 1n, half - 1n]) integers.push(value, -value);
      }
    }
    doubles.push(
      3.4028235677973366e38,
      neighbour(3.4028235677973366e38, -1),
      2 ** -150,
      neighbour(2 ** -150, 1),
      0,
      -0,
      5e-324,
      -5e-324,
      1e300,
    );
    const source = Tensor.from(Float64Array.from(doubles), [doubles.length], { device });
    expect(unequal(source.to("float32").readBlocking() as Float32Array, doubles.map(Math.fround))).toEqual([]);
    const whole = Tensor.from(BigInt64Array.from(integers), [integers.length], { device });
    for (const dtype of ["float32", "float64"] as const) {
      const expected = integers.map((value) => converted("int64", BigInt.asUintN(64, value), dtype));
      expect(differences(dtype, codesOf(whole.to(dtype)), expected, (i) => `${integers[i]}`)).toEqual([]);
    }
  });

  test("floats to integers truncate and saturate, NaN gives 0; integers saturate", () => {
    const values = [
      0,
      -0,
      0.9,
      -0.9,
      1.5,
      -1.5,
      254.99,
      255,
      255.5,
      256,
      -1,
      -255,
      1e10,
      -1e10,
      1e19,
      -1e19,
      1e300,
      -1e300,
      Infinity,
      -Infinity,
      NaN,
    ];
    for (const edge of [2 ** 31, 2 ** 53, 2 ** 63]) {
      for (const near of [edge, neighbour(edge, -1), neighbour(edge, 1), edge - 0.5, edge - 1, edge - 1.5, edge - 2, edge + 1]) {
        values.push(near, -near);
      }
    }
    const integers = [
      0n,
      -1n,
      255n,
      256n,
      -(2n ** 31n),
      -(2n ** 31n) - 1n,
      2n ** 31n - 1n,
      2n ** 31n,
      2n ** 53n + 1n,
      2n ** 63n - 1n,
      -(2n ** 63n),
    ];
    const floats = Tensor.from(Float64Array.from(values), [values.length], { device });
    const singles = Tensor.from(Float32Array.from(values), [values.length], { device });
    const wide = Tensor.from(BigInt64Array.from(integers), [integers.length], { device });
    for (const dtype of ["int64", "int32", "uint8"] as const) {
      const truncated = (value: number): bigint => encode(dtype, exactly(value)) ?? 0n;
      expect(differences(dtype, codesOf(floats.to(dtype)), values.map(truncated), (i) => `${values[i]}`)).toEqual([]);
      const rounded = values.map((value) => truncated(Math.fround(value)));
      expect(differences(dtype, codesOf(singles.to(dtype)), rounded, (i) => `${values[i]} (float32)`)).toEqual([]);
      const expected = integers.map((value) => converted("int64", BigInt.asUintN(64, value), dtype) as bigint);
      expect(differences(dtype, codesOf(wide.to(dtype)), expected, (i) => `${integers[i]}`)).toEqual([]);
    }
  });

  // A source of every dtype, cut and turned, copied into a cut and turned target of every dtype; what lies around the target stays.
  test.each(all)("all dtypes from %s on strided tensors", (from) => {
    const base = Array.from({ length: 5 * 23 * 11 }, () => sample(from));
    const source = Tensor.from(arrayOf(from, base), [5, 23, 11], { dtype: from, device }).slice(1, 2, 22).slice(2, 1, 10).transpose(0, 2); // [9, 20, 5]
    const values: bigint[] = [];
    for (let i = 0; i < 9; i++) {
      for (let j = 0; j < 20; j++) for (let k = 0; k < 5; k++) values.push(base[(k * 23 + j + 2) * 11 + i + 1] ?? 0n);
    }
    expect(differences(from, codesOf(source), values, (i) => `element ${i}`)).toEqual([]);

    for (const to of all) {
      const expected = values.map((code) => converted(from, code, to));
      const name = (i: number): string => `${from} 0x${values[i]?.toString(16)} to ${to}`;
      expect(differences(to, codesOf(source.to(to)), expected, name)).toEqual([]);

      const poison = Array.from({ length: 6 * 12 * 21 }, () => sample(to));
      const around = Tensor.from(arrayOf(to, poison), [6, 12, 21], { dtype: to, device });
      around.slice(0, 1, 6).slice(1, 2, 11).slice(2, 0, 20).transpose(0, 1).transpose(1, 2).copyFrom(source); // [9, 20, 5]
      const whole: (bigint | "nan" | "-nan")[] = [...poison];
      for (let i = 0; i < 9; i++) {
        for (let j = 0; j < 20; j++) {
          for (let k = 0; k < 5; k++) whole[((k + 1) * 12 + i + 2) * 21 + j] = expected[(i * 20 + j) * 5 + k] ?? 0n;
        }
      }
      expect(differences(to, codesOf(around), whole, (i) => `${from} to ${to}, element ${i} of the target`)).toEqual([]);
    }
  });

  // Large enough for several threads, and for the way that transpositions take.
  test.each(all)("from %s, a large matrix and its transpose give the same bits", (from) => {
    const rows = 301, columns = 259;
    const some = Array.from({ length: 1009 }, () => sample(from)),
      codes = Array.from({ length: rows * columns }, (_, i) => some[i % 1009] ?? 0n);
    const matrix = Tensor.from(arrayOf(from, codes), [rows, columns], { dtype: from, device });
    for (const to of all) {
      const straight = codesOf(matrix.to(to)), turned = codesOf(matrix.transpose(0, 1).to(to));
      let wrong = 0;
      for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) if (straight[i * columns + j] !== turned[j * rows + i]) wrong++;
      expect([from, to, wrong]).toEqual([from, to, 0]);
    }
  });
});

// ---- cases ---------------------------------------------------------------------------------------------------------------------

function nanOf(dtype: Narrow, code: number): "nan" | "-nan" {
  return code >> (floatFormats[dtype].bits - 1) ? "-nan" : "nan";
}

/** A code after a round trip: the infinities of float8_e5m2 saturate. */
function saturated(dtype: Narrow, code: number): bigint {
  const { bits, infinity, overflow } = floatFormats[dtype], sign = BigInt(code) & (1n << BigInt(bits - 1));
  return infinity !== null && (BigInt(code) ^ sign) === infinity ? sign | overflow : BigInt(code);
}

/** The double `steps` after a positive one. */
function neighbour(value: number, steps: number): number {
  return new Float64Array(BigInt64Array.of((new BigInt64Array(Float64Array.of(value).buffer)[0] ?? 0n) + BigInt(steps)).buffer)[0] ?? 0;
}

function neighbour32(value: number, steps: number): number {
  return new Float32Array(Int32Array.of((new Int32Array(Float32Array.of(value).buffer)[0] ?? 0) + steps).buffer)[0] ?? 0;
}

/** Between all adjacent finite values: the middle, the doubles (or float32s) beside it, and those beside the value itself; both signs. */
function halfwayCases(dtype: Narrow, single = false): { values: Float64Array; codes: bigint[] } {
  const last = Number(floatFormats[dtype].largest),
    sign = 1n << BigInt(floatFormats[dtype].bits - 1),
    next = single ? neighbour32 : neighbour;
  const values: number[] = [], codes: bigint[] = [];
  const add = (value: number, code: number): void => {
    values.push(value, -value);
    codes.push(BigInt(code), BigInt(code) | sign);
  };
  for (let code = 0; code < last; code++) {
    const low = valueOf(dtype, code), middle = (low + valueOf(dtype, code + 1)) / 2;
    add(low, code);
    add(next(low, 1), code);
    if (code > 0) add(next(low, -1), code);
    add(next(middle, -1), code);
    add(middle, code % 2 === 0 ? code : code + 1);
    add(next(middle, 1), code + 1);
  }
  return { values: Float64Array.from(values), codes };
}

/** Integers at and beside every halfway case below 2^63, and at the ends. */
function integerCases(dtype: Narrow): bigint[] {
  const out = new Set<bigint>([0n, 1n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n), -(2n ** 63n) + 1n]);
  for (let code = 0; code < Number(floatFormats[dtype].largest); code++) {
    const middle = (valueOf(dtype, code) + valueOf(dtype, code + 1)) / 2;
    if (!Number.isInteger(middle) || middle >= 2 ** 63) continue;
    for (const value of [BigInt(middle) - 1n, BigInt(middle), BigInt(middle) + 1n]) out.add(value).add(-value);
  }
  return [...out].filter((value) => BigInt.asIntN(64, value) === value);
}

let state = 0x2545f491;
/** A number in [0, 1), the same ones in every run. */
function random(): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) / 2 ** 32;
}

function randomBits(): bigint {
  return (BigInt(Math.floor(random() * 2 ** 32)) << 32n) | BigInt(Math.floor(random() * 2 ** 32));
}

/** The bits of an element: any pattern, or a value near where other dtypes end. */
function sample(dtype: DType): bigint {
  const any = BigInt.asUintN(bitsOf(dtype), randomBits());
  if (random() < 0.4) return any;
  const edges = [
    1,
    255,
    256,
    448,
    464,
    57344,
    61440,
    65504,
    65520,
    2 ** 31,
    2 ** 53,
    2 ** 54,
    2 ** 63,
    2 ** -14,
    2 ** -24,
    2 ** -133,
    2 ** 127,
  ];
  const edge = edges[Math.floor(random() * edges.length)] ?? 1;
  if (!isFloat(dtype)) {
    return BigInt.asUintN(
      bitsOf(dtype),
      BigInt(Math.trunc(edge % 2 ** 64)) * (random() < 0.5 ? -1n : 1n) + BigInt(Math.floor(random() * 5) - 2),
    );
  }
  const value = neighbour(random() < 0.5 ? edge : edge * random(), Math.floor(random() * 3) - 1) * (random() < 0.5 ? -1 : 1);
  return encode(dtype, exactly(value)) ?? any;
}

// ---- the helpers for numbers ---------------------------------------------------------------------------------------------------

describe("toBfloat16, fromBfloat16, toFloat8, fromFloat8", () => {
  const nans = [NaN, 1, -Infinity, -0];

  test("bfloat16", () => {
    const cases = halfwayCases("bfloat16"), codes = everyCode("bfloat16");
    expect(differences("bfloat16", toBfloat16(cases.values), cases.codes, (i) => `${cases.values[i]}`)).toEqual([]);
    expect(unequal(fromBfloat16(Uint16Array.from(codes)), codes.map((code) => valueOf("bfloat16", code)))).toEqual([]);
    expect([...fromBfloat16(toBfloat16(nans))]).toEqual(nans);
    expect([...toBfloat16([1, 1e39, -1e39, 1 + 2 ** -8, 1 + 2 ** -8 + 2 ** -40])]).toEqual([0x3f80, 0x7f80, 0xff80, 0x3f80, 0x3f81]);
  });

  test.each(["float8_e4m3fn", "float8_e5m2"] as const)("%s", (dtype) => {
    const cases = halfwayCases(dtype), codes = everyCode(dtype), most = valueOf(dtype, Number(floatFormats[dtype].largest));
    expect(differences(dtype, toFloat8(cases.values, dtype), cases.codes, (i) => `${cases.values[i]}`)).toEqual([]);
    expect(unequal(fromFloat8(Uint8Array.from(codes), dtype), codes.map((code) => valueOf(dtype, code)))).toEqual([]);
    expect([...fromFloat8(toFloat8([...nans, Infinity, 1e9], dtype), dtype)]).toEqual([NaN, 1, -most, -0, most, most]);
  });

  test("float8_e4m3fn is the default", () => {
    expect([...toFloat8([448, 1e9, 1])]).toEqual([0x7e, 0x7e, 0x38]);
    expect([...fromFloat8(Uint8Array.of(0x7e, 0x38))]).toEqual([448, 1]);
  });
});
