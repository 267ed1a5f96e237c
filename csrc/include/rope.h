/*
 * librope: rotary position embeddings on CUDA GPUs and on the CPU.
 *
 * The C ABI. Valid C11 and C++. docs/abi.md explains it; the rules in short:
 *   - Every operation is  int32_t rope_<verb>(rope_<verb>_args* args, rope_error* error).  It returns a rope_status; on anything but
 *     ROPE_OK the error record, if there is one, says what was expected and what came. Nothing has been written then (ROPE_FAULT: the bad
 *     rows have not).
 *   - Every block starts with `size`, the bytes the caller knows of. Fields beyond it take their default, which is always 0.
 *   - A tensor is passed by the address of its descriptor and the generation the caller expects there.
 *   - Sizes, strides and offsets are 64-bit; strides are in elements and never negative.
 *   - No exception, signal, exit or print crosses this border; nothing is thread-local; any thread may call.
 */
#ifndef ROPE_H
#define ROPE_H

#include <stdint.h>

#define ROPE_VERSION_MAJOR 0
#define ROPE_VERSION_MINOR 1
#define ROPE_VERSION_PATCH 0
/* Raised with every change that an older caller would misread. */
#define ROPE_ABI_VERSION 1

#define ROPE_MAX_RANK 6
/* Positions beyond +-2^38 are faults: the rounding of the 64-bit frequencies would show. */
#define ROPE_MAX_POSITION (INT64_C(1) << 38)

#if defined(__GNUC__)
#define ROPE_API __attribute__((visibility("default")))
#else
#define ROPE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rope_status {
  ROPE_OK = 0,
  ROPE_ARGUMENT = 1,      /* a value, dtype, shape, stride or overlap that cannot be */
  ROPE_DISPOSED = 2,      /* a tensor or handle that was released, or never was one */
  ROPE_DEVICE = 3,        /* tensors of different devices, no such device */
  ROPE_FAULT = 4,         /* an index or position in the data was out of range */
  ROPE_OUT_OF_MEMORY = 5, /* the numbers are in the record */
  ROPE_FATAL = 6,         /* the device failed and stays failed */
  ROPE_INTERNAL = 7       /* a defect of librope */
} rope_status;

typedef enum rope_dtype {
  ROPE_FLOAT64 = 0,
  ROPE_FLOAT32 = 1,
  ROPE_FLOAT16 = 2,
  ROPE_BFLOAT16 = 3,
  ROPE_FLOAT8_E4M3FN = 4,
  ROPE_FLOAT8_E5M2 = 5,
  ROPE_INT64 = 6,
  ROPE_INT32 = 7,
  ROPE_UINT8 = 8
} rope_dtype;

/* device = kind * 256 + index */
typedef enum rope_device_kind { ROPE_CPU = 0, ROPE_CUDA = 1 } rope_device_kind;

typedef enum rope_fault_code {
  ROPE_FAULT_NONE = 0,
  ROPE_FAULT_POSITION = 1, /* a position beyond +-limit, or an infinite one */
  ROPE_FAULT_INDPTR = 2,   /* indptr decreases, is negative or exceeds the number of tokens, its limit */
  ROPE_FAULT_ROW = 3,      /* a position without a row in the table of cosines and sines, whose rows are the limit */
  ROPE_FAULT_REQUEST = 4,  /* a batch index that is no request, of which there are limit */
  ROPE_FAULT_PLACE = 5,    /* a place in a request that is negative or beyond its pages, which have limit places */
  ROPE_FAULT_PAGE = 6,     /* a page id that is no page of the cache, which has limit */
  ROPE_FAULT_SLOT = 7,     /* a slot that is none of the cache, which has limit */
  ROPE_FAULT_PAGES = 8,    /* an indptr of pages that decreases, is negative or exceeds the number of page ids, its limit */
  ROPE_FAULT_SHARED = 9,   /* a page, value, that stands in the table more than once */
  ROPE_FAULT_LENGTH = 10   /* a length of a last page, or of a sequence, that is negative or beyond limit */
} rope_fault_code;

/* The first index that was out of range, and where it stood. */
typedef struct rope_fault {
  uint32_t code; /* rope_fault_code */
  uint32_t reserved;
  int64_t request; /* batch row or request */
  int64_t index;   /* token, or entry of indptr or of a page table */
  int64_t value;   /* what stood there (an infinite position: the largest int64 of its sign) */
  int64_t limit;   /* what it was compared with */
} rope_fault;

