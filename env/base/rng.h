#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

/// Seed of a named stream: hash of (run seed, trial id, purpose), so that worker count, order and
/// resume cannot change what a stream draws. SplitMix64 finaliser over FNV-1a of the purpose.
uint64_t StreamSeed(uint64_t run_seed, uint64_t trial_id, std::string_view purpose);

/// Portable random numbers (xoshiro256**): the same draws on every standard library.
///
/// Source   Blackman, Vigna, "Scrambled linear pseudorandom number generators", TOMS 2021.
/// State    256 bits plus the cached second normal; SaveState/LoadState keep all of it.
class Rng {
 public:
  explicit Rng(uint64_t seed);
  Rng(uint64_t run_seed, uint64_t trial_id, std::string_view purpose)
      : Rng(StreamSeed(run_seed, trial_id, purpose)) {}

  uint64_t Next();   ///< uniform over all 64-bit values
  double Uniform();  ///< in [0, 1), 53 random bits
  double Uniform(double low, double high);
  double Normal();                                  ///< mean 0, standard deviation 1 (polar method)
  uint64_t Index(uint64_t count);                   ///< uniform in [0, count), unbiased; count > 0
  std::vector<int64_t> Permutation(int64_t count);  ///< Fisher-Yates of 0..count-1

  std::string SaveState() const;             ///< printable
  void LoadState(const std::string& state);  ///< throws kIo on anything SaveState did not write

 private:
  std::array<uint64_t, 4> state_{};
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

}  // namespace espalier
