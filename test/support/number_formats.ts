// The number formats by their definitions, in BigInt arithmetic: the oracle for dtype conversions. Shares nothing with the library.
import type { DType } from "../../mod.ts";

/** A value, exactly: +-mantissa * 2^exponent, an infinity or a NaN. */
export interface Exact {
  readonly kind: "finite" | "infinite" | "nan";
  readonly negative: boolean;
  readonly mantissa: bigint;
  readonly exponent: number;
}

/** A binary floating-point format: IEEE 754's, or OCP's 8-bit ones. */
export interface FloatFormat {
  readonly bits: number;
  /** Significant bits, the hidden one included. */
  readonly precision: number;
  readonly bias: number;
  /** The code of the largest finite value. */
  readonly largest: bigint;
  /** What is beyond the largest value: its code, or the largest value itself where the format saturates. */
  readonly overflow: bigint;
  /** The code of +infinity; float8_e4m3fn has none. */
  readonly infinity: bigint | null;
}

/** Integers of `bits` bits. */
export interface IntegerFormat {
  readonly bits: number;
  readonly least: bigint;
  readonly most: bigint;
}

function ieee(bits: number, precision: number): FloatFormat {
  const infinity = ((1n << BigInt(bits - precision)) - 1n) << BigInt(precision - 1);
  return { bits, precision, bias: 2 ** (bits - precision - 1) - 1, largest: infinity - 1n, overflow: infinity, infinity };
}

export type FloatDType = Exclude<DType, IntegerDType>;
export type IntegerDType = "int64" | "int32" | "uint8";

export const floatFormats: Readonly<Record<FloatDType, FloatFormat>> = {
  float64: ieee(64, 53),
  float32: ieee(32, 24),
  float16: ieee(16, 11),
  bfloat16: ieee(16, 8),
  float8_e4m3fn: { bits: 8, precision: 4, bias: 7, largest: 0x7en, overflow: 0x7en, infinity: null },
  float8_e5m2: { ...ieee(8, 3), overflow: 0x7bn },
};

export const integerFormats: Readonly<Record<IntegerDType, IntegerFormat>> = {
  int64: { bits: 64, least: -(1n << 63n), most: (1n << 63n) - 1n },
  int32: { bits: 32, least: -(1n << 31n), most: (1n << 31n) - 1n },
  uint8: { bits: 8, least: 0n, most: 255n },
};

export function isFloat(dtype: DType): dtype is FloatDType {
  return dtype in floatFormats;
}

/** Bits of an element. */
export function bitsOf(dtype: DType): number {
  return isFloat(dtype) ? floatFormats[dtype].bits : integerFormats[dtype].bits;
}

function decodeFloat(format: FloatFormat, code: bigint): Exact {
  const negative = code >> BigInt(format.bits - 1) === 1n;
  const magnitude = code & ((1n << BigInt(format.bits - 1)) - 1n);
  if (magnitude === format.infinity) return { kind: "infinite", negative, mantissa: 0n, exponent: 0 };
  if (magnitude > format.largest) return { kind: "nan", negative, mantissa: 0n, exponent: 0 };
  const field = Number(magnitude >> BigInt(format.precision - 1));
  const fraction = magnitude & ((1n << BigInt(format.precision - 1)) - 1n);
  const hidden = field === 0 ? 0n : 1n << BigInt(format.precision - 1);
  return { kind: "finite", negative, mantissa: hidden | fraction, exponent: Math.max(field, 1) - format.bias - (format.precision - 1) };
}

/** The code of a value rounded to nearest, ties to even; null for NaN, which has many. */
function encodeFloat(format: FloatFormat, value: Exact): bigint | null {
  if (value.kind === "nan") return null;
  const sign = value.negative ? 1n << BigInt(format.bits - 1) : 0n;
  if (value.kind === "infinite") return sign | format.overflow;
  if (value.mantissa === 0n) return sign;
  const least = 1 - format.bias;
  const top = Math.max(value.exponent + value.mantissa.toString(2).length - 1, least);
  const shift = top - (format.precision - 1) - value.exponent; // bits of the mantissa below the format's last one
  let significand = value.mantissa << BigInt(Math.max(-shift, 0));
  if (shift > 0) {
    const unit = 1n << BigInt(shift), rest = value.mantissa % unit;
    significand = value.mantissa / unit;
    if (rest * 2n > unit || (rest * 2n === unit && significand % 2n === 1n)) significand += 1n;
  }
  const code = significand + (BigInt(top - least) << BigInt(format.precision - 1)); // the hidden bit adds 1 to the exponent's field
  return sign | (code > format.largest ? format.overflow : code);
}

function encodeInteger(format: IntegerFormat, value: Exact): bigint {
  if (value.kind === "nan") return 0n;
  // What is beyond 2^64 is as good as infinite.
  const infinite = value.kind === "infinite" || (value.exponent > 64 && value.mantissa !== 0n);
  const whole = infinite
    ? 1n << 64n
    : value.exponent < 0
    ? value.mantissa >> BigInt(-value.exponent)
    : value.mantissa << BigInt(value.exponent);
  const signed = value.negative ? -whole : whole;
  return BigInt.asUintN(format.bits, signed > format.most ? format.most : signed < format.least ? format.least : signed);
}

/** The exact value of an element whose bits are `code`. */
export function decode(dtype: DType, code: bigint): Exact {
  if (isFloat(dtype)) return decodeFloat(floatFormats[dtype], code);
  const { bits, least } = integerFormats[dtype];
  const value = least < 0n ? BigInt.asIntN(bits, code) : code;
  return { kind: "finite", negative: value < 0n, mantissa: value < 0n ? -value : value, exponent: 0 };
}

/** The bits of the element that a value becomes; null for NaN. */
export function encode(dtype: DType, value: Exact): bigint | null {
  return isFloat(dtype) ? encodeFloat(floatFormats[dtype], value) : encodeInteger(integerFormats[dtype], value);
}

/** The exact value of a double. */
export function exactly(value: number): Exact {
  return decode("float64", new BigUint64Array(new Float64Array([value]).buffer)[0] ?? 0n);
}