/* Filled by a call that fails. The texts are UTF-8, end in 0, and hold no address. */
typedef struct rope_error {
  uint32_t size;
  int32_t status;
  char operation[32]; /* "rope_rotate" */
  char argument[32];  /* a field of the block, or "" */
  char expected[160];
  char actual[160];
  char advice[256];   /* how to put it right, or "" */
  rope_fault fault;   /* ROPE_FAULT */
  uint64_t requested; /* ROPE_OUT_OF_MEMORY: bytes asked for */
  uint64_t available; /* ROPE_OUT_OF_MEMORY: bytes that are free on the device */
} rope_error;

/* Where a tensor's elements lie. Convertible from and to DLPack's DLTensor. */
typedef struct rope_tensor {
  uint64_t data; /* address of element 0 */
  int64_t shape[ROPE_MAX_RANK];
  int64_t stride[ROPE_MAX_RANK]; /* elements, >= 0 */
  uint8_t dtype;                 /* rope_dtype */
  uint8_t rank;                  /* 0 to ROPE_MAX_RANK */
  uint16_t device;
  uint32_t generation; /* changes when the descriptor is given to another tensor */
  uint64_t extent;     /* bytes usable from data */
} rope_tensor;

/* A tensor argument. tensor = 0: absent. */
typedef struct rope_tensor_ref {
  uint64_t tensor;     /* address of the descriptor */
  uint32_t generation; /* must equal the descriptor's, else ROPE_DISPOSED */
  uint32_t reserved;
} rope_tensor_ref;

/* ---- library ---------------------------------------------------------------------------------------------------------------- */

/* ROPE_ABI_VERSION of the library. This symbol and the next never change. */
ROPE_API int32_t rope_abi_version(void);
/* major * 1000000 + minor * 1000 + patch */
ROPE_API int32_t rope_version(void);
/* Returns its argument: how JavaScript learns the address of an ArrayBuffer. */
ROPE_API uint64_t rope_address(const void* memory);

typedef struct rope_abi_args {
  uint32_t size;
  uint32_t reserved;
  uint64_t text; /* address of `capacity` bytes */
  uint64_t capacity;
  uint64_t length; /* out: bytes of the whole text, also where it did not fit */
} rope_abi_args;
/* Writes the sizes and offsets of every struct of this header, as JSON. */
ROPE_API int32_t rope_abi(rope_abi_args* args, rope_error* error);

/* ---- realms: who owns streams, events, graphs, frequencies and memory ------------------------------------------------------- */

typedef struct rope_realm_args {
  uint32_t size;
  uint32_t reserved;
  uint64_t realm; /* open: out. close: in */
} rope_realm_args;
/* Opens a realm on the calling thread. What is created with its handle is released when it is closed or, at the latest, when that thread
 * ends. Realm 0 is the process: never closed. */
ROPE_API int32_t rope_realm_open(rope_realm_args* args, rope_error* error);
ROPE_API int32_t rope_realm_close(const rope_realm_args* args, rope_error* error);

typedef struct rope_usage_args {
  uint32_t size;
  uint32_t reserved;
  uint64_t handles; /* out: live streams, events, graphs, frequencies and realms of the process */
  uint64_t bytes;   /* out: live bytes of rope_memory_allocate, of the process */
} rope_usage_args;
ROPE_API int32_t rope_usage(rope_usage_args* args, rope_error* error);

/* ---- devices, memory, streams, events, graphs ------------------------------------------------------------------------------- */

typedef struct rope_device_info_args {
  uint32_t size;
  uint16_t device; /* in */
  uint16_t reserved;
  uint64_t memory_bytes; /* out */
  uint32_t cores;        /* out: CPU threads that large calls use, or multiprocessors */
  uint32_t usable;       /* out: 0 or 1 */
  uint32_t capability;   /* out, CUDA: major * 10 + minor */
  uint32_t cuda_runtime; /* out, CUDA: 13000 for 13.0 */
  uint32_t cuda_driver;  /* out, CUDA: the newest runtime that the driver serves */
  uint32_t count;        /* out: devices of this kind */
  char description[128]; /* out: "AMD EPYC, 2 cores, x86-64-v4", "NVIDIA H200" */
} rope_device_info_args;
/* ROPE_DEVICE: no such device, or none that works; the record says why and what to do. */
ROPE_API int32_t rope_device_info(rope_device_info_args* args, rope_error* error);

