#!/bin/sh
# compile-kernel.sh NVCC OBJECT SOURCE FLAGS...: compiles one kernel file and fails on what the assembler only mentions:
# C7508 (setmaxnreg ignored) and matrix products that it waits for one by one.
nvcc=$1 object=$2 source=$3
shift 3
output=$("$nvcc" "$@" -Xptxas -v -MD -MF "$object.d" -c "$source" -o "$object" 2>&1)
status=$?
printf '%s\n' "$output" | grep -v -E '^ptxas info|bytes stack frame|^$' >&2
if [ $status -ne 0 ]; then exit $status; fi
if printf '%s\n' "$output" | grep -E 'C7508|instructions are serialized' >&2; then
  rm -f "$object"
  exit 1
fi
