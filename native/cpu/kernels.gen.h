// Written by scripts/gen.ts from src/ops. Do not edit.
// clang-format off
#pragma once

#include "../ops.gen.h"
#include "context.h"

namespace crosscurrent::cpu {

void embedding(const Embedding& a, Context& context);
void linear(const Linear& a, Context& context);
void rms_norm(const RmsNorm& a, Context& context);
void gated_rms_norm(const GatedRmsNorm& a, Context& context);
void add(const Add& a, Context& context);
void act_mul(const ActMul& a, Context& context);
void rope(const Rope& a, Context& context);
void flash_attention(const FlashAttention& a, Context& context);
void causal_conv1d(const CausalConv1d& a, Context& context);
void selective_scan(const SelectiveScan& a, Context& context);
void ssd(const Ssd& a, Context& context);
void router(const Router& a, Context& context);
void moe(const Moe& a, Context& context);
void gather_rows(const GatherRows& a, Context& context);
void sample(const Sample& a, Context& context);
void top_probabilities(const TopProbabilities& a, Context& context);

using Kernel = void (*)(const Tensor*, const StateView*, const int32_t*, Context&);

template <class Args, void (*function)(const Args&, Context&)>
void run(const Tensor* tensors, const StateView* states, const int32_t* attrs, Context& context) {
  function(Args::decode(tensors, states, attrs), context);
}

// By opcode; null where this backend has no kernel.
inline constexpr Kernel kKernels[] = {
    run<Embedding, embedding>,
    run<Linear, linear>,
    run<RmsNorm, rms_norm>,
    run<GatedRmsNorm, gated_rms_norm>,
    run<Add, add>,
    run<ActMul, act_mul>,
    run<Rope, rope>,
    run<FlashAttention, flash_attention>,
    run<CausalConv1d, causal_conv1d>,
    run<SelectiveScan, selective_scan>,
    run<Ssd, ssd>,
    run<Router, router>,
    run<Moe, moe>,
    run<GatherRows, gather_rows>,
    run<Sample, sample>,
    run<TopProbabilities, top_probabilities>,
};

}  // namespace crosscurrent::cpu