typedef enum rope_memory_kind {
  ROPE_MEMORY_DEVICE = 0, /* the device's own, ordered on `stream`: usable there at once, elsewhere after rope_stream_order */
  ROPE_MEMORY_PINNED = 1  /* CUDA: host memory that copies to and from the device without blocking */
} rope_memory_kind;

typedef struct rope_memory_args {
  uint32_t size;
  uint16_t device;
  uint16_t kind; /* rope_memory_kind */
  uint64_t realm;
  uint64_t stream;  /* DEVICE: the stream whose order the block joins (allocate) or leaves (release) */
  uint64_t bytes;   /* allocate: in */
  uint64_t address; /* allocate: out, aligned to 64; zeroed on the CPU. release: in */
} rope_memory_args;
ROPE_API int32_t rope_memory_allocate(rope_memory_args* args, rope_error* error);
ROPE_API int32_t rope_memory_release(const rope_memory_args* args, rope_error* error);
/* Gives what the driver's pool of a device keeps back to it; only `device` is read. */
ROPE_API int32_t rope_memory_trim(const rope_memory_args* args, rope_error* error);

typedef struct rope_transfer_args {
  uint32_t size;
  uint16_t device;
  uint16_t reserved;
  uint64_t stream;
  uint64_t source; /* an address of the host or of the device */
  uint64_t target;
  uint64_t bytes;
} rope_transfer_args;
/* Copies bytes between host and device, or within either, on the stream. Pageable host memory has been read when the call returns; what is
 * written to the host is there when the stream has passed. */
ROPE_API int32_t rope_transfer(const rope_transfer_args* args, rope_error* error);

typedef struct rope_stream_args {
  uint32_t size;
  uint16_t device; /* create: in */
  uint16_t reserved;
  uint64_t realm;  /* create: in */
  uint64_t stream; /* create: out. Else in; 0 is the default stream of `device` */
} rope_stream_args;
ROPE_API int32_t rope_stream_create(rope_stream_args* args, rope_error* error);
ROPE_API int32_t rope_stream_destroy(const rope_stream_args* args, rope_error* error);
/* Waits for everything queued on the stream, blocking the thread. ROPE_FAULT, once for each realm, if a kernel met an index out of
 * range. */
ROPE_API int32_t rope_stream_synchronize(const rope_stream_args* args, rope_error* error);

typedef struct rope_order_args {
  uint32_t size;
  uint16_t device;
  uint16_t reserved;
  uint64_t stream; /* waits */
  uint64_t after;  /* for what is queued here so far */
} rope_order_args;
ROPE_API int32_t rope_stream_order(const rope_order_args* args, rope_error* error);

typedef struct rope_event_args {
  uint32_t size;
  uint16_t device;
  uint16_t reserved;
  uint64_t realm;    /* record: in */
  uint64_t stream;   /* record, wait: in */
  uint64_t event;    /* record: out. Else in */
  uint64_t since;    /* elapsed: in, an earlier event */
  double elapsed_ms; /* elapsed: out */
} rope_event_args;
/* A point in a stream's work. */
ROPE_API int32_t rope_event_record(rope_event_args* args, rope_error* error);
/* What is queued on `stream` from now on runs after the event. */
ROPE_API int32_t rope_event_wait(const rope_event_args* args, rope_error* error);
ROPE_API int32_t rope_event_synchronize(const rope_event_args* args, rope_error* error);
ROPE_API int32_t rope_event_elapsed(rope_event_args* args, rope_error* error);
ROPE_API int32_t rope_event_destroy(const rope_event_args* args, rope_error* error);

typedef struct rope_graph_args {
  uint32_t size;
  uint16_t device; /* begin: in */
  uint16_t reserved;
  uint64_t realm;  /* begin, end: in */
  uint64_t stream; /* begin: out, the stream that records. end, cancel: in. launch: in, where to run */
  uint64_t graph;  /* end: out. launch, destroy: in */
  uint64_t nodes;  /* end: out, operations recorded */
} rope_graph_args;
/* Operations queued on the new stream are checked and recorded, not run, until the recording ends. */
ROPE_API int32_t rope_graph_begin(rope_graph_args* args, rope_error* error);
ROPE_API int32_t rope_graph_end(rope_graph_args* args, rope_error* error);
ROPE_API int32_t rope_graph_cancel(const rope_graph_args* args, rope_error* error);
ROPE_API int32_t rope_graph_launch(const rope_graph_args* args, rope_error* error);
ROPE_API int32_t rope_graph_destroy(const rope_graph_args* args, rope_error* error);

