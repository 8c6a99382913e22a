#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "env/graph/network.h"

namespace espalier::pt2 {

/// models/model.json of a network that was not read from an archive: everything is made here.
nlohmann::ordered_json NewProgram(const Network& network);

/// The same for a network that was: `program` is what its archive said. What still holds stays as
/// it is (metadata, symbols, guards, nesting of inputs and outputs); what the network says
/// otherwise (arguments, sizes, new stored tensors, other operators) follows the network.
nlohmann::ordered_json PatchedProgram(const Network& network, nlohmann::ordered_json program);

/// Turns names into distinct Python identifiers.
class NameTable {
 public:
  std::string Unique(std::string wanted);

 private:
  std::set<std::string> taken_;
};

/// An entry of tensor_values or of a tensor config. Errors: kModel for dtypes without a number.
nlohmann::ordered_json TensorMeta(at::ScalarType dtype, nlohmann::ordered_json sizes,
                                  nlohmann::ordered_json strides, nlohmann::ordered_json offset,
                                  bool requires_grad);
/// That of a stored tensor as its record holds it: contiguous, or with strides and offset kept.
nlohmann::ordered_json StoredMeta(const Tensor& tensor, bool is_parameter, bool keep_strides);

}  // namespace espalier::pt2
