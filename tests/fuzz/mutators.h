#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

#include "env/base/rng.h"

/// Ways to damage a file: some blind, some that know what a length or a checksum is and keep it
/// right, so that the damage reaches the code behind the first check.
namespace espalier::fuzz {

template <typename T>
const T& Pick(Rng& rng, const std::vector<T>& items) {
  return items[rng.Index(items.size())];
}
/// True once in `times` draws.
inline bool OneIn(Rng& rng, uint64_t times) { return rng.Index(times) == 0; }

/// Numbers at the edges of the integer types; small offsets around them included.
int64_t EdgeNumber(Rng& rng);
std::string LittleEndian(uint64_t value, size_t width);
std::string BigEndian(uint64_t value, size_t width);
uint32_t Crc32(std::string_view bytes);  ///< of zip and PNG

/// One to four of: bits flipped, bytes set, cut off, inserted, removed, blocks copied, edge numbers
/// written over little- or big-endian fields.
std::string DamageBytes(Rng& rng, std::string bytes);
/// The same with `words` of a text format inserted, and lines swapped or doubled.
std::string DamageText(Rng& rng, std::string text, const std::vector<std::string>& words);
/// One to three of: types swapped, edge numbers, members removed, doubled, renamed or exchanged for
/// others of the document, empty and huge values, deep nesting, duplicate keys, no JSON at all.
std::string DamageJson(Rng& rng, nlohmann::json document);

struct ZipEntry {
  std::string name;   ///< with the root folder
  std::string bytes;  ///< unpacked
};
/// What a directory can lie about.
struct ZipLies {
  bool deflate = false;          ///< all entries compressed (stored blocks of deflate)
  std::string field{};           ///< "size", "packed", "begin", "flags", ...: of the first
  size_t entry = 0;              ///< whose field lies
  int64_t value = 0;             ///< what it says
  bool zip64 = false;            ///< sizes in the zip64 field
  std::optional<size_t> bomb{};  ///< entry that is deflate already and claims `value` bytes
};
std::string PackZip(const std::vector<ZipEntry>& entries, const ZipLies& lies = {});
/// A deflate stream of about `megabytes` zeros in about a thousandth of that.
std::string ZeroBomb(uint64_t megabytes);
/// A good archive's entries, changed one way or other and packed again with right checksums.
std::string DamageZip(Rng& rng, std::vector<ZipEntry> entries);

std::string DamageSafetensors(Rng& rng, const std::string& good);
std::string DamagePng(Rng& rng, const std::string& good);

}  // namespace espalier::fuzz