/* ---- completions: waiting without blocking the thread ----------------------------------------------------------------------- */

typedef struct rope_queue_args {
  uint32_t size;
  int32_t wake_fd; /* open: out, an eventfd that becomes readable with every completion */
  uint64_t realm;  /* open: in */
  uint64_t queue;  /* open: out. Else in */
  uint64_t ticket; /* take: out, 0 if nothing has completed */
  int32_t status;  /* take: out, the rope_status of that wait; a failure's details are in the error record */
  uint32_t reserved;
} rope_queue_args;
/* One queue for a realm. */
ROPE_API int32_t rope_queue_open(rope_queue_args* args, rope_error* error);
/* Takes the next completion. Returns ROPE_OK also for a wait that failed: `status` and the record tell of it. */
ROPE_API int32_t rope_queue_take(rope_queue_args* args, rope_error* error);
/* Blocks until something has completed. */
ROPE_API int32_t rope_queue_wait(const rope_queue_args* args, rope_error* error);

typedef struct rope_notify_args {
  uint32_t size;
  uint16_t device;
  uint16_t reserved;
  uint64_t realm; /* whose pending fault the wait reports */
  uint64_t queue;
  uint64_t ticket; /* the caller's number, not 0 */
  uint64_t stream; /* waits for what is queued here so far, or where `event` is given for that */
  uint64_t event;
} rope_notify_args;
/* Puts `ticket` into the queue when the work is done, or has failed. */
ROPE_API int32_t rope_queue_notify(const rope_notify_args* args, rope_error* error);

typedef struct rope_health_args {
  uint32_t size;
  uint16_t device;
  uint16_t failed; /* out: 1 once the device has failed for good */
  uint64_t realm;
  uint32_t fault; /* out: 1 if a fault was waiting for this realm */
  uint32_t reserved;
  rope_fault first;   /* out: that fault; it is taken, the next synchronise does not report it */
  char operation[32]; /* out: what met it: "rope_rotate" */
  char reason[128];   /* out: why the device failed */
} rope_health_args;
ROPE_API int32_t rope_device_health(rope_health_args* args, rope_error* error);

/* ---- tensors ---------------------------------------------------------------------------------------------------------------- */

typedef struct rope_copy_args {
  uint32_t size;
  uint32_t reserved;
  uint64_t stream;
  rope_tensor_ref source;
  rope_tensor_ref target; /* the same shape; any dtype, any strides; shares no element with source */
} rope_copy_args;
/* target = source, converted: floats round to nearest even, float8 saturates (infinities too), floats to integers truncate and saturate
 * (NaN gives 0), integers saturate. */
ROPE_API int32_t rope_copy(const rope_copy_args* args, rope_error* error);

typedef enum rope_fill_kind {
  ROPE_FILL_CONSTANT = 0, /* start */
  ROPE_FILL_ARANGE = 1,   /* start + step * row-major index */
  ROPE_FILL_NORMAL = 2    /* standard normal, a function of seed and index alone */
} rope_fill_kind;

typedef struct rope_fill_args {
  uint32_t size;
  uint32_t kind;
  uint64_t stream;
  rope_tensor_ref target;
  double start;
  double step;
  uint64_t seed;
} rope_fill_args;
ROPE_API int32_t rope_fill(const rope_fill_args* args, rope_error* error);

/* ---- frequencies ------------------------------------------------------------------------------------------------------------ */

