// Written by scripts/gen.ts from src/ops. Do not edit.
// clang-format off
#pragma once

#include "../ops.gen.h"
#include "context.h"

namespace crosscurrent::cpu {



using Kernel = void (*)(const Tensor*, const StateView*, const int32_t*, Context&);

template <class Args, void (*function)(const Args&, Context&)>
void run(const Tensor* tensors, const StateView* states, const int32_t* attrs, Context& context) {
  function(Args::decode(tensors, states, attrs), context);
}

// By opcode; null where this backend has no kernel.
inline constexpr Kernel kKernels[] = {
    nullptr,  // embedding
    nullptr,  // linear
    nullptr,  // rms_norm
    nullptr,  // gated_rms_norm
    nullptr,  // add
    nullptr,  // act_mul
    nullptr,  // rope
    nullptr,  // flash_attention
    nullptr,  // causal_conv1d
    nullptr,  // selective_scan
    nullptr,  // ssd
    nullptr,  // router
    nullptr,  // moe
    nullptr,  // gather_rows
    nullptr,  // sample
};

}  // namespace crosscurrent::cpu
