// safetensors: 8-byte little-endian header length, a JSON header, then the tensors without holes or overlaps.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "file_image.h"
#include "tensor_file.h"

namespace crosscurrent {

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // by offset; offsets from the start of the file
  std::vector<std::pair<std::string, std::string>> metadata;
};

SafetensorsHeader parse_safetensors(FileImage& image);

// `weight_map` of model.safetensors.index.json: (tensor, shard file) pairs. Shards are plain names of files
// beside the index.
std::vector<std::pair<std::string, std::string>> parse_safetensors_index(std::string_view text,
                                                                         const std::string& path);

}  // namespace crosscurrent
