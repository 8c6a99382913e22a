#pragma once

#include <map>
#include <string>
#include <vector>

#include "criteria/statistics.h"
#include "env/graph/executor.h"

namespace espalier::internal {

/// Moments and ranks of the values where units are read, batch by batch.
class ReadCollector {
 public:
  ReadCollector(const Space& space, const Needs& needs, const Calibration& calibration);
  void AddTaps(std::vector<Tap>& taps);
  void Finish(Statistics& statistics) const;

 private:
  /// One way of seeing one value: reads of equal places share it.
  struct View {
    ValueId value = kNoValue;
    int64_t axis = 1;
    std::vector<int64_t> shape;           // with axis -1
    bool transposed = false;              // the last two axes, for what a matrix product reads
    Tensor absolute{}, square{}, rank{};  // sums over batches of means, [coordinates] float64
    int64_t batches = 0;
  };
  struct Place {
    size_t read = 0;  // in space.reads()
    size_t view = 0;
    int64_t partner = -1;  // view of what an attention's queries are multiplied with
  };
  size_t FindView(View wanted);
  int64_t FindPartner(const ReadPoint& read);
  void Record(View& view, const Tensor& value) const;
  Tensor Coordinates(const View& view, const Tensor& value, bool mean) const;

  const Space& space_;
  const bool moments_, ranks_;
  const int64_t max_rank_samples_;
  std::vector<View> views_;
  std::vector<Place> places_;
};

/// Moments of what consumers multiply, or the layers that make values, batch by batch.
class GramCollector {
 public:
  GramCollector(const Space& space, const ParameterStore& store, const Needs& needs,
                const Calibration& calibration);
  void AddTaps(std::vector<Tap>& taps);
  void Finish(Statistics& statistics) const;

 private:
  struct Layer {
    int32_t op = -1;
    std::string weight;  // canonical
    int64_t columns = 0;
    bool whole = false;                 // the matrix, not only its diagonal
    Tensor gram{}, diagonal{}, mean{};  // sums, float64
    double positions = 0;
  };
  void Record(Layer& layer, const Tensor& input) const;

  const Space& space_;
  const ParameterStore& store_;
  std::vector<Layer> layers_;
};

}  // namespace espalier::internal
