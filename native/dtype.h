// Element types of tensors, plain and block-quantised; numbers are part of the program format.
#pragma once

#include <cstdint>
#include <string_view>

namespace crosscurrent {

enum class DType : int32_t {
  f32 = 0,
  f16 = 1,
  bf16 = 2,
  i32 = 3,
  i8 = 4,
  u8 = 5,
  i64 = 6,
  f64 = 7,
  // GGUF blocks, as stored in the file
  q8_0 = 16,
  q4_0 = 17,
  q4_1 = 18,
  q5_0 = 19,
  q5_1 = 20,
  q4_k = 21,
  q5_k = 22,
  q6_k = 23,
};

struct DTypeInfo {
  std::string_view name;
  int block_elements;  // elements of one block along the last axis
  int block_bytes;
};

// Name is empty for a number that is no dtype.
constexpr DTypeInfo dtype_info(DType dtype) {
  switch (dtype) {
    case DType::f32: return {"f32", 1, 4};
    case DType::f16: return {"f16", 1, 2};
    case DType::bf16: return {"bf16", 1, 2};
    case DType::i32: return {"i32", 1, 4};
    case DType::i8: return {"i8", 1, 1};
    case DType::u8: return {"u8", 1, 1};
    case DType::i64: return {"i64", 1, 8};
    case DType::f64: return {"f64", 1, 8};
    case DType::q8_0: return {"q8_0", 32, 34};
    case DType::q4_0: return {"q4_0", 32, 18};
    case DType::q4_1: return {"q4_1", 32, 20};
    case DType::q5_0: return {"q5_0", 32, 22};
    case DType::q5_1: return {"q5_1", 32, 24};
    case DType::q4_k: return {"q4_k", 256, 144};
    case DType::q5_k: return {"q5_k", 256, 176};
    case DType::q6_k: return {"q6_k", 256, 210};
  }
  return {"", 0, 0};
}

}  // namespace crosscurrent
