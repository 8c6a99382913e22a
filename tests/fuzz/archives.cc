// Mutators of the binary containers: zip, safetensors, PNG.

#include <algorithm>

#include "env/base/error.h"
#include "tests/fuzz/mutators.h"

namespace espalier::fuzz {
namespace {

using nlohmann::json;

/// Deflate without compression: stored blocks.
std::string StoredBlocks(const std::string& bytes) {
  constexpr size_t kLongest = 0xffff;
  std::string out;
  for (size_t at = 0; at == 0 || at < bytes.size(); at += kLongest) {
    const size_t size = std::min(kLongest, bytes.size() - at);
    out += at + size == bytes.size() ? '\1' : '\0';
    out += LittleEndian(size, 2) + LittleEndian(~size & 0xffff, 2) + bytes.substr(at, size);
  }
  return out;
}

json ParsedOr(const std::string& text, const json& otherwise) {
  const json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return parsed.is_discarded() ? otherwise : parsed;
}

uint64_t ReadBigEndian(const std::string& bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

}  // namespace

std::string ZeroBomb(uint64_t megabytes) {
  // One block with fixed codes: a zero, then "258 bytes at distance 1" again and again.
  std::string out;
  uint32_t pending = 0;
  int count = 0;
  const auto bits = [&](uint32_t value, int width) {  // lowest bit first
    for (int i = 0; i < width; ++i) {
      pending |= (value >> i & 1) << count;
      if (++count < 8) continue;
      out += static_cast<char>(pending);
      pending = 0;
      count = 0;
    }
  };
  bits(1, 1);           // the last block
  bits(1, 2);           // fixed codes
  bits(0b00001100, 8);  // literal 0: code 00110000, highest bit first
  for (uint64_t i = 0; i < megabytes * (1 << 20) / 258; ++i) {
    bits(0b10100011, 8);  // length 258: code 11000101, highest bit first
    bits(0, 5);           // distance 1
  }
  bits(0, 7);  // end of block
  bits(0, 7);  // fill the last byte
  return out;
}

std::string PackZip(const std::vector<ZipEntry>& entries, const ZipLies& lies) {
  std::string out, directory;
  const auto number = [&](size_t entry, const char* field, uint64_t value, size_t width) {
    const bool lie = lies.field == field && lies.entry == entry;
    return LittleEndian(lie ? static_cast<uint64_t>(lies.value) : value, width);
  };
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& [name, bytes] = entries[i];
    const bool bomb = lies.bomb == i;
    const std::string packed = lies.deflate && !bomb ? StoredBlocks(bytes) : bytes;
    const uint64_t size = bomb ? static_cast<uint64_t>(lies.value) : bytes.size();
    const bool wide = lies.zip64;
    std::string middle = number(i, "flags", 0, 2) +
                         number(i, "method", lies.deflate || bomb ? 8 : 0, 2) +
                         LittleEndian(0, 4);  // and a time
    middle += number(i, "checksum", Crc32(bytes), 4);
    const std::string sizes =
        wide ? LittleEndian(UINT32_MAX, 4) + LittleEndian(UINT32_MAX, 4)
             : number(i, "packed", packed.size(), 4) + number(i, "size", size, 4);
    const std::string extra = wide ? LittleEndian(1, 2) + number(i, "extra", 16, 2) +
                                         number(i, "size", size, 8) +
                                         number(i, "packed", packed.size(), 8)
                                   : "";
    const std::string names = number(i, "name_size", name.size(), 2);
    directory += "PK\1\2" + LittleEndian(45, 2) + LittleEndian(45, 2) + middle + sizes + names +
                 number(i, "extra_size", extra.size(), 2) + number(i, "comment_size", 0, 2) +
                 LittleEndian(0, 8) + number(i, "begin", out.size(), 4) + name + extra;
    out += number(i, "mark", 0x04034b50, 4) + LittleEndian(45, 2) + middle + sizes +
           number(i, "local_name_size", name.size(), 2) + number(i, "local_extra", 0, 2) + name +
           packed;
  }
  const uint64_t begin = out.size();
  const std::string count = number(0, "count", entries.size(), 2);
  return out + directory + "PK\5\6" + number(0, "disk", 0, 2) + LittleEndian(0, 2) + count + count +
         number(0, "directory_size", directory.size(), 4) + number(0, "directory_begin", begin, 4) +
         number(0, "comment", 0, 2);
}

std::string DamageZip(Rng& rng, std::vector<ZipEntry> entries) {
  static const std::vector<std::string> fields = {
      "flags",          "method",          "checksum",    "packed", "size",
      "extra",          "name_size",       "extra_size",  "begin",  "comment_size",
      "mark",           "local_name_size", "local_extra", "count",  "disk",
      "directory_size", "directory_begin", "comment"};
  ZipEntry& entry = entries[rng.Index(entries.size())];
  ZipLies lies{.deflate = OneIn(rng, 4), .zip64 = OneIn(rng, 4)};
  switch (rng.Index(8)) {
    case 0:
    case 1:
    case 2: {  // most often the text of the model: it is what the reader is about
      ZipEntry& text =
          OneIn(rng, 3)
              ? entry
              : *std::max_element(
                    entries.begin(), entries.end(), [](const ZipEntry& a, const ZipEntry& b) {
                      return a.name.ends_with(".json") < b.name.ends_with(".json") ||
                             (a.name.ends_with(".json") == b.name.ends_with(".json") &&
                              a.bytes.size() < b.bytes.size());
                    });
      const json parsed = ParsedOr(text.bytes, nullptr);
      text.bytes = parsed.is_structured() ? DamageJson(rng, parsed) : DamageBytes(rng, text.bytes);
      break;
    }
    case 3:
      entry.bytes = DamageBytes(rng, entry.bytes);
      break;
    case 4:
      lies.entry = rng.Index(entries.size());
      lies.field = Pick(rng, fields);
      if (OneIn(rng, 2) || lies.field == "count" || lies.field.starts_with("d")) lies.entry = 0;
      lies.value = EdgeNumber(rng);
      break;
    case 5: {
      const std::string root = entry.name.substr(0, entry.name.find('/'));
      const std::string rest = entry.name.substr(root.size() + 1);
      entry.name = Pick<std::string>(
          rng, {root + "/../" + rest, "/" + entry.name, root + "//" + rest, "../" + entry.name,
                root + "/./" + rest, root + "\\" + rest, "other/" + rest, rest, "",
                root + "/" + std::string(600, 'a'), root + "/a\nb", Str(root, "/a", '\0', "b"),
                "C:\\" + rest, root + "/extra/" + rest, root + "/" + rest + "/", root});
      break;
    }
    case 6: {
      const size_t action = rng.Index(3);
      if (action == 0) entries.push_back(ZipEntry(entry));  // twice
      if (action == 1)
        entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(rng.Index(entries.size())));
      if (action == 2) std::swap(entry.bytes, entries[rng.Index(entries.size())].bytes);
      break;
    }
    default: {
      static const std::string bomb = ZeroBomb(64);
      entry.bytes = bomb;
      lies.bomb = static_cast<size_t>(&entry - entries.data());
      lies.value = OneIn(rng, 2) ? int64_t{64} << 20 : EdgeNumber(rng);
    }
  }
  std::string bytes = PackZip(entries, lies);
  return OneIn(rng, 12) ? DamageBytes(rng, bytes) : bytes;
}

