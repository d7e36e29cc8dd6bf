// Strings that come from files: validation, and safe forms for messages and JSON.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace crosscurrent {

// Length of the well-formed UTF-8 sequence at the start of `text`; 0 when there is none (overlong forms,
// surrogates and code points above U+10FFFF are not well-formed).
size_t utf8_sequence(std::string_view text);

bool is_utf8(std::string_view text);

// For messages: control and non-UTF-8 bytes as \xNN, long names cut in the middle.
std::string printable(std::string_view text);

// With quotes; bytes that are not UTF-8 become U+FFFD.
void append_json_string(std::string& json, std::string_view text);

}  // namespace crosscurrent
