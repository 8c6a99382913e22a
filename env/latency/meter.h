#pragma once

#include <string>
#include <vector>

#include "env/base/clock.h"
#include "env/graph/network.h"

namespace espalier {

/// Measures how long a forward takes. Tests bring one of their own: nothing else here knows time.
class Meter {
 public:
  virtual ~Meter() = default;
  /// fresh: stored tensors that the op before would just have written.
  virtual double Milliseconds(const Network& network, const std::vector<Tensor>& inputs,
                              const std::vector<std::string>& fresh) = 0;
};

/// The device the tensors are on, as it is when nothing else runs.
///
/// Each measurement is the lower quartile of several: what disturbs one only ever adds time. Before
/// each the fresh tensors are written anew (they are in the cache), and weights of single ops come
/// in turn from copies that together exceed the inner caches (they are not).
class DeviceMeter final : public Meter {
 public:
  /// repeats: timed runs at least, more for what takes microseconds, fewer for what takes long.
  explicit DeviceMeter(int64_t repeats, Clock clock = SteadyClock());
  double Milliseconds(const Network& network, const std::vector<Tensor>& inputs,
                      const std::vector<std::string>& fresh) override;

 private:
  const int64_t repeats_;
  const Clock clock_;
};

}  // namespace espalier
