#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace espalier {

/// Whole file as bytes. Errors: kIo naming the path; kIo when larger than max_bytes (0 = no limit).
std::string ReadFile(const std::filesystem::path& path, uint64_t max_bytes = 0);

/// Replaces `path` atomically: temporary name in the same folder, write, fsync, rename, fsync of
/// the folder. A crash at any instant leaves the old file or the new one. Creates parent folders.
/// Errors: kIo; kResource when the disk is full.
void WriteFileAtomic(const std::filesystem::path& path, std::string_view bytes);

/// The same for writers that need a path: `write(temporary)` fills it, then it is synced and
/// renamed. The temporary file is removed when `write` throws.
void WriteFileAtomic(const std::filesystem::path& path,
                     const std::function<void(const std::filesystem::path&)>& write);

/// Appends one line and fsyncs; used for journals. A torn last line is tolerated by readers.
void AppendLine(const std::filesystem::path& path, std::string_view line);

std::string Sha256Hex(std::string_view bytes);
std::string Sha256OfFile(const std::filesystem::path& path);

}  // namespace espalier
