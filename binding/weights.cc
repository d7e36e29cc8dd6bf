#include <algorithm>
#include <string>

#include "../native/weights/tensor_file.h"
#include "../native/weights/text.h"
#include "args.h"
#include "block.h"
#include "exports.h"

namespace crosscurrent::binding {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 48;

std::string path_argument(const Args& args, size_t i) {
  std::string path = args.text(i, "path");
  if (path.empty() || path.find('\0') != std::string::npos)
    throw Error(Code::invalid_argument, "openFile: path", "a path", printable(path));
  return path;
}

napi_value file_handle(napi_env env, std::shared_ptr<TensorStore> store) {
  return make_handle(env, std::move(store));
}

// openFile(path: string, control?: Control): Promise<File>
napi_value open_file(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "openFile");
    auto control = args.optional_handle<Control>(1, "control");
    return Engine::of(env).post(
        env, LaneId::load, std::move(control),
        [path = path_argument(args, 0)](Control&) { return TensorStore::open(path); }, file_handle);
  });
}

// openBytes(bytes: Uint8Array | Block, name: string): Promise<File>
napi_value open_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "openBytes");
    std::string name = args.text(1, "name");
    return Engine::of(env).post(
        env, LaneId::load, nullptr,
        [bytes = take_bytes(args, 0, "bytes"), name = std::move(name)](Control&) mutable {
          return TensorStore::from_bytes(std::move(bytes), std::move(name));
        },
        file_handle);
  });
}

struct FileInfo {
  TensorStore::Format format;
  double file_bytes;
  std::vector<std::string> files;
  std::vector<std::string> tensors;  // JSON arrays of at most kTensorsAPart entries
  std::string metadata;
};

constexpr size_t kTensorsAPart = 512;

void append_tensor(std::string& json, const TensorEntry& entry) {
  json += R"({"name":)";
  append_json_string(json, entry.name);
  json += R"(,"dtype":")";
  json += dtype_info(entry.dtype).name;
  json += R"(","shape":[)";
  for (size_t axis = 0; axis < entry.shape.size(); ++axis)
    json += (axis == 0 ? "" : ",") + std::to_string(entry.shape[axis]);
  json += R"(],"bytes":)" + std::to_string(entry.bytes) + "}";
}

FileInfo file_info(const TensorStore& store) {
  FileInfo info{
      store.format(), static_cast<double>(store.file_bytes()), store.files(), {}, store.metadata_json()};
  const auto& tensors = store.tensors();
  for (size_t start = 0; start < tensors.size(); start += kTensorsAPart) {
    std::string& json = info.tensors.emplace_back("[");
    const size_t end = std::min(start + kTensorsAPart, tensors.size());
    for (size_t i = start; i < end; ++i) {
      if (i > start) json += ',';
      append_tensor(json, tensors[i]);
    }
    json += ']';
  }
  return info;
}

napi_value text_list(napi_env env, const std::vector<std::string>& list) {
  napi_value array;
  check(env, napi_create_array_with_length(env, list.size(), &array));
  for (size_t i = 0; i < list.size(); ++i)
    check(env, napi_set_element(env, array, static_cast<uint32_t>(i), text(env, list[i])));
  return array;
}

// fileInfo(file: File): Promise<{ format, fileBytes, files: string[], tensors: string[], metadata: string }>
//
// `tensors` are JSON arrays of a few hundred entries each, so that the caller can parse them between turns.
napi_value info_of_file(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "fileInfo");
    return Engine::of(env).post(
        env, LaneId::load, nullptr,
        [store = args.handle<TensorStore>(0, "file")](Control&) { return file_info(*store); },
        [](napi_env env, const FileInfo& found) {
          const napi_value made = object(env);
          const bool is_gguf = found.format == TensorStore::Format::gguf;
          set(env, made, "format", text(env, is_gguf ? "gguf" : "safetensors"));
          set(env, made, "fileBytes", number(env, found.file_bytes));
          set(env, made, "files", text_list(env, found.files));
          set(env, made, "tensors", text_list(env, found.tensors));
          set(env, made, "metadata", text(env, found.metadata));
          return made;
        });
  });
}