std::string DamageSafetensors(Rng& rng, const std::string& good) {
  if (OneIn(rng, 5)) return DamageBytes(rng, good);
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(good[i]);
  std::string header = good.substr(8, length), data = good.substr(8 + length);
  json parsed = json::parse(header);
  std::vector<std::string> names;
  for (const auto& [name, item] : parsed.items())
    if (name != "__metadata__") names.push_back(name);
  json& tensor = parsed[Pick(rng, names)];
  json& other = parsed[Pick(rng, names)];
  switch (rng.Index(8)) {
    case 0:
      tensor["dtype"] = Pick<std::string>(
          rng, {"F32", "F64", "U8", "BOOL", "I64", "F8_E4M3", "F16", "C64", "f32", "", "U64"});
      break;
    case 1:
      tensor["shape"] = json::array();
      for (uint64_t i = rng.Index(70); i > 0; --i)
        tensor["shape"].push_back(OneIn(rng, 3) ? EdgeNumber(rng) : int64_t{1});
      break;
    case 2:
      tensor["data_offsets"][rng.Index(2)] = EdgeNumber(rng);
      break;
    case 3:
      std::swap(tensor["data_offsets"], other["data_offsets"]);
      break;
    case 4:  // the whole data as one tensor, or as several
      tensor["data_offsets"] = {0, data.size()};
      tensor["dtype"] = "U8";
      tensor["shape"] = {data.size()};
      break;
    case 5:
      data = DamageBytes(rng, data);
      break;
    case 6:
      header.append(rng.Index(64), ' ');
      return LittleEndian(static_cast<uint64_t>(EdgeNumber(rng)), 8) + header + data;
    default:
      header = DamageJson(rng, parsed);
      return LittleEndian(header.size(), 8) + header + data;
  }
  header = parsed.dump();
  return LittleEndian(header.size(), 8) + header + data;
}

