/**
 * librope: rotary position embeddings for Bun and Deno.
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
export { type CosSinCacheOptions, type CosSinOptions, RotaryEmbedding, type RotaryEmbeddingOptions } from "./src/rope/embedding.ts";
export { buildRopeCache, type RopeCacheOptions } from "./src/rope/cache.ts";
export type { FromConfigOptions } from "./src/rope/config.ts";
export type {
  Angles,
  CallOptions,
  ForwardOptions,
  Indices,
  InplaceOptions,
  Llama31Options,
  Pairing,
  PlacementOptions,
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