struct PackedStrings {
  std::vector<std::byte> bytes;
  std::vector<uint32_t> offsets;  // count + 1
};

PackedStrings pack_strings(const std::vector<std::string_view>& list) {
  PackedStrings packed;
  size_t total = 0;
  for (const std::string_view item : list) total += item.size();
  if (total > UINT32_MAX)
    throw Error(Code::invalid_file, "strings", "at most 4 GiB", std::to_string(total) + " bytes");
  packed.bytes.reserve(total);
  packed.offsets.reserve(list.size() + 1);
  packed.offsets.push_back(0);
  for (const std::string_view item : list) {
    const auto bytes = std::as_bytes(std::span(item));
    packed.bytes.insert(packed.bytes.end(), bytes.begin(), bytes.end());
    packed.offsets.push_back(static_cast<uint32_t>(packed.bytes.size()));
  }
  return packed;
}

// fileStrings(file: File, key: string): Promise<{ bytes: Uint8Array | Result, offsets: Uint32Array | Result
// }>
napi_value strings_of_file(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "fileStrings");
    return Engine::of(env).post(
        env, LaneId::load, nullptr,
        [store = args.handle<TensorStore>(0, "file"), key = args.text(1, "key")](Control&) {
          return pack_strings(store->strings(key));
        },
        [](napi_env env, PackedStrings packed) {
          const napi_value made = object(env);
          set(env, made, "bytes", give(env, std::move(packed.bytes)));
          set(env, made, "offsets", give(env, std::move(packed.offsets)));
          return made;
        });
  });
}

// fileNumbers(file: File, key: string): Promise<Float64Array | Result>
napi_value numbers_of_file(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "fileNumbers");
    return Engine::of(env).post(
        env, LaneId::load, nullptr,
        [store = args.handle<TensorStore>(0, "file"), key = args.text(1, "key")](Control&) {
          return store->numbers(key);
        },
        give<double>);
  });
}

// fileRead(file: File, tensor: string): Promise<Uint8Array | Result>
napi_value read_of_file(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "fileRead");
    return Engine::of(env).post(
        env, LaneId::load, nullptr,
        [store = args.handle<TensorStore>(0, "file"), name = args.text(1, "tensor")](Control&) {
          const TensorEntry& entry = store->at(name);
          std::vector<std::byte> bytes(entry.bytes);
          store->read(entry, 0, bytes);
          return bytes;
        },
        give<std::byte>);
  });
}

// fileDigest(file: File): Promise<Uint8Array>
napi_value digest_of_file(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "fileDigest");
    return Engine::of(env).post(
        env, LaneId::load, nullptr,
        [store = args.handle<TensorStore>(0, "file")](Control&) { return store->digest(); },
        [](napi_env env, uint64_t digest) { return typed_array(env, std::as_bytes(std::span(&digest, 1))); });
  });
}

std::vector<int64_t> read_shape(const Args& args, napi_value value, const std::string& name) {
  std::vector<int64_t> shape;
  int64_t elements = 1;
  for (const napi_value dim : args.array_of(value, name)) {
    shape.push_back(args.integer_of(dim, name, 1, kMostElements / elements));
    elements *= shape.back();
  }
  return shape;
}

WeightPart read_part(const Args& args, napi_value value, const std::string& name) {
  WeightPart part;
  part.tensor = args.text_of(args.member(value, "tensor", name), name + ".tensor");
  part.shape = read_shape(args, args.member(value, "shape", name), name + ".shape");
  if (part.shape.empty()) throw Error(Code::invalid_argument, name + ".shape", "at least one axis", "none");
  int64_t all_rows = 1;
  for (size_t axis = 0; axis + 1 < part.shape.size(); ++axis) all_rows *= part.shape[axis];
  part.end_row = all_rows;
  const napi_value rows = args.member(value, "rows", name);
  if (args.absent_value(rows)) return part;
  const auto range = args.array_of(rows, name + ".rows");
  if (range.size() != 2)
    throw Error(Code::invalid_argument, name + ".rows", "[first, end]",
                std::to_string(range.size()) + " elements");
  part.end_row = args.integer_of(range[1], name + ".rows[1]", 1, all_rows);
  part.first_row = args.integer_of(range[0], name + ".rows[0]", 0, part.end_row - 1);
  return part;
}

