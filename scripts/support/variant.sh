# variant <build> <architecture> <folder> <source> (<file> <sed script>)...: folder/librope.so, which is the library of <build> but for one source of
# csrc, compiled with changes to it or to what it includes. Each change must change something.
variant() {
  local build=$1 architecture=$2 folder=$3 source=$4
  shift 4
  mkdir -p "$folder" && rm -rf "$folder/csrc" && cp -r csrc "$folder/csrc" || return 1
  while [ $# -gt 0 ]; do
    sed -i "$2" "$folder/csrc/$1" || return 1
    if cmp -s "csrc/$1" "$folder/csrc/$1"; then
      echo "'$2' does not change csrc/$1 any more: mend the script that says so."
      return 1
    fi
    shift 2
  done
  nvcc -arch="sm_$architecture" -std=c++20 -O3 -DNDEBUG -lineinfo -fmad=false --expt-relaxed-constexpr -Xcompiler=-fPIC,-fvisibility=hidden \
    -DROPE_HAVE_CUDA -I"$folder/csrc/include" -c "$folder/csrc/$source" -o "$folder/variant.o" || return 1
  local objects
  mapfile -t objects < <(find "$build"/CMakeFiles/rope.dir "$build"/CMakeFiles/rope_rows_* -name '*.o' ! -path "*/csrc/$source.o")
  nvcc -arch="sm_$architecture" -shared -Xcompiler=-static-libstdc++,-static-libgcc -Xlinker=-soname=librope.so,-Bsymbolic,--gc-sections \
    -Xlinker=--version-script=csrc/rope.map -Xlinker=-z,nodelete -o "$folder/librope.so" "$folder/variant.o" "${objects[@]}"
}