std::string DamagePng(Rng& rng, const std::string& good) {
  if (OneIn(rng, 4)) return DamageBytes(rng, good);
  struct Chunk {
    std::string type, data;
  };
  std::vector<Chunk> chunks;
  for (size_t at = 8; at + 12 <= good.size();) {
    const size_t length = ReadBigEndian(good, at);
    chunks.push_back({good.substr(at + 4, 4), good.substr(at + 8, length)});
    at += 12 + length;
  }
  const size_t at = rng.Index(chunks.size());
  const auto place = chunks.begin() + static_cast<std::ptrdiff_t>(at);
  switch (rng.Index(7)) {
    case 0:
      chunks[at].data = DamageBytes(rng, chunks[at].data);
      break;
    case 1: {  // a field of the header: sizes, depth, colour, methods
      const size_t field = rng.Index(7);
      const size_t width = field < 2 ? 4 : 1, offset = field < 2 ? 4 * field : 6 + field;
      chunks[0].data.replace(offset, width,
                             BigEndian(static_cast<uint64_t>(EdgeNumber(rng)), width));
      break;
    }
    case 2:
      chunks.erase(place);
      break;
    case 3:
      chunks.insert(place, Chunk(chunks[at]));
      break;
    case 4:
      std::swap(chunks[at], chunks[rng.Index(chunks.size())]);
      break;
    case 5: {
      static const std::string bomb = "\x78\x9c" + ZeroBomb(8);  // a zlib header before deflate
      const std::string type = Pick<std::string>(
          rng, {"zTXt", "iTXt", "iCCP", "PLTE", "tRNS", "gAMA", "sPLT", "eXIf", "IDAT", "abcd"});
      chunks.insert(chunks.begin() + 1,
                    {type, OneIn(rng, 2) ? Str("name", '\0', '\0', bomb) : bomb});
      break;
    }
    default:
      chunks[at].type = DamageBytes(rng, chunks[at].type).substr(0, 4);
      chunks[at].type.resize(4, 'a');
  }
  std::string out = good.substr(0, 8);
  for (const Chunk& chunk : chunks)
    out += BigEndian(chunk.data.size(), 4) + chunk.type + chunk.data +
           BigEndian(Crc32(chunk.type + chunk.data), 4);
  return out;
}

}  // namespace espalier::fuzz