WeightSpec read_spec(const Args& args, napi_value value) {
  WeightSpec spec;
  spec.name = args.text_of(args.member(value, "name", "spec"), "spec.name");
  const std::string form = args.text_of(args.member(value, "form", spec.name), spec.name + ".form");
  if (form != "matrix" && form != "f32")
    throw Error(Code::invalid_argument, spec.name + ".form", "matrix or f32", printable(form));
  spec.form = form == "matrix" ? WeightForm::matrix : WeightForm::f32;
  spec.shape = read_shape(args, args.member(value, "shape", spec.name), spec.name + ".shape");
  const std::string transform =
      args.text_of(args.member(value, "transform", spec.name), spec.name + ".transform");
  if (transform != "none" && transform != "neg_exp")
    throw Error(Code::invalid_argument, spec.name + ".transform", "none or neg_exp", printable(transform));
  spec.neg_exp = transform == "neg_exp";
  for (const napi_value part : args.array_of(args.member(value, "parts", spec.name), spec.name + ".parts"))
    spec.parts.push_back(read_part(args, part, spec.name + ".parts"));
  const napi_value values = args.member(value, "values", spec.name);
  if (!args.absent_value(values)) {
    const auto given = args.f32s_of(values, spec.name + ".values");
    spec.values.assign(given.begin(), given.end());
  }
  if (spec.form == WeightForm::matrix && (spec.neg_exp || !spec.values.empty()))
    throw Error(Code::invalid_argument, spec.name, "a transform or values only with the form f32", form);
  return spec;
}

// newSpecs(): Specs
napi_value new_specs(napi_env env, napi_callback_info) {
  return guarded(env, [&] { return make_handle(env, std::make_shared<SpecList>()); });
}

// addSpecs(specs: Specs, more: WeightSpec[]): void
//
// A list of its own, as a mixture of experts has tens of thousands of parts: the caller adds them between
// turns.
napi_value add_specs(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "addSpecs");
    const auto list = args.handle<SpecList>(0, "specs");
    for (const napi_value spec : args.array_of(args[1], "addSpecs: more"))
      list->specs.push_back(read_spec(args, spec));
    return undefined(env);
  });
}

// loadWeights(file: File, program: Program, specs: Specs, control?: Control): Promise<Weights>
//
// The list of specs is emptied. Progress is in the control.
napi_value load_weights(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "loadWeights");
    const auto store = args.handle<TensorStore>(0, "file");
    const auto program = args.handle<const Program>(1, "program");
    const auto specs = args.handle<SpecList>(2, "specs");
    auto control = args.optional_handle<Control>(3, "control");
    return Engine::of(env).post(
        env, LaneId::load, std::move(control),
        [store, program, specs = std::exchange(specs->specs, {})](Control& control) {
          const Progress progress = [&control](uint64_t done, uint64_t total) {
            control.total_bytes = total;
            control.done_bytes = done;
          };
          return cpu_backend().load(store, *program, specs, progress, control.cancelled);
        },
        [](napi_env env, std::shared_ptr<Weights> weights) {
          const uint64_t bytes = weights->bytes();
          return make_handle(env, std::move(weights), bytes);
        });
  });
}

// weightsBytes(weights: Weights): number
napi_value weights_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "weightsBytes");
    return number(env, static_cast<double>(args.handle<Weights>(0, "weights")->bytes()));
  });
}

}  // namespace

void define_weights(napi_env env, napi_value exports) {
  define(env, exports,
         {{"openFile", open_file},
          {"openBytes", open_bytes},
          {"fileInfo", info_of_file},
          {"fileStrings", strings_of_file},
          {"fileNumbers", numbers_of_file},
          {"fileRead", read_of_file},
          {"fileDigest", digest_of_file},
          {"newSpecs", new_specs},
          {"addSpecs", add_specs},
          {"loadWeights", load_weights},
          {"weightsBytes", weights_bytes}});
}

}  // namespace crosscurrent::binding
