/**
 * librope: rotary position embeddings and the paged KV cache that they feed, for Bun and Deno.
 *
 * Nothing happens at import; librope.so is opened by the first call that needs it.
 *
 * @module
 */
export {
  type Fault,
  RopeArgumentError,
  RopeDeviceError,
  RopeDisposedError,
  RopeError,
  type RopeErrorDetails,
  RopeFatalError,
  RopeFaultError,
  RopeLibraryError,
  RopeOutOfMemoryError,
} from "./src/errors.ts";
export { version } from "./src/native/library.ts";
export { type DeviceInfo, type LibraryInfo, libraryInfo } from "./src/device/info.ts";
export { Device, type DeviceLike, type DeviceMemory } from "./src/device/device.ts";
export { DeviceEvent } from "./src/device/event.ts";
export { Graph } from "./src/device/graph.ts";
export { Stream } from "./src/device/stream.ts";
export type { DType, Float8DType, HostArray, HostArrayOf, HostArrays } from "./src/tensor/dtype.ts";
export { fromBfloat16, fromFloat8, toBfloat16, toFloat8 } from "./src/tensor/convert.ts";
export { Tensor, type TensorOptions } from "./src/tensor/tensor.ts";
export {
  applyLlama31Rope,
  applyLlama31RopeInplace,
  type ApplyLlama31RopeInplaceOptions,
  type ApplyLlama31RopeOptions,
  applyLlama31RopePosIds,
  applyLlama31RopePosIdsInplace,
  type ApplyLlama31RopePosIdsInplaceOptions,
  type ApplyLlama31RopePosIdsOptions,
  applyRope,
  applyRopeInplace,
  type ApplyRopeInplaceOptions,
  type ApplyRopeOptions,
  applyRopePosIds,
  applyRopePosIdsInplace,
  type ApplyRopePosIdsInplaceOptions,
  type ApplyRopePosIdsOptions,
} from "./src/rope/functions.ts";
export type { CosSinCacheOptions, CosSinOptions } from "./src/rope/cos_sin.ts";
export {
  applyRopeWithCosSinCache,
  applyRopeWithCosSinCacheInplace,
  type ApplyRopeWithCosSinCacheInplaceOptions,
  type ApplyRopeWithCosSinCacheOptions,
  type CosSinTable,
} from "./src/rope/table.ts";
export { RotaryEmbedding, type RotaryEmbeddingOptions } from "./src/rope/embedding.ts";
export type { QScaling } from "./src/rope/q_scale.ts";
export {
  mlaRopeQuantizeFp8,
  type MlaRopeQuantizeFp8Options,
  type QuantizedRope,
  type QuantizeFp8Options,
  type QuantizeFp8Out,
  ropeQuantizeFp8,
  type RopeQuantizeFp8Options,
} from "./src/rope/quantize.ts";
export {
  type ApplyRopeAppendOptions,
  applyRopeAppendPagedKVCache,
  type RopeQuantizeFp8AppendOptions,
  ropeQuantizeFp8AppendPagedKVCache,
} from "./src/rope/append.ts";
export type { SourceOptions } from "./src/rope/source.ts";
export { buildRopeCache, type RopeCacheOptions } from "./src/rope/cache.ts";
export type { FromConfigOptions } from "./src/rope/config.ts";
export type {
  Angles,
  AppendOptions,
  CallOptions,
  ForwardOptions,
  FusedOptions,
  Indices,
  InplaceOptions,
  Llama31Options,
  NormOptions,
  Pairing,
  PlacementOptions,
  QuantizeOptions,
  RopeInplaceOptions,
  RopeOptions,
  RotateOptions,
} from "./src/rope/options.ts";
export type {
  CommonScaling,
  DefaultScaling,
  DynamicScaling,
  LinearScaling,
  Llama3Scaling,
  LongRopeScaling,
  NtkScaling,
  ProportionalScaling,
  RopeScaling,
  YarnScaling,
} from "./src/rope/scaling.ts";
export { appendPagedKVCache, type AppendPagedKVCacheOptions, appendPagedMLAKVCache } from "./src/kv/append.ts";
export { type CacheLayout, PagedKVCache, type PagedKVCacheOptions, PagedMLACache, type PagedMLACacheOptions } from "./src/kv/cache.ts";
export { type PageTable, type ShiftOptions, shiftPagedKVCache } from "./src/kv/shift.ts";
export { getBatchIndicesPositions, getSeqLens } from "./src/kv/tables.ts";
export type { AppendTarget, PageTarget, SlotTarget } from "./src/kv/target.ts";
