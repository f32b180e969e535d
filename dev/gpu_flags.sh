#!/bin/bash
# gpu_flags.sh NVCC PRECISION ARCHS: prints nvcc's options -gencode and -rpath, or one sentence on stderr and exit code 1.
# gpu_flags.sh --visible NVCC:       is there an nvcc and a GPU? (exit code only)
#
# ARCHS, such as "80 90", are the architectures to build for. Empty: that of the GPUs in this machine, or, when none
# is visible, all of $known that the toolkit can compile, with PTX of the newest for GPUs that are newer still.
set -uo pipefail
known="75 80 86 89 90 120"
PATH=$PATH:/usr/local/cuda/bin  # where the toolkit's installer puts nvcc, and not every shell looks; the Makefile does the same

die() { echo "error: $*" >&2; exit 1; }
capabilities() {  # of the GPUs in this machine, "90" or "75 89"; nothing when there are none
    command -v nvidia-smi >/dev/null || return 0
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+\.[0-9]+$' | tr -d . | sort -un | tr '\n' ' '
}

if [ "${1-}" = --visible ]; then
    command -v "${2:-nvcc}" >/dev/null && [ -n "$(capabilities)" ]
    exit
fi
nvcc=$1 precision=$2 archs=${3-}
path=$(command -v "$nvcc") || die "$nvcc was not found: install the CUDA toolkit (11.8 or newer), add its bin folder to PATH or pass NVCC=/path/to/nvcc, or build for the CPU with: make cpu"
version=$("$path" --version 2>/dev/null | sed -nE 's/.*release ([0-9]+)\.([0-9]+).*/\1 \2/p')
[ -n "$version" ] || die "$path does not say its version: is it an nvcc?"
read -r major minor <<<"$version"
[ $((major * 100 + minor)) -ge 1108 ] || die "$path is CUDA $major.$minor, and 11.8 is the oldest that can build this: pass NVCC=/path/to/a/newer/nvcc"
can=$("$path" --list-gpu-arch 2>/dev/null | sed -nE 's/^compute_([0-9]+)$/\1/p' | tr '\n' ' ')

visible=$(capabilities)
from="GPU_ARCH"
[ -n "$archs" ] || { archs=$visible from="the GPU in this machine"; }
if [ -z "$archs" ]; then
    for a in $known; do [[ " $can " == *" $a "* && ! ($precision == bf16 && $a == 75) ]] && archs+=" $a"; done
fi
flags= newest=
for a in $archs; do
    [[ $a =~ ^[0-9]+$ ]] || die "GPU_ARCH=$a is not an architecture: write it as 75, 80, 89, 90, ..."
    if [[ " $can " != *" $a "* ]]; then
        [ "$from" = GPU_ARCH ] || die "the GPU in this machine is sm_$a, but $path (CUDA $major.$minor) knows only $can: install a newer toolkit, or pass NVCC=/path/to/it"
        die "GPU_ARCH=$a is not known to $path (CUDA $major.$minor), which knows $can"
    fi
    [[ $precision == bf16 && $a -lt 80 ]] && die "bf16 needs sm_80 or later, and $from says sm_$a: make PRECISION=fp16 (or fp32)"
    flags+=" -gencode arch=compute_$a,code=sm_$a" newest=$a
done
[ -n "$flags" ] || die "$path (CUDA $major.$minor) knows none of the architectures $known, only $can: pass GPU_ARCH"
[ -n "$visible" ] || flags+=" -gencode arch=compute_$newest,code=compute_$newest"  # for GPUs that are newer
# The toolkit's own libcublasLt, where the loader would find none or one of another toolkit. Not every toolkit is a folder of
# its own (Debian's package is not); those without it have none to name
root=$(dirname "$(dirname "$(readlink -f "$path")")")
for lib in "$root"/lib64 "$root"/lib "$root"/targets/*/lib; do
    [[ -e $lib/libcublasLt.so && $lib != *[\ ,]* ]] && { flags+=" -Xlinker -rpath=$lib"; break; }
done
echo "$flags"
