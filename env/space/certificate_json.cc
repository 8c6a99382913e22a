#include <nlohmann/json.hpp>

#include "env/base/error.h"
#include "env/graph/checked_json.h"
#include "env/space/certificate.h"

namespace espalier {

nlohmann::json ToJson(const Certificate& c) {
  return {{"format", "espalier-certificate"},
          {"version", 1},
          {"passed", c.passed},
          {"max_abs_error", c.max_abs_error},
          {"max_rel_error", c.max_rel_error},
          {"tolerance", c.tolerance},
          {"max_rel_error_f64", c.max_rel_error_f64},
          {"tolerance_f64", Certificate::kToleranceFloat64},
          {"invariance_exact", c.invariance_exact},
          {"invariance_units", c.invariance_units},
          {"control", c.control},
          {"noise", c.noise},
          {"failure", c.failure},
          {"source_sha256", c.source_sha256},
          {"pruned_sha256", c.pruned_sha256},
          {"plan_sha256", c.plan_sha256}};
}

Certificate CertificateFromJson(const nlohmann::json& json) {
  try {
    if (JsonMember(json, "format", TextOf) != "espalier-certificate" ||
        JsonMember(json, "version", IntOf) != 1)
      throw Error(ErrorKind::kModel, "not an espalier-certificate of version 1");
    Certificate c;
    c.passed = JsonMember(json, "passed", BoolOf);
    c.max_abs_error = JsonMember(json, "max_abs_error", NumberOf);
    c.max_rel_error = JsonMember(json, "max_rel_error", NumberOf);
    c.tolerance = JsonMember(json, "tolerance", NumberOf);
    c.max_rel_error_f64 = JsonMember(json, "max_rel_error_f64", NumberOf);
    c.invariance_exact = JsonMember(json, "invariance_exact", BoolOf);
    c.invariance_units = JsonMember(json, "invariance_units", IntOf);
    c.control = JsonMember(json, "control", NumberOf);
    if (json.contains("noise")) c.noise = JsonMember(json, "noise", NumberOf);
    c.failure = JsonMember(json, "failure", TextOf);
    c.source_sha256 = JsonMember(json, "source_sha256", TextOf);
    c.pruned_sha256 = JsonMember(json, "pruned_sha256", TextOf);
    c.plan_sha256 = JsonMember(json, "plan_sha256", TextOf);
    return c;
  } catch (const Error& error) {
    throw Error(ErrorKind::kModel, Str("certificate: ", error.message()));
  }
}

}  // namespace espalier
