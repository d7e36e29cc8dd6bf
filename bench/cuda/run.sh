#!/usr/bin/env bash
# Builds every CUDA driver, checks, sanitizes, times, then times the peers. On a machine with a Hopper GPU and nvcc:
#
#   bench/cuda/run.sh [-o RESULTS_FOLDER] [-s STEPS] [FAMILY …]
#
# STEPS: words of "check sanitize bench peers", all without it. FAMILY: names of native/cuda/driver/*_driver.cu.
set -uo pipefail
cd "$(dirname "$0")/../.."

results=bench/results
steps="check sanitize bench peers"
while getopts o:s: option; do
  case $option in
    o) results=$OPTARG ;;
    s) steps=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
families=("$@")
if [ ${#families[@]} -eq 0 ]; then
  for file in native/cuda/driver/*_driver.cu; do
    name=$(basename "$file" _driver.cu)
    families+=("$name")
  done
fi

build=build-cuda-drivers
mkdir -p "$build" "$results"
stamp=$(date +%Y-%m-%dT%H%M%S)
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
flags=(-gencode arch=compute_90a,code=sm_90a -O3 -std=c++20 -lineinfo)

# One object a file, all cores; an object is remade when any source is newer.
compile() {
  local file=$1 object
  object=$build/$(echo "${file#native/cuda/}" | tr / -).o
  [ -f "$object" ] && [ -z "$(find native/cuda native/*.h -newer "$object" -print -quit)" ] && return 0
  nvcc "${flags[@]}" -c "$file" -o "$object" || { echo "FAIL compile $file"; rm -f "$object"; return 1; }
}
export -f compile
start=$SECONDS
export build
declare -p flags >"$build/flags.sh"
sources=(native/cuda/*.cu native/cuda/driver/harness.cu)
for family in "${families[@]}"; do sources+=("native/cuda/driver/${family}_driver.cu"); done
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} bash -c 'source "$build/flags.sh"; compile {}'
# A library, so that a driver links what it names and no more.
rm -f "$build/kernels.a"
objects=("$build"/driver-harness.cu.o)
for file in native/cuda/*.cu; do
  object=$build/$(basename "$file").o
  [ -f "$object" ] && objects+=("$object")
done
ar rcs "$build/kernels.a" "${objects[@]}"
echo "compiled in $((SECONDS - start)) s"

failed=0
for family in "${families[@]}"; do
  nvcc "${flags[@]}" "$build/driver-${family}_driver.cu.o" "$build/kernels.a" -o "$build/$family" || failed=1
done

wanted() { [[ " $steps " == *" $1 "* ]]; }
if wanted check; then
  for family in "${families[@]}"; do
    echo "== check $family"
    "$build/$family" check || failed=1
  done
fi
# One of everything at a time would take most of the ten minutes: correctness does not mind company on the device.
sanitize() {
  local tool=${1%%/*} family=${1##*/} log
  log=$build/$tool-$family.log
  timeout 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/$family" small >"$log" 2>&1
  local status=$?
  echo "$tool $family: $([ $status -eq 0 ] && echo ok || echo "FAIL, status $status") $(tail -n 1 "$log")"
  return $status
}
export -f sanitize
if wanted sanitize; then
  echo "== compute-sanitizer"
  for tool in memcheck racecheck initcheck; do printf "$tool/%s\n" "${families[@]}"; done |
    xargs -P 6 -I{} bash -c 'sanitize {}' || failed=1
fi
if wanted bench; then
  for family in "${families[@]}"; do
    echo "== bench $family"
    "$build/$family" bench --json "$build/$family.jsonl" || failed=1
    python3 bench/cuda/to_json.py "$build/$family.jsonl" "$commit" >"$results/cuda-$family-$stamp.json"
  done
fi
if wanted peers; then
  echo "== peers"
  python3 bench/cuda/peers.py "${families[@]}" --json "$results/cuda-peers-$stamp.json" || failed=1
fi
exit $failed
