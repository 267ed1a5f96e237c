// The element types: their names, sizes, and the typed arrays that hold them.
import { argumentError, describe } from "../arguments.ts";
import { enums } from "../native/layouts.ts";

/** The type of a tensor's elements. */
export type DType = "float64" | "float32" | "float16" | "bfloat16" | "float8_e4m3fn" | "float8_e5m2" | "int64" | "int32" | "uint8";

/** The typed arrays that tensors are made from and read into. bfloat16 is held by a Uint16Array, both float8 types by a Uint8Array. */
export type HostArray = Float64Array | Float32Array | Float16Array | Uint16Array | Uint8Array | Int32Array | BigInt64Array;

/** Which typed array holds the elements of a dtype. */
export interface HostArrays {
  /** 64-bit IEEE floats */
  float64: Float64Array;
  /** 32-bit IEEE floats */
  float32: Float32Array;
  /** 16-bit IEEE floats */
  float16: Float16Array;
  /** The upper 16 bits of a float32, as integers */
  bfloat16: Uint16Array;
  /** 4 bits of exponent, 3 of mantissa, no infinities, as integers */
  float8_e4m3fn: Uint8Array;
  /** 5 bits of exponent, 2 of mantissa, as integers */
  float8_e5m2: Uint8Array;
  /** 64-bit integers */
  int64: BigInt64Array;
  /** 32-bit integers */
  int32: Int32Array;
  /** Bytes */
  uint8: Uint8Array;
}

/** The typed array that holds elements of dtype D. */
export type HostArrayOf<D extends DType> = HostArrays[D];

/** The dtypes of 8-bit floats: 4 bits of exponent and 3 of mantissa, without infinities, or 5 and 2. */
export type Float8DType = "float8_e4m3fn" | "float8_e5m2";

/** What librope knows of a dtype. */
export interface DTypeInfo {
  /** Its number in rope.h. */
  readonly code: number;
  /** Bytes of an element. */
  readonly bytes: number;
  /** The name of the typed array that holds it. */
  readonly array: string;
  /** Whether it holds integers only. */
  readonly isInteger: boolean;
  /** A typed array over memory. */
  readonly over: (buffer: ArrayBufferLike, byteOffset: number, length: number) => HostArray;
}

const float8 = { bytes: 1, array: "Uint8Array", isInteger: false, over: overUint8 };

/** Everything known of each dtype. */
export const dtypes: Readonly<Record<DType, DTypeInfo>> = {
  float64: { code: enums.FLOAT64, bytes: 8, array: "Float64Array", isInteger: false, over: (b, o, n) => new Float64Array(b, o, n) },
  float32: { code: enums.FLOAT32, bytes: 4, array: "Float32Array", isInteger: false, over: (b, o, n) => new Float32Array(b, o, n) },
  float16: { code: enums.FLOAT16, bytes: 2, array: "Float16Array", isInteger: false, over: (b, o, n) => new Float16Array(b, o, n) },
  bfloat16: { code: enums.BFLOAT16, bytes: 2, array: "Uint16Array", isInteger: false, over: (b, o, n) => new Uint16Array(b, o, n) },
  float8_e4m3fn: { code: enums.FLOAT8_E4M3FN, ...float8 },
  float8_e5m2: { code: enums.FLOAT8_E5M2, ...float8 },
  int64: {
    code: enums.INT64,
    bytes: 8,
    array: "BigInt64Array",
    isInteger: true,
    over: (b, o, n) => new BigInt64Array(b, o, n),
  },
  int32: {
    code: enums.INT32,
    bytes: 4,
    array: "Int32Array",
    isInteger: true,
    over: (b, o, n) => new Int32Array(b, o, n),
  },
  uint8: { code: enums.UINT8, bytes: 1, array: "Uint8Array", isInteger: true, over: overUint8 },
};

function overUint8(buffer: ArrayBufferLike, byteOffset: number, length: number): Uint8Array {
  return new Uint8Array(buffer, byteOffset, length);
}

/** Their names. */
export const dtypeNames: readonly DType[] = Object.keys(dtypes) as DType[];

/** Whether a value names a dtype. */
export function isDType(value: unknown): value is DType {
  return typeof value === "string" && Object.hasOwn(dtypes, value);
}

/** A dtype, or `absent` where there is none. */
export function checkDType<Absent extends DType | undefined>(
  operation: string,
  argument: string,
  value: unknown,
  absent: Absent,
): DType | Absent {
  if (value === undefined) return absent;
  if (isDType(value)) return value;
  throw argumentError(operation, argument, `one of ${dtypeNames.join(", ")}`, describe(value));
}
