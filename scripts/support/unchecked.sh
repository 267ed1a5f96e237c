#!/usr/bin/env bash
# For bench/checks.ts: a librope.so whose bfloat16 rotation does not look whether positions are in range or indptr in order.
#   scripts/support/unchecked.sh BUILD ARCHITECTURE FOLDER      FOLDER/librope.so
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/support/variant.sh
variant "$(realpath "$1")" "$2" "$3" rope/rotate_bfloat16.cu \
  rope/positions.cuh 's/out_of_range(int64_t position) { return .*/out_of_range(int64_t) { return false; }/' \
  rope/rotate_kernel.cuh 's/bool has_indptr = where .*/bool has_indptr = false;/'
