#include "env/base/rng.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <numeric>

#include "env/base/error.h"

namespace espalier {
namespace {

constexpr uint64_t kGoldenGamma = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio, odd
constexpr char kStateTag[] = "xoshiro256**";

/// Finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014, constants of variant 13 by Stafford): a bijection that mixes every bit.
uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

uint64_t Fnv1a(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

std::string Hex(uint64_t value) {
  char digits[16];
  const auto end = std::to_chars(digits, digits + sizeof digits, value, 16).ptr;
  return {digits, end};
}

[[noreturn]] void ThrowBadState(const std::string& state) {
  throw Error(ErrorKind::kIo, Str("not a saved random state: '", state.substr(0, 80),
                                  "' (expected '", kStateTag, "' and six hexadecimal numbers)"));
}

}  // namespace

uint64_t StreamSeed(uint64_t run_seed, uint64_t trial_id, std::string_view purpose) {
  // Mixed one after the other, so that (1, 2) and (2, 1) are different streams.
  uint64_t hash = Mix(run_seed + kGoldenGamma);
  hash = Mix((hash ^ trial_id) + kGoldenGamma);
  return Mix((hash ^ Fnv1a(purpose)) + kGoldenGamma);
}

Rng::Rng(uint64_t seed) {
  for (uint64_t& word : state_) word = Mix(seed += kGoldenGamma);  // SplitMix64, as the authors ask
}

uint64_t Rng::Next() {
  const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

double Rng::Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

double Rng::Uniform(double low, double high) {
  ESPALIER_CHECK(low <= high, "Uniform(", low, ", ", high, ")");
  return low + (high - low) * Uniform();
}

double Rng::Normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  double u, v, square;  // a point in the unit disc, not its centre
  do {
    u = 2 * Uniform() - 1;
    v = 2 * Uniform() - 1;
    square = u * u + v * v;
  } while (square >= 1 || square == 0);
  const double scale = std::sqrt(-2 * std::log(square) / square);
  spare_normal_ = v * scale;
  has_spare_ = true;
  return u * scale;
}

uint64_t Rng::Index(uint64_t count) {
  ESPALIER_CHECK(count > 0, "Index of nothing");
  // Values below 2^64 mod count are drawn again: the rest is a whole number of times `count`.
  const uint64_t surplus = -count % count;
  uint64_t draw;
  do draw = Next();
  while (draw < surplus);
  return draw % count;
}

std::vector<int64_t> Rng::Permutation(int64_t count) {
  ESPALIER_CHECK(count >= 0, "Permutation(", count, ")");
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t last = count - 1; last > 0; --last) std::swap(order[last], order[Index(last + 1)]);
  return order;
}

std::string Rng::SaveState() const {
  std::string text = kStateTag;
  for (const uint64_t word : state_) text += " " + Hex(word);
  return text + " " + Hex(has_spare_) + " " + Hex(std::bit_cast<uint64_t>(spare_normal_));
}

void Rng::LoadState(const std::string& state) {
  std::istringstream in(state);
  std::string tag, token, rest;
  std::array<uint64_t, 6> words{};
  in >> tag;
  if (tag != kStateTag) ThrowBadState(state);
  for (uint64_t& word : words) {
    if (!(in >> token)) ThrowBadState(state);
    const char* const end = token.data() + token.size();
    const auto [stop, problem] = std::from_chars(token.data(), end, word, 16);
    if (problem != std::errc() || stop != end) ThrowBadState(state);
  }
  // All zero is the one state the generator never leaves.
  if (in >> rest || words[4] > 1 || (words[0] | words[1] | words[2] | words[3]) == 0)
    ThrowBadState(state);
  std::copy_n(words.begin(), 4, state_.begin());
  has_spare_ = words[4] == 1;
  spare_normal_ = std::bit_cast<double>(words[5]);
}

}  // namespace espalier