typedef enum rope_rule {
  ROPE_RULE_DEFAULT = 0, /* theta^(-2j/R) */
  ROPE_RULE_LINEAR = 1,  /* the same / factor */
  ROPE_RULE_LLAMA3 = 2,  /* Llama 3.1: long wavelengths / factor, a ramp between */
  ROPE_RULE_CUSTOM = 3,  /* the caller's values */
  /* Appended: the numbers above stay. */
  ROPE_RULE_DYNAMIC = 4,     /* theta grows with context_length beyond original_max_position; with alpha once and for all (HunYuan) */
  ROPE_RULE_NTK = 5,         /* vLLM's fixed NTK, plain or by mixed_b */
  ROPE_RULE_YARN = 6,        /* long wavelengths / factor, short ones kept, a ramp over the pairs between */
  ROPE_RULE_LONGROPE = 7,    /* a divisor for each pair, from one of two lists by context_length */
  ROPE_RULE_PROPORTIONAL = 8 /* the first pairs turn as by default, / factor; the rest stand still (Gemma 4) */
} rope_rule;

typedef struct rope_frequencies_args {
  uint32_t size;
  uint32_t rule;
  uint64_t realm;
  uint64_t frequencies; /* create: out. Else in */
  int64_t rotary_dim;   /* R: even, > 0 */
  int64_t axes;         /* 0 reads as 1 */
  int64_t heads;        /* CUSTOM: 0 where all heads turn alike */
  double theta;
  double factor;          /* LINEAR, LLAMA3, NTK, DYNAMIC without alpha. YARN, LONGROPE: 0 reads as max_position / original_max_position.
                             PROPORTIONAL: 0 reads as 1 */
  double low_freq_factor; /* LLAMA3; low = high is the hard step */
  double high_freq_factor;
  double original_max_position; /* LLAMA3, YARN, LONGROPE, DYNAMIC: the length the model was first trained with */
  double attention_factor;      /* multiplies cos and sin; 0: the rule's own, which is 1 but for YARN and LONGROPE */
  uint64_t custom;       /* CUSTOM: address of double[axes][heads][R/2], radians per position; with axis_of_pair double[R/2]. LONGROPE:
                            double[2][R/2], the divisors of short and of long contexts */
  uint64_t custom_count; /* doubles there */
  uint64_t axis_of_pair; /* address of int32[R/2], or 0: which axis drives each pair */
  uint64_t axis_of_pair_count;
  double context_length; /* DYNAMIC, LONGROPE: of the longest sequence; 0: original_max_position */
  double max_position;   /* YARN, LONGROPE: the length the model is extended to, where factor is 0 */
  double alpha;          /* DYNAMIC: theta * alpha^(R/(R-2)) at every length, in place of factor; 0: none */
  double mixed_b;        /* NTK; 0: none */
  double beta_fast;      /* YARN: turns within original_max_position above which a pair is kept; 0 reads as 32 */
  double beta_slow;      /* YARN: turns below which it is stretched; 0 reads as 1 */
  double mscale;         /* YARN: the attention factor is m(mscale) / m(mscale_all_dim) where neither is 0, else m(1); */
  double mscale_all_dim; /* m(x) = 0.1 x ln(factor) + 1 */
  double short_mscale;   /* LONGROPE: the attention factors of short and of long contexts; 0: the rule's (Phi-3.5 MoE has its own) */
  double long_mscale;
  double partial;                 /* PROPORTIONAL: the part of the pairs that turn; 0 reads as 1 */
  double chosen_attention_factor; /* create: out, what cos and sin are multiplied by */
  uint32_t no_truncate;           /* YARN: 1 leaves the ends of the ramp where they fall between pairs (gpt-oss) */
  uint32_t reserved;
} rope_frequencies_args;
/* An immutable set of frequencies; equal rules share one. */
ROPE_API int32_t rope_frequencies_create(rope_frequencies_args* args, rope_error* error);

typedef struct rope_frequencies_read_args {
  uint32_t size;
  uint32_t reserved;
  uint64_t frequencies;
  uint64_t exact;    /* address of double[count], or 0: radians per position */
  uint64_t inv_freq; /* address of float[count], or 0: Hugging Face's float32 values */
  uint64_t count;    /* axes * max(heads, 1) * R/2 */
} rope_frequencies_read_args;
ROPE_API int32_t rope_frequencies_read(const rope_frequencies_read_args* args, rope_error* error);
ROPE_API int32_t rope_frequencies_release(const rope_frequencies_args* args, rope_error* error);

/* ---- rotation --------------------------------------------------------------------------------------------------------------- */

typedef enum rope_pairing {
  ROPE_HALF = 0,               /* (j, j + R/2) */
  ROPE_INTERLEAVED = 1,        /* (2j, 2j + 1) */
  ROPE_INTERLEAVED_TO_HALF = 2 /* read at (2j, 2j + 1), written at (j, j + R/2) */
} rope_pairing;

