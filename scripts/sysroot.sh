#!/bin/sh
# Makes build-sysroot/, a Debian 11 root to link release binaries against (root, debootstrap and clang-19 needed):
#   scripts/sysroot.sh && npm run prebuildify -- --toolchain=scripts/sysroot.cmake
set -eu
cd "$(dirname "$0")/.."
sysroot=$PWD/build-sysroot
[ -d "$sysroot/usr/include" ] || debootstrap --variant=minbase --include=g++ bullseye "$sysroot"
# An absolute symlink would lead the linker out of the sysroot to the host's library, without a word.
find "$sysroot/usr/lib" "$sysroot/lib64" -type l -lname '/*' | while read -r link; do
  ln -sfr "$sysroot$(readlink "$link")" "$link"
done
