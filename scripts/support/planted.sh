#!/usr/bin/env bash
# What the sanitizers are worth: plants a bug for each in a copy of csrc and demands that it is found, in the kernel where it was planted, by the
# run that is clean without it.
#   scripts/support/planted.sh BUILD ARCHITECTURE OUT COMMAND...
# BUILD: a build of the library, whose other objects are used. COMMAND: a program linked with BUILD/librope.so. Logs go to OUT.
set -uo pipefail
cd "$(dirname "$0")/../.."
source scripts/support/variant.sh
build=$(realpath "$1") architecture=$2 out=$3
shift 3
command=("$@")
work=$build/planted
rm -rf "$work"
mkdir -p "$work" "$out"

# finds <tool> <kernel> <file> <sed script> [source]
finds() {
  local tool=$1 kernel=$2 folder=$work/$1 log=$out/planted_$1.log
  mkdir -p "$folder"
  if ! variant "$build" "$architecture" "$folder" "${5:-$3}" "$3" "$4" >"$log" 2>&1; then
    echo "FAILED  $tool: no library with a bug"
    cat "$log"
    return 1
  fi
  local extra=()
  [ "$tool" = memcheck ] && extra=(--report-api-errors no)
  LD_LIBRARY_PATH=$folder timeout 150 compute-sanitizer --tool "$tool" "${extra[@]}" --error-exitcode 99 "${command[@]}" >"$log" 2>&1
  local code=$?
  if [ "$code" = 99 ] && grep -q "$kernel" "$log"; then
    echo "ok      $tool finds the bug in $kernel"
  else
    echo "FAILED  $tool does not find the bug in $kernel (exit code $code)"
    tail -n 20 "$log"
    return 1
  fi
}

# The check that keeps the last token's threads within the tensors is gone.
finds memcheck cos_sin_kernel rope/cos_sin.cu '/if (i >= p.count) return;/d' &
# Nothing waits between writing cos and sin to shared memory and reading them.
finds racecheck rotate_kernel rope/rotate_kernel.cuh '/rows that change their order in place/,/__syncthreads();/s/__syncthreads();//' \
  rope/rotate_float64.cu &
# A result is added to what the memory held.
finds initcheck cos_sin_kernel rope/cos_sin.cu 's/p\.cos\[i\] = cos;/p.cos[i] += cos;/' &
# Lanes that are not in the mask wait with it. (A lane that goes past __syncthreads and ends is not found, and one that goes elsewhere hangs.)
finds synccheck rotate_kernel rope/rotate_kernel.cuh 's/^    __syncthreads();/    __syncwarp(1u), __syncthreads();/' rope/rotate_float64.cu &

failed=0
for _ in 1 2 3 4; do wait -n || failed=$((failed + 1)); done
exit "$failed"