typedef enum rope_angles {
  ROPE_EXACT = 0, /* 64-bit fixed-point turns: within 2e-7 at every position */
  ROPE_HF = 1     /* float32(position) * float32(inv_freq), as Hugging Face computes it */
} rope_angles;

typedef enum rope_rotate_flags {
  ROPE_INVERSE = 1,   /* the transposed map: angles negated, interleaved_to_half undone */
  ROPE_CONJUGATE = 2, /* sin negated, nothing else */
  ROPE_STILL = 4      /* nothing turns: neither frequencies nor a table, nor where tokens stand, is given */
} rope_rotate_flags;

/* RMS-norm of the heads of q or k: x / sqrt(mean(x^2) + eps) * weight, computed in float32 (of float64 tensors in float64). */
typedef enum rope_norm_flags {
  ROPE_NORM = 1,            /* there is one */
  ROPE_NORM_AFTER = 2,      /* after the rotation; else before it */
  ROPE_NORM_WIDTH = 4,      /* over all heads of a token together; else over each */
  ROPE_NORM_UNIT_OFFSET = 8 /* times 1 + weight (Gemma) */
} rope_norm_flags;

typedef struct rope_rotate_args {
  uint32_t size;
  uint32_t flags; /* rope_rotate_flags */
  uint64_t stream;
  uint64_t frequencies;
  rope_tensor_ref q;     /* [B, S, Hq, D], [nnz, Hq, D] or, with head_dim, [nnz, Hq * D]; last stride 1 */
  rope_tensor_ref k;     /* the same with Hk heads; may be absent */
  rope_tensor_ref q_out; /* shaped as q; q itself: in place */
  rope_tensor_ref k_out;
  rope_tensor_ref positions; /* int32, int64 or float32: [nnz], [B, S] or [S]; with several axes [axes, ...] */
  rope_tensor_ref indptr;    /* int32 or int64 [requests + 1]: request b owns tokens indptr[b] .. indptr[b + 1] - 1 */
  rope_tensor_ref offsets;   /* int32 or int64 [requests], with indptr; else [B]: where each request or batch row starts */
  int64_t offset;            /* where all rows start, in place of the three above */
  int64_t head_dim;          /* D of a rank 2 q; else 0 or D */
  int64_t rotary_offset;     /* the slice [rotary_offset, rotary_offset + R) of each head turns, the rest passes through */
  uint8_t pairing;
  uint8_t angles;
  uint8_t q_norm; /* rope_norm_flags */
  uint8_t k_norm;
  uint8_t reserved[4];

  /* What else is done on the way: all of it in one kernel. A caller whose block ends here rotates only. */
  rope_tensor_ref cos;      /* a table in place of frequencies, float32, float16 or bfloat16, a row for each position (integers, from 0 on):
                               [max, R/2], or with a value for each channel as it is written [max, R]; last stride 1 */
  rope_tensor_ref sin;      /* the same; absent: cos is [max, R], a row's cosines and then its sines */
  int64_t rotary_dim;       /* R of a table. 0: twice the width of cos, without sin that width */
  int64_t prefix;           /* leading tokens of each batch row or request that do not turn */
  rope_tensor_ref q_weight; /* of q_norm: float32 or as q, [D], over the width [Hq * D]; may be absent */
  rope_tensor_ref k_weight;
  double q_eps; /* of q_norm, >= 0 */
  double k_eps;
  rope_tensor_ref q_scale; /* float32 [nnz], [B, S] or [S]: multiplies whole rows of q, at the end */
  /* Further rows that do not turn, shaped as q and k but for their last dimension. */
  rope_tensor_ref v; /* heads as k's */
  rope_tensor_ref v_out;
  rope_tensor_ref q_rest; /* more channels of q's heads ("nope") */
  rope_tensor_ref q_rest_out;
  rope_tensor_ref k_rest; /* more channels of k's heads, or of MLA's one */
  rope_tensor_ref k_rest_out;
  double q_factor; /* of q_out and q_rest_out: they are float8, x * factor, saturated. 0: they are of q's dtype */
  double k_factor; /* of k_out and k_rest_out. 0: of k's dtype, of a float8 cache 1 */
  double v_factor;
  /* Pages: with slots, or with the four after it, k_out, k_rest_out and v_out are caches [pages, page_size, H, D], last stride 1, and
     token t goes to a place of its own. Tokens whose position is padding are not stored. */
  rope_tensor_ref slots;         /* int32 or int64 [nnz]: page * page_size + place in it; -1: not stored */
  rope_tensor_ref page_indptr;   /* int32 or int64 [requests + 1]: request b has the pages indices[page_indptr[b]] .. */
  rope_tensor_ref page_indices;  /* int32 or int64: page ids */
  rope_tensor_ref batch_indices; /* int32 or int64 [nnz]: the request of each token; -1: not stored */
  rope_tensor_ref places;        /* int32 or int64 [nnz]: where in its request the token stands */
} rope_rotate_args;
/* q_out, k_out = q, k rotated. A cache may be float16, bfloat16, float32 or float8, whichever of the first three the inputs are; float64
 * goes into none. q or k may be absent, not both. */
