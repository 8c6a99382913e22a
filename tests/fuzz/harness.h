#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "env/base/error.h"
#include "env/base/rng.h"
#include "env/base/tensor.h"

/// Hostile files: good ones are mutated and fed to a reader, which must either refuse them properly
/// or return something usable. Every mutant follows from its seed alone.
///
///   ESPALIER_FUZZ=100000      so many mutants a reader (default 2,000): the nightly run
///   ESPALIER_FUZZ_SEED=1234   this mutant alone, to look into a failure
namespace espalier::fuzz {

struct Target {
  std::string name;                         ///< of the reader; also names the random stream
  std::string file;                         ///< the mutant's file name, which every error must hold
  std::vector<std::string> good;            ///< whole files the reader takes
  std::function<std::string(Rng&)> mutate;  ///< the bytes of one mutant
  /// Reads the file and uses what it gets; throws what the reader throws.
  std::function<void(const std::filesystem::path&)> read;
  /// One of these must be in the error too: how the reader names entry or offset.
  std::vector<std::string> places;
  ErrorKind kind = ErrorKind::kModel;  ///< besides kIo
  /// Bytes a reader may allocate beyond four times the file: what it declares itself, and small
  /// change (parsed trees of a few KiB of JSON, buffers of the libraries).
  uint64_t allowance = uint64_t{2} << 20;
  double seconds = 5;  ///< of processor time a mutant: others may be using the machine
};

/// Plain and quick: no sync, and a new file rather than a cut one, for which ext4 waits.
void WriteBytes(const std::filesystem::path& path, const std::string& bytes);

/// Fails the running test, with the seed, for a mutant that
///   - takes more seconds of processor time than it may (the process ends, saying which),
///   - lets the reader allocate more than four times the file plus the allowance,
///   - comes out as anything else than an Error of the right kind that names file and place.
/// A crash prints the seed as well. Refused and accepted mutants must both occur.
void FuzzReader(const Target& target);

/// Reads every element's first and last byte with instrumented code (LibTorch's own is not).
void TouchAll(const Tensor& tensor);

}  // namespace espalier::fuzz
