# Toolchain of release binaries: clang-19 against the Debian 11 root that scripts/sysroot.sh makes.
# libc++, static, because Debian 11's libstdc++ lacks parts of the C++20 library (std::atomic::wait, std::bit_cast).
# An archive carries no glibc versions: the root's glibc decides what the binary needs.
set(CMAKE_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/../build-sysroot)
set(CMAKE_C_COMPILER clang-19)
set(CMAKE_CXX_COMPILER clang++-19)
add_compile_options(-stdlib=libc++)
add_link_options(-stdlib=libc++ -static-libstdc++ -static-libgcc -L/usr/lib/llvm-19/lib)
link_libraries(-Wl,-Bstatic -lc++abi -Wl,-Bdynamic -lpthread)