ROPE_API int32_t rope_rotate(const rope_rotate_args* args, rope_error* error);

typedef struct rope_cos_sin_args {
  uint32_t size;
  uint32_t flags;
  uint64_t stream;
  uint64_t frequencies;
  rope_tensor_ref positions; /* [n], with several axes [axes, n] */
  rope_tensor_ref cos;       /* float32 [n, R/2], with frequencies per head [n, heads, R/2]; contiguous */
  rope_tensor_ref sin;
  uint8_t angles;
  uint8_t reserved[7];
} rope_cos_sin_args;
/* The cosines and sines the rotation uses, attention factor included; of padding 1 and 0. */
ROPE_API int32_t rope_cos_sin(const rope_cos_sin_args* args, rope_error* error);

/* ---- paged caches ----------------------------------------------------------------------------------------------------------- */

typedef struct rope_shift_args {
  uint32_t size;
  uint32_t flags; /* ROPE_CONJUGATE */
  uint64_t stream;
  uint64_t frequencies;
  rope_tensor_ref cache;         /* keys, [pages, page_size, Hk, D], last stride 1 */
  rope_tensor_ref page_indptr;   /* int32 or int64 [requests + 1] */
  rope_tensor_ref page_indices;  /* int32 or int64: page ids */
  rope_tensor_ref last_page_len; /* int32 or int64 [requests]: 1 to page_size, 0 where a request has no pages */
  rope_tensor_ref deltas;        /* int32 or int64 [requests], in place of delta */
  rope_tensor_ref owners;        /* int32 [pages]: scratch, overwritten */
  int64_t delta;
  int64_t rotary_offset;
  uint8_t pairing; /* interleaved_to_half: cached keys are in halves */
  uint8_t angles;
  uint8_t reserved[6];
} rope_shift_args;
/* Cached keys turned on by delta positions; the attention factor is not applied again. A page that stands in the table twice is a fault and
 * is left as it is. */
ROPE_API int32_t rope_shift(const rope_shift_args* args, rope_error* error);

typedef struct rope_seq_lens_args {
  uint32_t size;
  uint32_t reserved;
  uint64_t stream;
  rope_tensor_ref page_indptr;   /* int32 or int64 [requests + 1] */
  rope_tensor_ref last_page_len; /* int32 or int64 [requests] */
  rope_tensor_ref seq_lens;      /* int32 [requests], written */
  int64_t page_size;
} rope_seq_lens_args;
/* seq_lens = (pages - 1) * page_size + last_page_len, 0 without pages. */
ROPE_API int32_t rope_seq_lens(const rope_seq_lens_args* args, rope_error* error);

typedef struct rope_batch_indices_args {
  uint32_t size;
  uint32_t reserved;
  uint64_t stream;
  rope_tensor_ref indptr;        /* int32 or int64 [requests + 1], of the tokens that are appended */
  rope_tensor_ref seq_lens;      /* int32 or int64 [requests], after the append */
  rope_tensor_ref batch_indices; /* int32 [nnz], written: the request of each token, -1 beyond the last */
  rope_tensor_ref places;        /* int32 [nnz], written: where in its request it stands, -1 beyond the last */
} rope_batch_indices_args;
ROPE_API int32_t rope_batch_indices(const rope_batch_indices_args* args, rope_error* error);

#ifdef __cplusplus
}
#endif

#endif
