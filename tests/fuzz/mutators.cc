#include "tests/fuzz/mutators.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "env/base/error.h"

namespace espalier::fuzz {
namespace {

using nlohmann::json;

/// Strings may have been damaged before: what is no UTF-8 is replaced.
std::string JsonText(const json& value, int indent = -1) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

std::string RandomBytes(Rng& rng, size_t count) {
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(rng.Next());
  return bytes;
}

void DamageOnce(Rng& rng, std::string& bytes) {
  if (bytes.empty()) bytes = RandomBytes(rng, 4);
  const size_t at = rng.Index(bytes.size());
  const size_t left = bytes.size() - at;
  switch (rng.Index(9)) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.Index(8)));
      return;
    case 1:
      bytes[at] = static_cast<char>(rng.Next());
      return;
    case 2:
      bytes.resize(at);
      return;
    case 3:
      bytes.insert(at, RandomBytes(rng, 1 + rng.Index(16)));
      return;
    case 4:
      bytes.erase(at, 1 + rng.Index(std::min<size_t>(left, 64)));
      return;
    case 5:  // a block somewhere else
      bytes.insert(rng.Index(bytes.size()), bytes.substr(at, 1 + rng.Index(200)));
      return;
    case 6: {  // a block over another
      const std::string block = bytes.substr(at, 1 + rng.Index(64));
      const size_t to = rng.Index(bytes.size());
      bytes.replace(to, std::min(block.size(), bytes.size() - to), block);
      return;
    }
    case 7:
      bytes.append(RandomBytes(rng, 1 + rng.Index(64)));
      return;
    default: {
      const size_t width = size_t{1} << rng.Index(4);
      const auto value = static_cast<uint64_t>(EdgeNumber(rng));
      const std::string field =
          OneIn(rng, 2) ? LittleEndian(value, width) : BigEndian(value, width);
      bytes.replace(at, std::min(width, left), field.substr(0, std::min(width, left)));
    }
  }
}

// ---- JSON ----

constexpr const char* kRaw = "@raw@";  // stands for a text that is not JSON

/// Every value of the document, the document itself first.
std::vector<json*> ValuesOf(json& document) {
  std::vector<json*> values = {&document};
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i]->is_structured())
      for (json& item : *values[i]) values.push_back(&item);
  return values;
}

