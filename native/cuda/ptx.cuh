// Instructions that CUDA C++ has no name for, one function each. wgmma is in wgmma.cuh.
//
// Longer than 400 lines: a list to look things up in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace crosscurrent::cuda {

// Whether this pass of the compiler may use wgmma and setmaxnreg (sm_90a); guard such code with
// `if constexpr (kSm90a)`: the bodies of kernels are compiled for every architecture.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kSm90a = true;
#else
constexpr bool kSm90a = false;
#endif

// Whether this pass may use TMA, mbarriers with transaction counts, clusters and dependent launch.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kSm90 = true;
#else
constexpr bool kSm90 = false;
#endif

// What a load may ask of L2. The numbers are those that `createpolicy` gives for a fraction of 1.
enum class CachePolicy : uint64_t {
  normal = 0x1000000000000000,
  evict_first = 0x12F0000000000000,
  evict_last = 0x14F0000000000000,
};

// --- shared memory and asynchronous copies (sm_80) ---

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes past L1; `bytes` < 16 fills the rest with zeros (0: nothing is read).
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}

// 4 or 8 bytes through L1.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int bytes = kBytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
               "n"(kBytes), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// 16 bytes that are read once: past L1, first to leave L2.
__device__ __forceinline__ uint4 load_streaming(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global), "l"(static_cast<uint64_t>(CachePolicy::evict_first)));
  return v;
}

__device__ __forceinline__ void prefetch_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// --- flags between blocks ---

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* global) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(global) : "memory");
  return value;
}

__device__ __forceinline__ void store_release(uint32_t* global, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(global), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t add_acquire_release(uint32_t* global, uint32_t value) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(global), "r"(value)
               : "memory");
  return before;
}

// --- matrix fragments (sm_80) ---

// Four 8x8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void load_matrix_x2(uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void load_matrix_transposed_x4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void load_matrix_transposed_x2(uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}

// The reverse of `load_matrix_x4` (sm_90).
__device__ __forceinline__ void store_matrix_x4(void* shared, const uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

// As `store_matrix_x4`, each matrix transposed: lane l gives the address of column l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrix_transposed_x4(void* shared, const uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

// d[16, 8] += a[16, 16] b[16, 8]; lane l holds
//   a: rows l / 4 and l / 4 + 8, columns 2 (l % 4) + {0, 1} and + 8: a0 row, a1 row + 8, a2 row col + 8, a3
//   both b: column l / 4, rows 2 (l % 4) + {0, 1} (b0) and + 8 (b1) d: d0 d1 row l / 4, columns 2 (l % 4) +
//   {0, 1}; d2 d3 row l / 4 + 8
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- arithmetic ---

// 2^x on the special-function unit.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two floats to a register of two bf16, `low` in the lower half; round to nearest even.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// (a & b) | c and its like: `kTable` is the function's value at a = 0xF0, b = 0xCC, c = 0xAA.
template <int kTable>
__device__ __forceinline__ uint32_t logic3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return r;
}

// --- programmatic dependent launch (sm_90; nothing before it) ---

// Until the grids this one depends on have finished and their writes are visible. Loads of weights may come
// before.
__device__ __forceinline__ void grid_dependency_wait() {
  if constexpr (kSm90) asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next grid of the stream start as soon as every block has called this or ended.
__device__ __forceinline__ void launch_dependents() {
  if constexpr (kSm90) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// --- named barriers and register budgets ---

// `threads` of the block, a multiple of 32, meet at barrier `id` (0 is __syncthreads).
__device__ __forceinline__ void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// A warpgroup's registers a thread, a multiple of 8 (sm_90a).
template <int kRegisters>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- mbarriers (sm_90) ---

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}

// After the inits, before any other thread, block of the cluster or TMA uses them.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives at the same barrier of block `rank` of the cluster. It orders this thread's reads of shared memory,
// which is what frees a stage; a release at cluster scope would wait for all its global writes as well.
__device__ __forceinline__ void mbarrier_arrive_remote(uint64_t* barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}

// One arrival, once all cp.async of this thread so far have landed; of the arrivals that `mbarrier_init`
// counts. Whoever waits and then reads by wgmma or TMA calls `fence_async_shared` between.
__device__ __forceinline__ void mbarrier_arrive_copied(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// One arrival, and `bytes` of copies to come before the phase ends.
__device__ __forceinline__ void mbarrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// Until the phase of parity `parity` (0 first) has ended.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nretry:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra retry;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// --- bulk copies and TMA (sm_90); one thread issues, `barrier` counts the bytes ---

// `bytes` and both addresses are multiples of 16.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, int bytes, uint64_t* barrier,
                                          CachePolicy policy = CachePolicy::normal) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], "
      "%4;" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(static_cast<uint64_t>(policy))
      : "memory");
}

// A box of a tensor map (tensor_map.h) at coordinates, the fastest axis first.
__device__ __forceinline__ void tma_load(void* shared, const void* map, int x, int y, uint64_t* barrier,
                                         CachePolicy policy = CachePolicy::normal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier)), "l"(static_cast<uint64_t>(policy))
      : "memory");
}

__device__ __forceinline__ void tma_load(void* shared, const void* map, int x, int y, int z,
                                         uint64_t* barrier, CachePolicy policy = CachePolicy::normal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier)), "l"(static_cast<uint64_t>(policy))
      : "memory");
}

__device__ __forceinline__ void tma_load(void* shared, const void* map, int x, int y, int z, int w,
                                         uint64_t* barrier, CachePolicy policy = CachePolicy::normal) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(shared_address(barrier)),
      "l"(static_cast<uint64_t>(policy))
      : "memory");
}

// The same box to every block of the cluster in `mask`; each block's barrier at this offset counts its bytes.
__device__ __forceinline__ void tma_load_multicast(void* shared, const void* map, int x, int y,
                                                   uint64_t* barrier, uint16_t mask,
                                                   CachePolicy policy = CachePolicy::normal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier)), "h"(mask), "l"(static_cast<uint64_t>(policy))
      : "memory");
}

__device__ __forceinline__ void tma_store(const void* map, int x, int y, const void* shared) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
               "r"(x), "r"(y), "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void tma_store(const void* map, int x, int y, int z, const void* shared) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map),
               "r"(x), "r"(y), "r"(z), "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until shared memory of all but `kPending` of this thread's stores may be written again.
template <int kPending>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

template <int kPending>
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void prefetch_tensor_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Makes this thread's ordinary writes to shared memory visible to wgmma and TMA.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- clusters (sm_90) ---

__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Without ordering memory: that every block of the cluster has come this far.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address of `shared` in block `rank`, for `load_remote` and `store_remote`.
__device__ __forceinline__ uint32_t remote_address(const void* shared, int rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(address)
               : "r"(shared_address(shared)), "r"(rank));
  return address;
}

__device__ __forceinline__ float4 load_remote(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// 16 bytes to a peer; `barrier`, the remote address of a barrier of the same peer, counts them.
__device__ __forceinline__ void store_remote(uint32_t address, float4 v, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          address),
      "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(barrier)
      : "memory");
}

}  // namespace crosscurrent::cuda
