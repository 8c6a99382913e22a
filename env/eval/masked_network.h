#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "env/device/device_backend.h"
#include "env/eval/candidate_network.h"

namespace espalier {

/// Cuts of a Space at full width: what a cut takes out of a stored tensor is multiplied by zero
/// instead. Shapes never change, so one recording of a forward serves every candidate, at the cost
/// of the uncut network each: for devices on which launching operators takes longer than they do.
///
/// The first candidate is compared with its cut.
///
/// Errors   kConfig for a Space that this does not fit: statistics over units (layer norm) and
///          branches that can go, or whatever makes the first candidate differ from its cut.
/// Threads  none.
/// Memory   the masked weights, and what a forward holds, for the last two shapes of inputs.
class MaskedNetwork {
 public:
  /// The candidates must outlive this.
  explicit MaskedNetwork(const CandidateNetwork& candidates);

  /// What the cut network returns for prepared inputs. Overwritten by the next call with inputs of
  /// these shapes.
  const std::vector<Tensor>& Run(const Selection& selection, const std::vector<Tensor>& inputs);

  void Forget() { forwards_.clear(); }  ///< recordings and their memory

 private:
  struct Mask {
    std::string parameter;  // of network()
    int64_t axis = 0;
    int64_t first = 0;           // in all_
    std::vector<int64_t> shape;  // broadcasts to the parameter
    Tensor view;                 // of all_
  };
  struct Forward {
    std::vector<Tensor> inputs;
    std::unique_ptr<Recording> recording;
  };
  void SetMasks(const Selection& selection);
  void Check(const Selection& selection, const std::vector<Tensor>& inputs,
             const std::vector<Tensor>& outputs);
  std::vector<Tensor> RunMasked(const std::vector<Tensor>& inputs) const;
  Forward& ForwardOf(const std::vector<Tensor>& inputs);

  const CandidateNetwork& candidates_;
  at::Device device_ = at::kCPU;
  std::vector<Mask> masks_;
  bool checked_ = false;
  Tensor all_;  // float32, one mask after the other: one copy to the device sets them
  std::map<std::vector<std::vector<int64_t>>, Forward> forwards_;  // by sizes of the inputs
};

}  // namespace espalier