/// A text to stand where a value was.
std::string RawText(Rng& rng, const json& value) {
  const size_t deep = size_t{1} << rng.Index(18);
  switch (rng.Index(12)) {
    case 0:
      return std::string(deep, '[') + std::string(deep, ']');
    case 1:
      return std::string(deep, '[');
    case 2: {
      std::string text;
      for (size_t i = 0; i < deep / 8; ++i) text += "{\"a\":";
      return text;
    }
    case 3:
      return Pick<std::string>(rng, {"1e999", "-1e999", "1e-999", "-0", "00", "1.", ".5", "+1"});
    case 4:
      return Pick<std::string>(rng, {"NaN", "Infinity", "-Infinity", "nul", "True", "'a'"});
    case 5:
      return std::string(1 + rng.Index(4000), '9');
    case 6:
      return Pick<std::string>(rng,
                               {"\"\\ud800\"", "\"\\u0000\"", "\"\xff\"", "\"\n\"", "\"\\x\""});
    case 7: {  // a key twice
      if (!value.is_object() || value.empty()) return "{\"a\":1,\"a\":2}";
      std::string text = JsonText(value);
      text.insert(text.size() - 1,
                  Str(",", JsonText(value.begin().key()), ":", JsonText(*value.begin())));
      return text;
    }
    case 8:
      return "\"" + std::string(rng.Index(70'000), 'a') + "\"";
    case 9: {
      std::string text = "[0";
      for (uint64_t i = rng.Index(20'000); i > 0; --i) text += ",1";
      return text + "]";
    }
    case 10:
      return JsonText(value) + Pick<std::string>(rng, {",", "]", "}", " 1", "//"});
    default:
      return "";
  }
}

json OtherType(Rng& rng) {
  switch (rng.Index(9)) {
    case 0:
      return nullptr;
    case 1:
      return OneIn(rng, 2);
    case 2:
      return EdgeNumber(rng);
    case 3:
      return static_cast<uint64_t>(EdgeNumber(rng));
    case 4:
      return Pick<double>(rng, {0.5, -0.5, 1e308, -1e308, 5e-324, 9.3e18, 1.8446744073709552e19});
    case 5:
      return Pick<std::string>(rng,
                               {"", "a", "../../etc/passwd", "/dev/zero", "%s%n", "0", "as_int"});
    case 6:
      return json::array();
    case 7:
      return json::object();
    default:
      return json::array({json::array({1}), "a", nullptr});
  }
}

void DamageMember(Rng& rng, json& parent) {
  if (parent.empty()) return;
  const size_t at = rng.Index(parent.size());
  if (parent.is_array()) {
    const auto item = parent.begin() + static_cast<std::ptrdiff_t>(at);
    const size_t action = rng.Index(3);
    if (action == 0) parent.erase(item);
    if (action == 1) parent.push_back(json(*item));
    if (action == 2) std::swap(*item, parent.front());
    return;
  }
  auto item = parent.begin();
  std::advance(item, at);
  const json value = *item;
  const std::string key = item.key();
  const size_t action = rng.Index(4);
  if (action == 0 || action == 1) parent.erase(key);
  if (action == 1) parent[key + Pick<std::string>(rng, {"_", "0", ".", "/..", "\n"})] = value;
  if (action == 2)
    parent[Pick<std::string>(rng, {"", "0", "00", "-1", "as_int", key + "2"})] = value;
  if (action == 3) parent[parent.begin().key()] = value;
}

void DamageJsonOnce(Rng& rng, json& document, std::string& raw) {
  const std::vector<json*> values = ValuesOf(document);
  json& value = *Pick(rng, values);
  switch (rng.Index(6)) {
    case 0:
      value = OtherType(rng);
      return;
    case 1: {  // of the same kind, from elsewhere in the document
      std::vector<const json*> alike;
      for (const json* other : values)
        if (other->type() == value.type()) alike.push_back(other);
      const json copy = *Pick(rng, alike);
      value = copy;
      return;
    }
    case 2: {
      const json copy = *Pick(rng, values);
      value = copy;
      return;
    }
    case 3:
      if (value.is_number()) value = EdgeNumber(rng);
      if (value.is_boolean()) value = !value.get<bool>();
      if (value.is_string()) value = DamageBytes(rng, value.get<std::string>());
      [[fallthrough]];
    case 4:
      if (value.is_structured()) DamageMember(rng, value);
      return;
    default:
      if (!raw.empty()) return;
      raw = RawText(rng, value);
      value = kRaw;
  }
}

}  // namespace

int64_t EdgeNumber(Rng& rng) {
  static const std::vector<int64_t> edges = {0,
                                             1,
                                             2,
                                             127,
                                             255,
                                             256,
                                             32767,
                                             65535,
                                             65536,
                                             int64_t{1} << 24,
                                             (int64_t{1} << 31) - 1,
                                             int64_t{1} << 31,
                                             (int64_t{1} << 32) - 1,
                                             int64_t{1} << 32,
                                             int64_t{1} << 40,
                                             int64_t{1} << 53,
                                             int64_t{1} << 61,
                                             int64_t{1} << 62,
                                             std::numeric_limits<int64_t>::max(),
                                             std::numeric_limits<int64_t>::min(),
                                             -1,
                                             -2,
                                             -128,
                                             -65536};
  const auto edge = static_cast<uint64_t>(Pick(rng, edges));
  return static_cast<int64_t>(edge + (OneIn(rng, 3) ? rng.Index(9) - 4 : 0));  // wraps
}

std::string LittleEndian(uint64_t value, size_t width) {
  std::string bytes;
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::string BigEndian(uint64_t value, size_t width) {
  std::string bytes = LittleEndian(value, width);
  std::reverse(bytes.begin(), bytes.end());
  return bytes;
}

uint32_t Crc32(std::string_view bytes) {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> made(256);
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
      made[i] = value;
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (const char byte : bytes)
    crc = crc >> 8 ^ table[(crc ^ static_cast<unsigned char>(byte)) & 255];
  return ~crc;
}

std::string DamageBytes(Rng& rng, std::string bytes) {
  for (uint64_t i = 1 + rng.Index(4); i > 0; --i) DamageOnce(rng, bytes);
  return bytes;
}

std::string DamageText(Rng& rng, std::string text, const std::vector<std::string>& words) {
  for (uint64_t i = 1 + rng.Index(3); i > 0; --i) {
    const size_t at = text.empty() ? 0 : rng.Index(text.size());
    const size_t begin = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;  // of a line; npos + 1 = 0
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(begin, end - begin) + "\n";
    switch (rng.Index(6)) {
      case 0:
        text.insert(at, Pick(rng, words));
        break;
      case 1:
        text.insert(begin, Pick(rng, words) + "\n");
        break;
      case 2:  // instead of the value
        if (const size_t equals = line.find('='); equals != std::string::npos)
          text.replace(begin + equals + 1, line.size() - equals - 2, Pick(rng, words));
        break;
      case 3:
        text.insert(begin, line);
        break;
      case 4:
        text.erase(begin, std::min(line.size(), text.size() - begin));
        break;
      default:
        text = DamageBytes(rng, text);
    }
  }
  return text;
}

std::string DamageJson(Rng& rng, json document) {
  std::string raw;
  for (uint64_t i = 1 + rng.Index(3); i > 0; --i) DamageJsonOnce(rng, document, raw);
  std::string text = JsonText(document, OneIn(rng, 8) ? 1 : -1);
  const std::string mark = Str('"', kRaw, '"');
  if (const size_t at = text.find(mark); at != std::string::npos)
    text.replace(at, mark.size(), raw);
  return text;
}

}  // namespace espalier::fuzz
