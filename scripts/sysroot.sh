#!/bin/sh
# Makes build-sysroot/, a Debian 11 root to link release binaries against. Run as root; needs the packages
# debootstrap, clang-19, libc++-19-dev and libc++abi-19-dev:
#   scripts/sysroot.sh && npm run prebuildify -- --toolchain=scripts/sysroot.cmake
set -eu
cd "$(dirname "$0")/.."
sysroot=$PWD/build-sysroot
[ -d "$sysroot/usr/include" ] || debootstrap --variant=minbase --include=g++ bullseye "$sysroot"
# An absolute symlink would lead the linker out of the sysroot to the host's library, without a word.
find "$sysroot/usr/lib" "$sysroot/usr/lib64" -type l -lname '/*' | while read -r link; do
  target=$(realpath -s --relative-to="$(dirname "$link")" "$sysroot$(readlink "$link")")
  ln -sfn "$target" "$link"
done
